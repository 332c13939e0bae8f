package harbour.booking;

import java.time.Instant;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Predicate;
import java.util.stream.Collectors;

public interface BookingRepository {

    Optional<Booking> find(String reference);

    void insert(Booking booking);

    /** Stores the booking if the stored version is exactly one behind it. */
    void update(Booking booking);

    List<Booking> query(Predicate<? super Booking> filter, int limit);

    default Booking require(String reference) {
        return find(reference).orElseThrow(() -> new BookingException.NotFound(reference));
    }

    default List<Booking> arrivalsBetween(Instant from, Instant to) {
        return query(b -> b.isOpen() && !b.arrival().isBefore(from) && b.arrival().isBefore(to), 500);
    }

    final class InMemory implements BookingRepository {

        private final ConcurrentHashMap<String, Booking> rows = new ConcurrentHashMap<>();

        @Override
        public Optional<Booking> find(String reference) {
            return Optional.ofNullable(rows.get(reference));
        }

        @Override
        public void insert(Booking booking) {
            Booking previous = rows.putIfAbsent(booking.reference(), booking);
            if (previous != null) {
                throw new IllegalStateException("reference already used: " + booking.reference());
            }
        }

        @Override
        public void update(Booking booking) {
            rows.compute(booking.reference(), (reference, current) -> {
                if (current == null) {
                    throw new BookingException.NotFound(reference);
                }
                long expected = booking.version() - 1;
                if (current.version() != expected) {
                    throw new BookingException.StaleVersion(reference, expected, current.version());
                }
                return booking;
            });
        }

        @Override
        public List<Booking> query(Predicate<? super Booking> filter, int limit) {
            return rows.values().stream()
                    .filter(filter)
                    .sorted(Comparator.comparing(Booking::arrival).thenComparing(Booking::reference))
                    .limit(limit)
                    .toList();
        }

        public Map<Booking.Status, Long> countByStatus() {
            return rows.values().stream()
                    .collect(Collectors.groupingBy(Booking::status, TreeMap::new, Collectors.counting()));
        }

        public int purgeBefore(Instant cutoff) {
            int removed = 0;
            for (Booking booking : rows.values()) {
                boolean expired = !booking.isOpen() && booking.departure().isBefore(cutoff);
                if (expired && rows.remove(booking.reference(), booking)) {
                    removed++;
                }
            }
            return removed;
        }
    }
}
