package meridian;

import java.util.DoubleSummaryStatistics;
import java.util.Locale;
import java.util.stream.Collector;

/** One-pass moments up to the fourth order; two instances can be merged. */
public class RunningStats {

    public enum Shape { TOO_FEW, SYMMETRIC, LEFT_TAILED, RIGHT_TAILED }

    private long n;
    private double mean;
    private double m2;
    private double m3;
    private double m4;
    private double low = Double.NaN;
    private double high = Double.NaN;

    public static Collector<Double, RunningStats, RunningStats> collector() {
        return Collector.of(RunningStats::new, RunningStats::add, RunningStats::merge,
                Collector.Characteristics.UNORDERED);
    }

    public void add(double x) {
        long before = n++;
        double delta = x - mean;
        double step = delta / n;
        double step2 = step * step;
        double term = delta * step * before;
        mean += step;
        m4 += term * step2 * ((double) n * n - 3.0 * n + 3) + 6 * step2 * m2 - 4 * step * m3;
        m3 += term * step * (n - 2) - 3 * step * m2;
        m2 += term;
        if (before == 0) {
            low = high = x;
        } else if (x < low) {
            low = x;
        } else if (x > high) {
            high = x;
        }
    }

    public RunningStats merge(RunningStats other) {
        if (other.n == 0) {
            return this;
        }
        if (n == 0) {
            copyFrom(other);
            return this;
        }
        double total = (double) n + other.n;
        double na = n;
        double nb = other.n;
        double d = other.mean - mean;
        double d2 = d * d;

        m4 += other.m4
                + d2 * d2 * na * nb * (na * na - na * nb + nb * nb) / (total * total * total)
                + 6 * d2 * (na * na * other.m2 + nb * nb * m2) / (total * total)
                + 4 * d * (na * other.m3 - nb * m3) / total;
        m3 += other.m3
                + d2 * d * na * nb * (na - nb) / (total * total)
                + 3 * d * (na * other.m2 - nb * m2) / total;
        m2 += other.m2 + d2 * na * nb / total;
        mean += d * nb / total;
        n += other.n;
        low = Math.min(low, other.low);
        high = Math.max(high, other.high);
        return this;
    }

    public long count() {
        return n;
    }

    public double mean() {
        return n == 0 ? Double.NaN : mean;
    }

    public double variance() {
        return n < 2 ? Double.NaN : m2 / (n - 1);
    }

    public double standardDeviation() {
        return Math.sqrt(variance());
    }

    public double skewness() {
        return m2 == 0 ? 0.0 : Math.sqrt((double) n) * m3 / Math.pow(m2, 1.5);
    }

    public double excessKurtosis() {
        return m2 == 0 ? 0.0 : n * m4 / (m2 * m2) - 3;
    }

    public Shape shape() {
        if (n < 8) {
            return Shape.TOO_FEW;
        }
        double noise = Math.sqrt(6.0 / n);
        double g = skewness();
        if (Math.abs(g) <= 2 * noise) {
            return Shape.SYMMETRIC;
        }
        return g < 0 ? Shape.LEFT_TAILED : Shape.RIGHT_TAILED;
    }

    /** Whether the mean differs from a reference by more than {@code sigmas} standard errors. */
    public boolean differsFrom(double reference, double sigmas) {
        return n >= 2 && Math.abs(mean - reference) > sigmas * standardDeviation() / Math.sqrt(n);
    }

    public boolean agreesWith(DoubleSummaryStatistics reference, double tolerance) {
        return n == reference.getCount()
                && (n == 0 || (Math.abs(mean - reference.getAverage()) <= tolerance
                && low == reference.getMin() && high == reference.getMax()));
    }

    private void copyFrom(RunningStats other) {
        n = other.n;
        mean = other.mean;
        m2 = other.m2;
        m3 = other.m3;
        m4 = other.m4;
        low = other.low;
        high = other.high;
    }

    @Override
    public String toString() {
        return switch ((int) Math.min(n, 2)) {
            case 0 -> "no observations";
            case 1 -> "single observation " + mean;
            default -> String.format(Locale.ROOT, "n=%,d mean=%.6g sd=%.3g range=[%.6g, %.6g]",
                    n, mean, standardDeviation(), low, high);
        };
    }
}
