package beacon;

import java.util.Arrays;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.DoubleSupplier;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** Process-wide counters, gauges and latency histograms, exposed as a plain-text page for scraping. */
public class MetricsRegistry {

    public sealed interface Metric permits Counter, Gauge, Histogram {
        void render(StringBuilder out, String name, String labels);
    }

    public static final class Counter implements Metric {
        private final LongAdder total = new LongAdder();

        public void increment() {
            total.increment();
        }

        public void add(long delta) {
            if (delta < 0) {
                throw new IllegalArgumentException("counters only go up");
            }
            total.add(delta);
        }

        public long value() {
            return total.sum();
        }

        @Override
        public void render(StringBuilder out, String name, String labels) {
            out.append(name).append("_total").append(labels).append(' ').append(value()).append('\n');
        }
    }

    public record Gauge(DoubleSupplier source) implements Metric {
        @Override
        public void render(StringBuilder out, String name, String labels) {
            double value;
            try {
                value = source.getAsDouble();
            } catch (RuntimeException e) {
                value = Double.NaN;
            }
            out.append(name).append(labels).append(' ').append(value).append('\n');
        }
    }

    /**
     * Log-linear histogram: each power of two is cut into eight equal buckets, which bounds the relative
     * error of any quantile at one eighth.
     */
    public static final class Histogram implements Metric {
        private static final int SUB_BITS = 3;
        private static final int SUB_COUNT = 1 << SUB_BITS;
        private static final double[] QUANTILES = {0.5, 0.9, 0.99, 0.999};

        private final AtomicLongArray buckets = new AtomicLongArray((Long.SIZE - SUB_BITS) * SUB_COUNT);
        private final LongAdder sum = new LongAdder();

        public void record(long value) {
            long v = Math.max(0L, value);
            buckets.incrementAndGet(indexOf(v));
            sum.add(v);
        }

        public void recordSince(long startNanos) {
            record(TimeUnit.NANOSECONDS.toMicros(System.nanoTime() - startNanos));
        }

        static int indexOf(long value) {
            if (value < SUB_COUNT) {
                return (int) value;
            }
            int exponent = 63 - Long.numberOfLeadingZeros(value);
            int shift = exponent - SUB_BITS;
            return (shift + 1) * SUB_COUNT + (int) (value >>> shift & SUB_COUNT - 1);
        }

        static long upperBound(int index) {
            if (index < SUB_COUNT) {
                return index;
            }
            int shift = index / SUB_COUNT - 1;
            long mantissa = SUB_COUNT + index % SUB_COUNT + 1L;
            return (mantissa << shift) - 1;
        }

        public long quantile(double q) {
            long[] counts = new long[buckets.length()];
            long total = 0;
            for (int i = 0; i < counts.length; i++) {
                counts[i] = buckets.get(i);
                total += counts[i];
            }
            if (total == 0) {
                return 0;
            }
            long rank = Math.max(1, (long) Math.ceil(q * total));
            int i = 0;
            while ((rank -= counts[i]) > 0) {
                i++;
            }
            return upperBound(i);
        }

        @Override
        public void render(StringBuilder out, String name, String labels) {
            for (double q : QUANTILES) {
                String tag = "q=\"" + q + '"';
                String joined = labels.isEmpty()
                        ? "{" + tag + "}"
                        : labels.substring(0, labels.length() - 1) + "," + tag + "}";
                out.append(name).append(joined).append(' ').append(quantile(q)).append('\n');
            }
            out.append(name).append("_sum").append(labels).append(' ').append(sum.sum()).append('\n');
        }
    }

    private record Key(String name, String labels) {
    }

    private static final Pattern NAME = Pattern.compile("[a-z][a-z0-9_]{1,63}");
    private static final int MAX_SERIES = 5_000;

    private final ConcurrentMap<Key, Metric> metrics = new ConcurrentHashMap<>();
    private final LongAdder dropped = new LongAdder();

    public Counter counter(String name, String... labels) {
        return register(name, labels, Counter.class, new Counter());
    }

    public Histogram histogram(String name, String... labels) {
        return register(name, labels, Histogram.class, new Histogram());
    }

    public void gauge(String name, DoubleSupplier source, String... labels) {
        register(name, labels, Gauge.class, new Gauge(source));
    }

    private <M extends Metric> M register(String name, String[] labels, Class<M> type, M fresh) {
        if (!NAME.matcher(name).matches() || labels.length % 2 != 0) {
            throw new IllegalArgumentException("bad metric " + name + Arrays.toString(labels));
        }
        Key key = new Key(name, formatLabels(labels));
        if (metrics.size() >= MAX_SERIES && !metrics.containsKey(key)) {
            // Hand back a working but unregistered instrument; a label explosion must not take the service down.
            dropped.increment();
            return fresh;
        }
        Metric existing = metrics.putIfAbsent(key, fresh);
        if (existing == null) {
            return fresh;
        }
        if (!type.isInstance(existing)) {
            throw new IllegalStateException(name + " is already a " + existing.getClass().getSimpleName());
        }
        return type.cast(existing);
    }

    private static String formatLabels(String[] labels) {
        if (labels.length == 0) {
            return "";
        }
        Map<String, String> sorted = new TreeMap<>();
        for (int i = 0; i < labels.length; i += 2) {
            sorted.put(labels[i].toLowerCase(Locale.ROOT), labels[i + 1].replace("\\", "\\\\").replace("\"", "\\\""));
        }
        return sorted.entrySet().stream()
                .map(e -> e.getKey() + "=\"" + e.getValue() + "\"")
                .collect(Collectors.joining(",", "{", "}"));
    }

    public String scrape() {
        StringBuilder page = new StringBuilder(64 * metrics.size());
        Map<String, Map<String, Metric>> grouped = new TreeMap<>();
        metrics.forEach((k, m) -> grouped.computeIfAbsent(k.name(), n -> new TreeMap<>()).put(k.labels(), m));
        grouped.forEach((name, series) -> series.forEach((labels, metric) -> metric.render(page, name, labels)));
        return page.append("series_dropped ").append(dropped.sum()).append('\n').toString();
    }
}
