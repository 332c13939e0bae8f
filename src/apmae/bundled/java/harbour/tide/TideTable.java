package harbour.tide;

import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Optional;
import java.util.TreeMap;

/**
 * Predicted high and low waters, interpolated with a half cosine between
 * neighbouring turns. Outside the published range the nearest turn is used.
 */
public final class TideTable {

    private final NavigableMap<Instant, Double> turns = new TreeMap<>();

    public TideTable(List<Turn> predictions) {
        if (predictions.size() < 2) {
            throw new IllegalArgumentException("need at least two turns, got " + predictions.size());
        }
        for (Turn turn : predictions) {
            Double clash = turns.put(turn.at(), turn.height());
            if (clash != null) {
                throw new IllegalArgumentException("two turns at " + turn.at());
            }
        }
    }

    public double heightAt(Instant when) {
        Map.Entry<Instant, Double> left = turns.floorEntry(when);
        Map.Entry<Instant, Double> right = turns.ceilingEntry(when);
        if (left == null) {
            return right.getValue();
        }
        if (right == null || left.getKey().equals(right.getKey())) {
            return left.getValue();
        }
        double span = Duration.between(left.getKey(), right.getKey()).toMillis();
        double phase = Duration.between(left.getKey(), when).toMillis() / span;
        double mean = (left.getValue() + right.getValue()) / 2;
        double amplitude = (left.getValue() - right.getValue()) / 2;
        return mean + amplitude * Math.cos(Math.PI * phase);
    }

    public Optional<Instant> nextAbove(double height, Instant from, Duration horizon) {
        Instant limit = from.plus(horizon);
        Instant low = from;
        if (heightAt(low) >= height) {
            return Optional.of(low);
        }
        while (low.isBefore(limit)) {
            Instant high = low.plusSeconds(600);
            if (heightAt(high) >= height) {
                return Optional.of(bisect(low, high, height));
            }
            low = high;
        }
        return Optional.empty();
    }

    private Instant bisect(Instant below, Instant above, double height) {
        long a = below.toEpochMilli();
        long b = above.toEpochMilli();
        while (b - a > 1_000L) {
            long middle = a + (b - a) / 2;
            if (heightAt(Instant.ofEpochMilli(middle)) < height) {
                a = middle;
            } else {
                b = middle;
            }
        }
        return Instant.ofEpochMilli(b);
    }

    public double range() {
        double lowest = Double.POSITIVE_INFINITY;
        double highest = Double.NEGATIVE_INFINITY;
        for (double height : turns.values()) {
            lowest = Math.min(lowest, height);
            highest = Math.max(highest, height);
        }
        return highest - lowest;
    }

    public record Turn(Instant at, double height) {
        public Turn {
            if (Double.isNaN(height) || Math.abs(height) > 20.0) {
                throw new IllegalArgumentException("tide height out of range: " + height);
            }
        }
    }
}
