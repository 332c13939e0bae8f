package meridian;

import java.util.List;
import java.util.function.DoubleSupplier;

/**
 * A small deterministic generator whose streams can be forked, so that each part of a simulation
 * draws from its own sequence and adding a draw in one place does not disturb the others.
 */
public final class StreamRandom {

    private static final long WEYL = 0x91E6A3C85D2F74B7L;
    private static final long STIR = 0xC95B1E6D37A2F083L;
    private static final double DOUBLE_UNIT = 0x1.0p-53;

    private long counter;
    private final long stream;
    private double spareNormal;
    private boolean hasSpare = false;

    public StreamRandom(long seed) {
        this(seed, 0L);
    }

    private StreamRandom(long seed, long stream) {
        this.counter = seed;
        this.stream = stream << 1 | 1L;
    }

    /** An independent generator named by a label; this generator's own sequence is unaffected. */
    public StreamRandom fork(String label) {
        long h = stream;
        for (int i = 0; i < label.length(); i++) {
            h = fold(h ^ label.charAt(i), STIR);
        }
        return new StreamRandom(fold(counter ^ h, WEYL), h);
    }

    public long nextLong() {
        counter += WEYL;
        return fold(counter, counter ^ STIR ^ stream);
    }

    public int nextInt(int bound) {
        if (bound <= 0) {
            throw new IllegalArgumentException("bound must be positive: " + bound);
        }
        // reject the short tail so that every residue is equally likely
        long limit = (1L << 32) - (1L << 32) % bound;
        long r;
        do {
            r = nextLong() >>> 32;
        } while (r >= limit);
        return (int) (r % bound);
    }

    public int between(int lo, int hiInclusive) {
        return lo + nextInt(Math.addExact(Math.subtractExact(hiInclusive, lo), 1));
    }

    public double nextDouble() {
        return (nextLong() >>> 11) * DOUBLE_UNIT;
    }

    public boolean chance(double probability) {
        return nextDouble() < probability;
    }

    public double nextGaussian() {
        if (hasSpare) {
            hasSpare = false;
            return spareNormal;
        }
        double u;
        double v;
        double s;
        do {
            u = 2 * nextDouble() - 1;
            v = 2 * nextDouble() - 1;
            s = u * u + v * v;
        } while (s >= 1 || s == 0);
        double scale = Math.sqrt(-2 * Math.log(s) / s);
        spareNormal = v * scale;
        hasSpare = true;
        return u * scale;
    }

    public double nextExponential(double rate) {
        return -Math.log1p(-nextDouble()) / rate;
    }

    public int nextPoisson(double mean) {
        if (mean < 0) {
            throw new IllegalArgumentException("negative mean " + mean);
        }
        if (mean > 60) {
            double approx = mean + Math.sqrt(mean) * nextGaussian();
            return (int) Math.max(0L, Math.round(approx));
        }
        double floor = Math.exp(-mean);
        double product = nextDouble();
        int k = 0;
        while (product > floor) {
            product *= nextDouble();
            k++;
        }
        return k;
    }

    public <T> void shuffle(List<T> items) {
        for (int i = items.size() - 1; i > 0; i--) {
            int j = nextInt(i + 1);
            T moved = items.get(i);
            items.set(i, items.get(j));
            items.set(j, moved);
        }
    }

    /** Picks an index with probability proportional to its weight. */
    public int weighted(double... weights) {
        double total = 0;
        for (double w : weights) {
            if (w < 0) {
                throw new IllegalArgumentException("negative weight " + w);
            }
            total += w;
        }
        double target = nextDouble() * total;
        for (int i = 0; i < weights.length; i++) {
            target -= weights[i];
            if (target < 0) {
                return i;
            }
        }
        return weights.length - 1;
    }

    public DoubleSupplier uniform(double lo, double hi) {
        return () -> lo + (hi - lo) * nextDouble();
    }

    private static long fold(long a, long b) {
        long high = Math.multiplyHigh(a, b);
        long low = a * b;
        long z = high ^ low ^ Long.rotateLeft(a, 23);
        z ^= z >>> 31;
        z *= STIR;
        return z ^ z >>> 28;
    }
}
