package meridian;

import java.util.Arrays;
import java.util.Iterator;
import java.util.Locale;
import java.util.NoSuchElementException;

/** Counts of values in adjacent bins, with separate tallies for what falls outside them. */
public final class Histogram implements Iterable<Histogram.Bin> {

    public record Bin(double lower, double upper, long count) {
        public double density(long total) {
            return total == 0 ? 0.0 : count / (total * (upper - lower));
        }
    }

    public enum Spacing {
        LINEAR {
            @Override
            double edge(double lo, double hi, double t) {
                return lo + (hi - lo) * t;
            }
        },
        LOGARITHMIC {
            @Override
            double edge(double lo, double hi, double t) {
                return lo * Math.pow(hi / lo, t);
            }
        };

        abstract double edge(double lo, double hi, double t);
    }

    private static final char[] BARS = {' ', '.', ':', '-', '=', '+', '*', '#', '@'};

    private final double[] edges;
    private final long[] counts;
    private long below = 0;
    private long above = 0;
    private long invalid = 0;

    private Histogram(double[] edges) {
        this.edges = edges;
        this.counts = new long[edges.length - 1];
    }

    public static Histogram spaced(Spacing spacing, double lo, double hi, int bins) {
        if (bins < 1 || !(lo < hi)) {
            throw new IllegalArgumentException(bins + " bins over [" + lo + ", " + hi + ")");
        }
        if (spacing == Spacing.LOGARITHMIC && lo <= 0) {
            throw new IllegalArgumentException("logarithmic bins need a positive lower edge");
        }
        double[] edges = new double[bins + 1];
        for (int i = 0; i < bins; i++) {
            edges[i] = spacing.edge(lo, hi, (double) i / bins);
        }
        edges[bins] = hi;
        return new Histogram(edges);
    }

    public static Histogram withEdges(double... edges) {
        for (int i = 1; i < edges.length; i++) {
            if (!(edges[i - 1] < edges[i])) {
                throw new IllegalArgumentException("edges must increase: " + Arrays.toString(edges));
            }
        }
        if (edges.length < 2) {
            throw new IllegalArgumentException("a histogram needs two edges or more");
        }
        return new Histogram(edges.clone());
    }

    public void record(double value) {
        if (Double.isNaN(value)) {
            invalid++;
        } else if (value < edges[0]) {
            below++;
        } else if (value >= edges[edges.length - 1]) {
            above++;
        } else {
            counts[binOf(value)]++;
        }
    }

    public long total() {
        long sum = below + above;
        for (long c : counts) {
            sum += c;
        }
        return sum;
    }

    public long invalidCount() {
        return invalid;
    }

    /** Share of the values under x, taking each bin to be evenly filled. */
    public double cumulative(double x) {
        if (x < edges[0] || total() == 0) {
            return 0.0;
        }
        double sum = below;
        for (int i = 0; i < counts.length && edges[i] < x; i++) {
            double covered = Math.min(1.0, (x - edges[i]) / (edges[i + 1] - edges[i]));
            sum += covered * counts[i];
        }
        return sum / total();
    }

    public Bin mode() {
        int best = 0;
        for (int i = 1; i < counts.length; i++) {
            if (counts[i] > counts[best]) {
                best = i;
            }
        }
        return bin(best);
    }

    public String sparkline() {
        long peak = Math.max(1L, mode().count());
        StringBuilder line = new StringBuilder("|");
        for (long c : counts) {
            // rounding up, so that a bin with one value in it never looks empty
            int step = (int) ((c * (BARS.length - 1) + peak - 1) / peak);
            line.append(BARS[step]);
        }
        return line.append('|').toString();
    }

    @Override
    public Iterator<Bin> iterator() {
        return new Iterator<Bin>() {
            private int next;

            @Override
            public boolean hasNext() {
                return next < counts.length;
            }

            @Override
            public Bin next() {
                if (!hasNext()) {
                    throw new NoSuchElementException();
                }
                return bin(next++);
            }
        };
    }

    @Override
    public String toString() {
        return String.format(Locale.ROOT, "%s n=%d under=%d over=%d", sparkline(), total(), below, above);
    }

    private Bin bin(int i) {
        return new Bin(edges[i], edges[i + 1], counts[i]);
    }

    private int binOf(double value) {
        int at = Arrays.binarySearch(edges, value);
        return at >= 0 ? at : -at - 2;
    }
}
