package harbour.booking;

import java.time.Instant;
import java.util.EnumMap;
import java.util.EnumSet;
import java.util.Map;
import java.util.Set;

public record Booking(
        String reference,
        int imo,
        String berthId,
        Instant arrival,
        Instant departure,
        Status status,
        long version) {

    public Booking {
        if (!arrival.isBefore(departure)) {
            throw new IllegalArgumentException("booking " + reference + " departs before it arrives");
        }
        if (version < 0) {
            throw new IllegalArgumentException("negative version");
        }
    }

    public Booking moveTo(Status next) {
        if (!status.canBecome(next)) {
            throw new BookingException.IllegalTransition(reference, status, next);
        }
        return new Booking(reference, imo, berthId, arrival, departure, next, version + 1);
    }

    public Booking delayedBy(long minutes) {
        long seconds = Math.multiplyExact(minutes, 60L);
        return new Booking(reference, imo, berthId, arrival.plusSeconds(seconds),
                departure.plusSeconds(seconds), status, version + 1);
    }

    public boolean overlaps(Instant from, Instant to) {
        return arrival.isBefore(to) && from.isBefore(departure);
    }

    public boolean isOpen() {
        return !status.isTerminal();
    }

    public enum Status {
        REQUESTED, CONFIRMED, ALONGSIDE, DEPARTED, CANCELLED, NO_SHOW;

        private static final Map<Status, Set<Status>> NEXT = new EnumMap<>(Status.class);

        static {
            NEXT.put(REQUESTED, EnumSet.of(CONFIRMED, CANCELLED));
            NEXT.put(CONFIRMED, EnumSet.of(ALONGSIDE, CANCELLED, NO_SHOW));
            NEXT.put(ALONGSIDE, EnumSet.of(DEPARTED));
        }

        public boolean canBecome(Status next) {
            return NEXT.getOrDefault(this, Set.of()).contains(next);
        }

        public boolean isTerminal() {
            return !NEXT.containsKey(this);
        }
    }
}
