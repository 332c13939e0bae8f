package granary;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Objects;
import java.util.function.ToLongFunction;

/**
 * Approximate membership: {@link #mightContain} may answer true for an element that was never
 * added, but it never answers false for one that was.
 */
public final class BloomFilter<T> {

    private static final long MIX_A = 0xB4C1_93E7_5A0D_6F35L;
    private static final int MAX_HASHES = 16;

    private final long[] words;
    private final int hashCount;
    private final ToLongFunction<? super T> hasher;
    private long insertions = 0L;

    private BloomFilter(long[] words, int hashCount, ToLongFunction<? super T> hasher) {
        this.words = words;
        this.hashCount = hashCount;
        this.hasher = Objects.requireNonNull(hasher, "hasher");
    }

    public static <T> BloomFilter<T> create(int expected, double falsePositiveRate,
                                            ToLongFunction<? super T> hasher) {
        if (expected <= 0) {
            throw new IllegalArgumentException("expected insertions must be positive: " + expected);
        }
        if (!(falsePositiveRate > 0.0 && falsePositiveRate < 1.0)) {
            throw new IllegalArgumentException("rate must lie between 0 and 1: " + falsePositiveRate);
        }
        double ln2 = Math.log(2);
        double bits = -expected * Math.log(falsePositiveRate) / (ln2 * ln2);
        int wordCount = (int) Math.min(Integer.MAX_VALUE >>> 3, (long) Math.ceil(bits / 64));
        int hashes = (int) Math.round(bits / expected * ln2);
        return new BloomFilter<>(new long[Math.max(1, wordCount)],
                Math.max(1, Math.min(MAX_HASHES, hashes)), hasher);
    }

    public static BloomFilter<String> forStrings(int expected, double falsePositiveRate) {
        return create(expected, falsePositiveRate, BloomFilter::hashString);
    }

    /** @return true if at least one bit flipped, which proves the element was new */
    public boolean add(T element) {
        long hash = scramble(hasher.applyAsLong(element));
        long step = scramble(hash ^ MIX_A) | 1L;
        boolean flipped = false;
        for (int i = 0; i < hashCount; i++) {
            long bit = bitIndex(hash);
            int word = (int) (bit >>> 6);
            long flag = 1L << (bit & 63);
            if ((words[word] & flag) == 0) {
                words[word] |= flag;
                flipped = true;
            }
            hash += step;
        }
        if (flipped) {
            insertions++;
        }
        return flipped;
    }

    public boolean mightContain(T element) {
        long hash = scramble(hasher.applyAsLong(element));
        long step = scramble(hash ^ MIX_A) | 1L;
        for (int i = 0; i < hashCount; i++) {
            long bit = bitIndex(hash);
            if ((words[(int) (bit >>> 6)] >>> bit & 1L) == 0) {
                return false;
            }
            hash += step;
        }
        return true;
    }

    public BloomFilter<T> union(BloomFilter<T> other) {
        if (other.words.length != words.length || other.hashCount != hashCount) {
            throw new IllegalArgumentException("cannot merge filters of different shape: "
                    + this + " and " + other);
        }
        long[] merged = words.clone();
        for (int i = 0; i < merged.length; i++) {
            merged[i] |= other.words[i];
        }
        BloomFilter<T> result = new BloomFilter<>(merged, hashCount, hasher);
        result.insertions = insertions + other.insertions;
        return result;
    }

    public double fillRatio() {
        long set = 0;
        for (long w : words) {
            set += Long.bitCount(w);
        }
        return set / (double) bitSize();
    }

    public double estimatedFalsePositiveRate() {
        return Math.pow(fillRatio(), hashCount);
    }

    /** Estimates how many distinct elements went in, from the bits that are set alone. */
    public long estimatedCardinality() {
        double fill = fillRatio();
        if (fill >= 1.0) {
            return Long.MAX_VALUE;
        }
        return Math.round(-bitSize() * Math.log1p(-fill) / hashCount);
    }

    public void clear() {
        Arrays.fill(words, 0L);
        insertions = 0L;
    }

    public long bitSize() {
        return (long) words.length << 6;
    }

    @Override
    public String toString() {
        return String.format("BloomFilter{bits=%d, hashes=%d, added=%d, fill=%.3f}",
                bitSize(), hashCount, insertions, fillRatio());
    }

    private long bitIndex(long hash) {
        return (hash & Long.MAX_VALUE) % bitSize();
    }

    private static long scramble(long x) {
        x ^= x >>> 32;
        x *= MIX_A;
        x ^= x >>> 29;
        x *= MIX_A;
        return x ^ (x >>> 32);
    }

    private static long hashString(String s) {
        long h = 0x1F0D_3804_22C5_A96BL + s.length();
        for (byte b : s.getBytes(StandardCharsets.UTF_8)) {
            h = Long.rotateLeft(h ^ (b & 0xFF), 9) * 0x6B3F_8E15L;
        }
        return h;
    }
}
