package cellar;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalLong;

/**
 * Maps every n-th key of a sorted run to its file offset, plus a small bloom filter that lets most lookups
 * for absent keys return without touching the disk.
 */
public final class SparseIndex {

    private static final int PROBES = 4;
    private static final int BITS_PER_KEY = 10;

    private final byte[][] keys;
    private final long[] offsets;
    private final long[] bloom;

    private SparseIndex(byte[][] keys, long[] offsets, long[] bloom) {
        this.keys = keys;
        this.offsets = offsets;
        this.bloom = bloom;
    }

    public record Located(byte[] key, long offset) {
    }

    public static SparseIndex build(List<Located> run, int stride) {
        int words = Math.max(1, (run.size() * BITS_PER_KEY + 63) >>> 6);
        long[] bloom = new long[words];
        int samples = (run.size() + stride - 1) / stride;
        byte[][] keys = new byte[samples][];
        long[] offsets = new long[samples];

        byte[] previous = null;
        for (int i = 0; i < run.size(); i++) {
            Located item = run.get(i);
            if (previous != null && Arrays.compareUnsigned(previous, item.key()) >= 0) {
                throw new IllegalArgumentException("run is not strictly sorted at position " + i);
            }
            if (i % stride == 0) {
                keys[i / stride] = item.key();
                offsets[i / stride] = item.offset();
            }
            long hash = hash(item.key());
            for (int probe = 0; probe < PROBES; probe++) {
                int bit = bitFor(hash, probe, words);
                bloom[bit >>> 6] |= 1L << bit;
            }
            previous = item.key();
        }
        return new SparseIndex(keys, offsets, bloom);
    }

    public boolean mightContain(byte[] key) {
        long hash = hash(key);
        for (int probe = 0; probe < PROBES; probe++) {
            int bit = bitFor(hash, probe, bloom.length);
            if ((bloom[bit >>> 6] & 1L << bit) == 0) {
                return false;
            }
        }
        return true;
    }

    /** Offset of the block that would hold {@code key}, or empty if the key sorts before the whole run. */
    public OptionalLong floor(byte[] key) {
        int lo = 0;
        int hi = keys.length - 1;
        while (lo <= hi) {
            int mid = (lo + hi) >>> 1;
            int order = Arrays.compareUnsigned(keys[mid], key);
            if (order == 0) {
                return OptionalLong.of(offsets[mid]);
            } else if (order < 0) {
                lo = mid + 1;
            } else {
                hi = mid - 1;
            }
        }
        return hi < 0 ? OptionalLong.empty() : OptionalLong.of(offsets[hi]);
    }

    public ByteBuffer encode() {
        byte[] packed = Varint.packAscending(offsets);
        int size = Varint.sizeOf(packed.length) + packed.length + Varint.sizeOf(bloom.length) + bloom.length * Long.BYTES;
        for (byte[] key : keys) {
            size += Varint.sizeOf(key.length) + key.length;
        }
        ByteBuffer out = ByteBuffer.allocate(size);
        Varint.writeBytes(out, packed);
        for (byte[] key : keys) {
            Varint.writeBytes(out, key);
        }
        Varint.writeUnsigned(out, bloom.length);
        for (long word : bloom) {
            out.putLong(word);
        }
        return out.flip();
    }

    public static SparseIndex decode(ByteBuffer in) {
        long[] offsets = Varint.unpackAscending(Varint.readBytes(in));
        byte[][] keys = new byte[offsets.length][];
        for (int i = 0; i < keys.length; i++) {
            keys[i] = Varint.readBytes(in);
        }
        long[] bloom = new long[Varint.readLength(in, in.remaining() / Long.BYTES)];
        in.asLongBuffer().get(bloom);
        in.position(in.position() + bloom.length * Long.BYTES);
        return new SparseIndex(keys, offsets, bloom);
    }

    private static int bitFor(long hash, int probe, int words) {
        int first = (int) hash;
        int second = (int) (hash >>> 32) | 1;
        return Integer.remainderUnsigned(first + probe * second, words << 6);
    }

    private static long hash(byte[] key) {
        long h = 0x51_7C_C1_B7_27_22_0A_95L ^ key.length;
        for (byte b : key) {
            h = Long.rotateLeft(h, 5) ^ (b & 0xFFL);
            h *= 0x9E37_79B9_7F4A_7C15L;
        }
        return h ^ h >>> 29;
    }
}
