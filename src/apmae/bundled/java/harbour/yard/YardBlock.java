package harbour.yard;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;

/**
 * One block of the container yard: bays of up to 64 rows, each row a stack.
 * Rows that can still take a box are tracked as one bit per row.
 */
public final class YardBlock {

    private static final int MAX_ROWS = Long.SIZE;

    private final int rows;
    private final int maxTier;
    private final long[] open;
    private final byte[][] heights;
    private final ContainerNumber[][][] slots;
    private final Map<ContainerNumber, Position> index = new HashMap<>();

    public YardBlock(int bays, int rows, int maxTier) {
        if (bays <= 0 || rows <= 0 || rows > MAX_ROWS || maxTier < 1 || maxTier > 7) {
            throw new IllegalArgumentException(
                    String.format("impossible block: %d bays, %d rows, %d tiers", bays, rows, maxTier));
        }
        this.rows = rows;
        this.maxTier = maxTier;
        this.open = new long[bays];
        this.heights = new byte[bays][rows];
        this.slots = new ContainerNumber[bays][rows][maxTier];
        Arrays.fill(open, rows == MAX_ROWS ? -1L : (1L << rows) - 1);
    }

    /** Puts the box on the lowest open stack, nearest to the preferred bay. */
    public Position store(ContainerNumber box, int preferredBay) {
        if (index.containsKey(box)) {
            throw new IllegalStateException(box + " is already in this block");
        }
        for (int distance = 0; distance < open.length; distance++) {
            for (int bay : new int[] {preferredBay - distance, preferredBay + distance}) {
                if (bay < 0 || bay >= open.length || open[bay] == 0L) {
                    continue;
                }
                int row = lowestOpenRow(bay);
                int tier = heights[bay][row]++;
                slots[bay][row][tier] = box;
                if (tier + 1 == maxTier) {
                    open[bay] &= ~(1L << row);
                }
                Position position = new Position(bay, row, tier);
                index.put(box, position);
                return position;
            }
        }
        throw new IllegalStateException("block is full");
    }

    private int lowestOpenRow(int bay) {
        int best = -1;
        for (long left = open[bay]; left != 0; left &= left - 1) {
            int row = Long.numberOfTrailingZeros(left);
            if (best < 0 || heights[bay][row] < heights[bay][best]) {
                best = row;
            }
        }
        return best;
    }

    /** Number of boxes that sit on top of the given one, or -1 if it is not here. */
    public int digDepth(ContainerNumber box) {
        Position at = index.get(box);
        return at == null ? -1 : heights[at.bay()][at.row()] - at.tier() - 1;
    }

    public boolean retrieve(ContainerNumber box) {
        if (digDepth(box) != 0) {
            return false;
        }
        Position at = index.remove(box);
        slots[at.bay()][at.row()][at.tier()] = null;
        heights[at.bay()][at.row()]--;
        open[at.bay()] |= 1L << at.row();
        return true;
    }

    public Optional<Position> locate(ContainerNumber box) {
        return Optional.ofNullable(index.get(box));
    }

    public double fillRatio() {
        return index.size() / (double) (open.length * rows * maxTier);
    }

    public int openStacks() {
        return Arrays.stream(open).mapToInt(Long::bitCount).sum();
    }

    /** Bay, row and tier; packs into one int for the crane's wire protocol. */
    public record Position(int bay, int row, int tier) {

        public int pack() {
            return (bay & 0xFFFF) << 16 | (row & 0xFF) << 8 | tier & 0xFF;
        }

        public static Position unpack(int packed) {
            return new Position(packed >>> 16, (packed >>> 8) & 0xFF, packed & 0xFF);
        }
    }
}
