package beacon;

import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.BiConsumer;

/**
 * Stops calling a dependency that keeps failing. Outcomes are remembered as bits in a ring of 64, so the
 * failure rate is one population count.
 */
public class CircuitBreaker {

    public enum State { CLOSED, OPEN, HALF_OPEN }

    public static class OpenException extends RuntimeException {
        private static final long serialVersionUID = 1L;
        private final transient Duration retryIn;

        OpenException(String name, Duration retryIn) {
            super("circuit '" + name + "' is open, retry in " + retryIn.toMillis() + " ms", null, false, false);
            this.retryIn = retryIn;
        }

        public Duration retryIn() {
            return retryIn;
        }
    }

    private static final int WINDOW = Long.SIZE;
    private static final int MIN_SAMPLES = 16;

    private final String name;
    private final double tripRatio;
    private final Duration coolOff;
    private final Clock clock;
    private final List<BiConsumer<State, State>> listeners = new CopyOnWriteArrayList<>();

    private State state = State.CLOSED;
    private long failures;
    private int samples;
    private int consecutiveTrips;
    private boolean probing;
    private Instant reopenAt = Instant.MIN;

    public CircuitBreaker(String name, double tripRatio, Duration coolOff, Clock clock) {
        if (!(tripRatio > 0.0 && tripRatio <= 1.0)) {
            throw new IllegalArgumentException("trip ratio " + tripRatio);
        }
        this.name = name;
        this.tripRatio = tripRatio;
        this.coolOff = coolOff;
        this.clock = clock;
    }

    public <T> T guard(Callable<T> call) throws Exception {
        admit();
        boolean ok = false;
        try {
            T result = call.call();
            ok = true;
            return result;
        } finally {
            settle(ok);
        }
    }

    public void onTransition(BiConsumer<State, State> listener) {
        listeners.add(listener);
    }

    private synchronized void admit() {
        switch (state) {
            case CLOSED:
                return;
            case OPEN:
                Instant now = clock.instant();
                if (now.isBefore(reopenAt)) {
                    throw new OpenException(name, Duration.between(now, reopenAt));
                }
                moveTo(State.HALF_OPEN);
                probing = true;
                return;
            case HALF_OPEN:
                if (probing) {
                    throw new OpenException(name, Duration.ZERO);
                }
                probing = true;
                return;
            default:
                throw new AssertionError(state);
        }
    }

    private synchronized void settle(boolean ok) {
        if (state == State.HALF_OPEN) {
            probing = false;
            if (ok) {
                consecutiveTrips = 0;
                resetWindow();
                moveTo(State.CLOSED);
            } else {
                trip();
            }
            return;
        }
        failures = failures << 1 | (ok ? 0L : 1L);
        samples = Math.min(samples + 1, WINDOW);
        if (state == State.CLOSED && samples >= MIN_SAMPLES && failureRatio() >= tripRatio) {
            trip();
        }
    }

    private void trip() {
        int doublings = Math.min(consecutiveTrips++, 5);
        reopenAt = clock.instant().plus(coolOff.multipliedBy(1L << doublings));
        resetWindow();
        moveTo(State.OPEN);
    }

    private void resetWindow() {
        failures = 0L;
        samples = 0;
    }

    private void moveTo(State next) {
        State previous = state;
        state = next;
        if (previous != next) {
            listeners.forEach(l -> l.accept(previous, next));
        }
    }

    public synchronized double failureRatio() {
        return samples == 0 ? 0.0 : Long.bitCount(failures) / (double) samples;
    }

    public synchronized State state() {
        return state;
    }
}
