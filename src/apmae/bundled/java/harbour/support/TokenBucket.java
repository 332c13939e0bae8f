package harbour.support;

import java.time.Duration;
import java.util.function.LongSupplier;

/** Classic token bucket. Time is read lazily, so an idle bucket costs nothing. */
public final class TokenBucket {

    private static final double NANOS = 1e9;

    private final double capacity;
    private final double perNano;
    private final LongSupplier nanoClock;

    private double tokens;
    private long last;
    private long rejected;

    public TokenBucket(int capacity, double perSecond, LongSupplier nanoClock) {
        if (capacity <= 0 || !(perSecond > 0)) {
            throw new IllegalArgumentException("capacity and rate must be positive");
        }
        this.capacity = capacity;
        this.perNano = perSecond / NANOS;
        this.nanoClock = nanoClock;
        this.tokens = capacity;
        this.last = nanoClock.getAsLong();
    }

    public boolean tryAcquire() {
        return tryAcquire(1);
    }

    public synchronized boolean tryAcquire(int permits) {
        checkPermits(permits);
        refill();
        if (tokens < permits) {
            rejected += permits;
            return false;
        }
        tokens -= permits;
        return true;
    }

    public synchronized Duration waitFor(int permits) {
        checkPermits(permits);
        refill();
        double missing = permits - tokens;
        return missing <= 0 ? Duration.ZERO : Duration.ofNanos((long) Math.ceil(missing / perNano));
    }

    /** Returns permits that were taken for work which then did not happen. */
    public synchronized void giveBack(int permits) {
        checkPermits(permits);
        refill();
        tokens = Math.min(capacity, tokens + permits);
    }

    public synchronized long rejectedCount() {
        return rejected;
    }

    private void refill() {
        long now = nanoClock.getAsLong();
        long elapsed = now - last;
        if (elapsed <= 0) {
            return;
        }
        tokens = Math.min(capacity, tokens + elapsed * perNano);
        last = now;
    }

    private void checkPermits(int permits) {
        if (permits < 1 || permits > capacity) {
            throw new IllegalArgumentException("cannot grant " + permits + " of " + (int) capacity);
        }
    }
}
