package granary;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.NoSuchElementException;
import java.util.Objects;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.BinaryOperator;

/**
 * Associates half-open ranges of {@code long} keys with values. Ranges never overlap: a later
 * {@link #put} carves its extent out of whatever was stored there before, and neighbouring
 * ranges holding equal values are joined so that the map stays as small as it can be.
 */
public final class IntervalMap<V> implements Iterable<IntervalMap.Segment<V>> {

    public record Segment<V>(long from, long until, V value) {
        public Segment {
            if (from >= until) {
                throw new IllegalArgumentException("empty interval [" + from + ", " + until + ")");
            }
        }

        public long width() {
            return until - from;
        }

        public boolean contains(long key) {
            return from <= key && key < until;
        }

        @Override
        public String toString() {
            return String.format("[%d..%d) -> %s", from, until, value);
        }
    }

    // keyed by the start of each segment
    private final NavigableMap<Long, Segment<V>> byStart = new TreeMap<>();
    private int modifications;

    public Optional<V> get(long key) {
        return segmentAt(key).map(Segment::value);
    }

    public Optional<Segment<V>> segmentAt(long key) {
        Map.Entry<Long, Segment<V>> floor = byStart.floorEntry(key);
        if (floor == null || !floor.getValue().contains(key)) {
            return Optional.empty();
        }
        return Optional.of(floor.getValue());
    }

    public void put(long from, long until, V value) {
        Objects.requireNonNull(value, "value");
        Segment<V> fresh = new Segment<>(from, until, value);
        clear(from, until);
        store(joinWithNeighbours(fresh));
        modifications++;
    }

    /** Removes everything in the range, trimming segments that straddle its ends. */
    public boolean clear(long from, long until) {
        if (from >= until) {
            return false;
        }
        boolean touched = splitAt(from);
        touched |= splitAt(until);
        NavigableMap<Long, Segment<V>> doomed = byStart.subMap(from, true, until, false);
        if (!doomed.isEmpty()) {
            doomed.clear();
            touched = true;
        }
        if (touched) {
            modifications++;
        }
        return touched;
    }

    /**
     * Stores {@code value} where the range is vacant and the combined value where it is not.
     */
    public void merge(long from, long until, V value, BinaryOperator<V> combiner) {
        List<Segment<V>> pending = new ArrayList<>();
        long cursor = from;
        for (Segment<V> hit : overlapping(from, until)) {
            long lo = Math.max(hit.from(), from);
            long hi = Math.min(hit.until(), until);
            if (cursor < lo) {
                pending.add(new Segment<>(cursor, lo, value));
            }
            pending.add(new Segment<>(lo, hi, combiner.apply(hit.value(), value)));
            cursor = hi;
        }
        if (cursor < until) {
            pending.add(new Segment<>(cursor, until, value));
        }
        pending.forEach(s -> put(s.from(), s.until(), s.value()));
    }

    public List<Segment<V>> overlapping(long from, long until) {
        Long first = byStart.floorKey(from);
        if (first == null) {
            first = from;
        }
        List<Segment<V>> hits = new ArrayList<>();
        for (Segment<V> s : byStart.subMap(first, true, until, false).values()) {
            if (s.until() > from) {
                hits.add(s);
            }
        }
        return hits;
    }

    public long coveredWidth() {
        return byStart.values().stream().mapToLong(Segment::width).sum();
    }

    /** True when no key in the range is vacant. */
    public boolean covers(long from, long until) {
        long cursor = from;
        for (Segment<V> s : overlapping(from, until)) {
            if (s.from() > cursor) {
                return false;
            }
            cursor = s.until();
        }
        return cursor >= until;
    }

    public int segmentCount() {
        return byStart.size();
    }

    private boolean splitAt(long key) {
        Map.Entry<Long, Segment<V>> below = byStart.lowerEntry(key);
        if (below == null || below.getValue().until() <= key) {
            return false;
        }
        Segment<V> whole = below.getValue();
        store(new Segment<>(whole.from(), key, whole.value()));
        store(new Segment<>(key, whole.until(), whole.value()));
        return true;
    }

    private Segment<V> joinWithNeighbours(Segment<V> s) {
        long lo = s.from();
        long hi = s.until();
        Map.Entry<Long, Segment<V>> left = byStart.lowerEntry(lo);
        if (left != null && left.getValue().until() == lo && left.getValue().value().equals(s.value())) {
            lo = left.getKey();
            byStart.remove(lo);
        }
        Segment<V> right = byStart.get(hi);
        if (right != null && right.value().equals(s.value())) {
            byStart.remove(hi);
            hi = right.until();
        }
        return new Segment<>(lo, hi, s.value());
    }

    private void store(Segment<V> s) {
        byStart.put(s.from(), s);
    }

    @Override
    public Iterator<Segment<V>> iterator() {
        return new Iterator<>() {
            private final int expected = modifications;
            private Segment<V> upcoming = byStart.isEmpty() ? null : byStart.firstEntry().getValue();

            @Override
            public boolean hasNext() {
                return upcoming != null;
            }

            @Override
            public Segment<V> next() {
                if (expected != modifications) {
                    throw new IllegalStateException("interval map changed during iteration");
                }
                if (upcoming == null) {
                    throw new NoSuchElementException();
                }
                Segment<V> current = upcoming;
                Map.Entry<Long, Segment<V>> higher = byStart.higherEntry(current.from());
                upcoming = higher == null ? null : higher.getValue();
                return current;
            }
        };
    }
}
