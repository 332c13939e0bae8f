package granary;

import java.util.Arrays;
import java.util.NoSuchElementException;
import java.util.PrimitiveIterator;
import java.util.function.IntPredicate;

/**
 * A boolean matrix in which most rows hold few bits. Each row keeps only its non-zero 64-bit
 * blocks, sorted by block number.
 */
public final class SparseBitMatrix {

    private static final int BLOCK_SHIFT = 6;
    private static final long ALL_ONES = ~0L;

    private static final class Row {
        int[] blocks = new int[2];
        long[] bits = new long[2];
        int used;

        int locate(int block) {
            return Arrays.binarySearch(blocks, 0, used, block);
        }

        boolean or(int block, long mask) {
            int at = locate(block);
            if (at >= 0) {
                long before = bits[at];
                bits[at] |= mask;
                return bits[at] != before;
            }
            if (mask == 0) {
                return false;
            }
            int slot = -at - 1;
            if (used == blocks.length) {
                blocks = Arrays.copyOf(blocks, used * 2);
                bits = Arrays.copyOf(bits, used * 2);
            }
            System.arraycopy(blocks, slot, blocks, slot + 1, used - slot);
            System.arraycopy(bits, slot, bits, slot + 1, used - slot);
            blocks[slot] = block;
            bits[slot] = mask;
            used++;
            return true;
        }

        boolean andNot(int block, long mask) {
            int at = locate(block);
            if (at < 0 || (bits[at] & mask) == 0) {
                return false;
            }
            bits[at] &= ~mask;
            if (bits[at] == 0) {
                used--;
                System.arraycopy(blocks, at + 1, blocks, at, used - at);
                System.arraycopy(bits, at + 1, bits, at, used - at);
            }
            return true;
        }
    }

    private final int columns;
    private final Row[] rows;

    public SparseBitMatrix(int rowCount, int columns) {
        if (rowCount < 0 || columns < 0) {
            throw new IllegalArgumentException("negative shape " + rowCount + "x" + columns);
        }
        this.rows = new Row[rowCount];
        this.columns = columns;
    }

    public boolean get(int row, int column) {
        check(row, column);
        Row r = rows[row];
        if (r == null) {
            return false;
        }
        int at = r.locate(column >>> BLOCK_SHIFT);
        return at >= 0 && (r.bits[at] & (1L << column)) != 0;
    }

    /** @return whether the matrix changed */
    public boolean set(int row, int column, boolean on) {
        check(row, column);
        long mask = 1L << column;
        int block = column >>> BLOCK_SHIFT;
        if (!on) {
            return rows[row] != null && rows[row].andNot(block, mask);
        }
        return rowForWrite(row).or(block, mask);
    }

    public void setRange(int row, int from, int until) {
        if (from >= until) {
            return;
        }
        check(row, from);
        check(row, until - 1);
        int first = from >>> BLOCK_SHIFT;
        int last = (until - 1) >>> BLOCK_SHIFT;
        Row r = rowForWrite(row);
        for (int block = first; block <= last; block++) {
            long mask = ALL_ONES;
            if (block == first) {
                mask <<= from;
            }
            if (block == last) {
                mask &= ALL_ONES >>> -until;
            }
            r.or(block, mask);
        }
    }

    /** Folds the source row into the target row and reports whether that added anything. */
    public boolean orRow(int target, int source) {
        Row from = rows[source];
        if (from == null || target == source) {
            return false;
        }
        Row into = rowForWrite(target);
        boolean changed = false;
        for (int i = 0; i < from.used; i++) {
            changed |= into.or(from.blocks[i], from.bits[i]);
        }
        return changed;
    }

    public boolean rowsIntersect(int a, int b) {
        Row x = rows[a];
        Row y = rows[b];
        if (x == null || y == null) {
            return false;
        }
        int i = 0;
        int j = 0;
        while (i < x.used && j < y.used) {
            int order = Integer.compare(x.blocks[i], y.blocks[j]);
            if (order == 0) {
                if ((x.bits[i++] & y.bits[j++]) != 0) {
                    return true;
                }
            } else if (order < 0) {
                i++;
            } else {
                j++;
            }
        }
        return false;
    }

    /** Warshall's closure on a square matrix read as a relation. */
    public void closeTransitively(IntPredicate mayPassThrough) {
        if (rows.length != columns) {
            throw new IllegalStateException("closure needs a square matrix, not "
                    + rows.length + "x" + columns);
        }
        for (int via = 0; via < columns; via++) {
            if (rows[via] == null || !mayPassThrough.test(via)) {
                continue;
            }
            for (int row = 0; row < rows.length; row++) {
                if (row != via && get(row, via)) {
                    orRow(row, via);
                }
            }
        }
    }

    public int cardinality(int row) {
        Row r = rows[row];
        int count = 0;
        for (int i = 0; r != null && i < r.used; i++) {
            count += Long.bitCount(r.bits[i]);
        }
        return count;
    }

    public PrimitiveIterator.OfInt columnsOf(int row) {
        final Row r = rows[row] == null ? new Row() : rows[row];
        return new PrimitiveIterator.OfInt() {
            private int at = 0;
            private long left = r.used > 0 ? r.bits[0] : 0L;

            @Override
            public boolean hasNext() {
                return left != 0L;
            }

            @Override
            public int nextInt() {
                if (left == 0L) {
                    throw new NoSuchElementException("row " + row + " has no further columns");
                }
                int column = (r.blocks[at] << BLOCK_SHIFT) + Long.numberOfTrailingZeros(left);
                left &= left - 1;
                if (left == 0L && ++at < r.used) {
                    left = r.bits[at];
                }
                return column;
            }
        };
    }

    private Row rowForWrite(int row) {
        if (rows[row] == null) {
            rows[row] = new Row();
        }
        return rows[row];
    }

    private void check(int row, int column) {
        if (row < 0 || row >= rows.length || column < 0 || column >= columns) {
            throw new IndexOutOfBoundsException("(" + row + ", " + column + ") is outside a "
                    + rows.length + "x" + columns + " matrix");
        }
    }
}
