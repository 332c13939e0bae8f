package harbour.booking;

/** Everything that can go wrong with a booking and that a caller can act on. */
public abstract sealed class BookingException extends RuntimeException {

    private final String reference;

    private BookingException(String reference, String message) {
        super(message);
        this.reference = reference;
    }

    public String reference() {
        return reference;
    }

    /** Whether the same request may succeed if it is simply sent again. */
    public boolean retryable() {
        return false;
    }

    public static final class NotFound extends BookingException {
        public NotFound(String reference) {
            super(reference, "no booking with reference " + reference);
        }
    }

    public static final class IllegalTransition extends BookingException {
        public IllegalTransition(String reference, Booking.Status from, Booking.Status to) {
            super(reference, String.format("booking %s cannot go from %s to %s", reference, from, to));
        }
    }

    public static final class StaleVersion extends BookingException {
        private final long expected;
        private final long actual;

        public StaleVersion(String reference, long expected, long actual) {
            super(reference, "booking " + reference + " was changed by someone else: expected version "
                    + expected + " but found " + actual);
            this.expected = expected;
            this.actual = actual;
        }

        public long versionsBehind() {
            return actual - expected;
        }

        @Override
        public boolean retryable() {
            return true;
        }
    }

    public static final class NoBerthAvailable extends BookingException {
        public NoBerthAvailable(int imo) {
            super(null, "no berth can take vessel " + imo + " within the planning horizon");
        }
    }

    public static final class Throttled extends BookingException {
        private final long waitMillis;

        public Throttled(String agent, long waitMillis) {
            super(null, "agent " + agent + " is over its limit, wait " + waitMillis + " ms");
            this.waitMillis = waitMillis;
        }

        public long waitMillis() {
            return waitMillis;
        }

        @Override
        public boolean retryable() {
            return true;
        }
    }
}
