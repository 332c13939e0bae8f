package meridian;

import java.util.Map;
import java.util.TreeMap;
import java.util.function.DoubleConsumer;

/**
 * Quantiles of a stream with bounded relative error. Values fall into buckets whose borders grow
 * geometrically, so the memory used depends on the range of the data and not on its volume.
 */
public final class QuantileSketch implements DoubleConsumer {

    private static final double SMALLEST = 1e-9;

    private final double accuracy;
    private final double gamma;
    private final double logGamma;
    private final int maxBuckets;
    private final TreeMap<Integer, Long> positive = new TreeMap<>();
    private final TreeMap<Integer, Long> negative = new TreeMap<>();
    private long zeros;
    private long count;
    private double min = Double.POSITIVE_INFINITY;
    private double max = Double.NEGATIVE_INFINITY;
    private boolean collapsed = false;

    public QuantileSketch(double accuracy) {
        this(accuracy, 2_048);
    }

    public QuantileSketch(double accuracy, int maxBuckets) {
        if (accuracy <= 0 || accuracy >= 1) {
            throw new IllegalArgumentException("relative accuracy must be in (0, 1): " + accuracy);
        }
        this.accuracy = accuracy;
        this.gamma = (1 + accuracy) / (1 - accuracy);
        this.logGamma = Math.log(gamma);
        this.maxBuckets = maxBuckets;
    }

    @Override
    public void accept(double value) {
        accept(value, 1L);
    }

    public void accept(double value, long times) {
        if (!Double.isFinite(value)) {
            throw new IllegalArgumentException("cannot sketch " + value);
        }
        if (times <= 0) {
            return;
        }
        if (value > SMALLEST) {
            positive.merge(bucket(value), times, Long::sum);
        } else if (value < -SMALLEST) {
            negative.merge(bucket(-value), times, Long::sum);
        } else {
            zeros += times;
        }
        count += times;
        min = Math.min(min, value);
        max = Math.max(max, value);
        shrink(positive);
        shrink(negative);
    }

    public double quantile(double q) {
        if (count == 0) {
            return Double.NaN;
        }
        if (q < 0 || q > 1) {
            throw new IllegalArgumentException("quantile " + q + " outside [0, 1]");
        }
        long rank = (long) Math.floor(q * (count - 1));
        long seen = 0;
        for (Map.Entry<Integer, Long> e : negative.descendingMap().entrySet()) {
            seen += e.getValue();
            if (seen > rank) {
                return clamp(-representative(e.getKey()));
            }
        }
        seen += zeros;
        if (seen > rank) {
            return clamp(0.0);
        }
        for (Map.Entry<Integer, Long> e : positive.entrySet()) {
            seen += e.getValue();
            if (seen > rank) {
                return clamp(representative(e.getKey()));
            }
        }
        return max;
    }

    public double[] quantiles(double... qs) {
        double[] answers = new double[qs.length];
        for (int i = 0; i < qs.length; i++) {
            answers[i] = quantile(qs[i]);
        }
        return answers;
    }

    public void merge(QuantileSketch other) {
        if (other.accuracy != accuracy) {
            throw new IllegalArgumentException(String.format(
                    "sketches disagree on accuracy: %.4f against %.4f", accuracy, other.accuracy));
        }
        other.positive.forEach((bucket, n) -> positive.merge(bucket, n, Long::sum));
        other.negative.forEach((bucket, n) -> negative.merge(bucket, n, Long::sum));
        zeros += other.zeros;
        count += other.count;
        min = Math.min(min, other.min);
        max = Math.max(max, other.max);
        collapsed |= other.collapsed;
        shrink(positive);
        shrink(negative);
    }

    public long count() {
        return count;
    }

    /** False once the smallest buckets had to be folded together. */
    public boolean isAccurateEverywhere() {
        return !collapsed;
    }

    private int bucket(double magnitude) {
        return (int) Math.ceil(Math.log(magnitude) / logGamma);
    }

    private double representative(int bucket) {
        return 2 * Math.exp(bucket * logGamma) / (1 + gamma);
    }

    private double clamp(double x) {
        return x < min ? min : x > max ? max : x;
    }

    private void shrink(TreeMap<Integer, Long> store) {
        while (store.size() > maxBuckets) {
            Map.Entry<Integer, Long> lowest = store.pollFirstEntry();
            store.merge(store.firstKey(), lowest.getValue(), Long::sum);
            collapsed = true;
        }
    }
}
