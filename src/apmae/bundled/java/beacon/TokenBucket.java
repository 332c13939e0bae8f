package beacon;

import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.LongSupplier;

/**
 * Lock-free rate limiter. Instead of a token count it stores the instant at which the bucket would be
 * full again; taking tokens pushes that instant into the future.
 */
public final class TokenBucket {

    private final long nanosPerToken;
    private final long burstNanos;
    private final LongSupplier nanoClock;
    private final AtomicLong fullAt;

    public TokenBucket(double tokensPerSecond, int burst) {
        this(tokensPerSecond, burst, System::nanoTime);
    }

    TokenBucket(double tokensPerSecond, int burst, LongSupplier nanoClock) {
        if (tokensPerSecond <= 0 || tokensPerSecond > 1e9 || burst < 1) {
            throw new IllegalArgumentException(tokensPerSecond + "/s with burst " + burst);
        }
        this.nanosPerToken = Math.max(1L, Math.round(1_000_000_000L / tokensPerSecond));
        this.burstNanos = nanosPerToken * burst;
        this.nanoClock = nanoClock;
        this.fullAt = new AtomicLong(nanoClock.getAsLong());
    }

    public boolean tryTake() {
        return tryTake(1);
    }

    public boolean tryTake(int tokens) {
        return reserve(tokens, 0L) == 0L;
    }

    /** Waits for the tokens if they become available in time; otherwise returns at once without taking any. */
    public boolean take(int tokens, long timeout, TimeUnit unit) throws InterruptedException {
        long wait = reserve(tokens, unit.toNanos(timeout));
        if (wait < 0) {
            return false;
        }
        long wakeAt = nanoClock.getAsLong() + wait;
        for (long left = wait; left > 0; left = wakeAt - nanoClock.getAsLong()) {
            if (Thread.interrupted()) {
                giveBack(tokens);
                throw new InterruptedException("while waiting for " + tokens + " tokens");
            }
            LockSupport.parkNanos(this, left);
        }
        return true;
    }

    /** Returns the nanoseconds to wait before the tokens may be used, or -1 if that exceeds the limit. */
    private long reserve(int tokens, long maxWaitNanos) {
        long cost = tokens * nanosPerToken;
        if (tokens <= 0 || cost > burstNanos) {
            throw new IllegalArgumentException(tokens + " tokens can never fit in this bucket");
        }
        while (true) {
            long now = nanoClock.getAsLong();
            long current = fullAt.get();
            // nanoTime may wrap, so compare by difference rather than by value.
            long start = current - now > 0 ? current : now;
            long after = start + cost;
            long wait = Math.max(0L, after - now - burstNanos);
            if (wait > maxWaitNanos) {
                return -1L;
            }
            if (fullAt.compareAndSet(current, after)) {
                return wait;
            }
        }
    }

    private void giveBack(int tokens) {
        fullAt.addAndGet(-tokens * nanosPerToken);
    }

    public int available() {
        long debt = Math.max(0L, fullAt.get() - nanoClock.getAsLong());
        return (int) Math.max(0L, (burstNanos - debt) / nanosPerToken);
    }
}
