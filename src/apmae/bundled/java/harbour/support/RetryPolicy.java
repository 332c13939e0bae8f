package harbour.support;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Predicate;
import java.util.function.Supplier;

public final class RetryPolicy {

    private static final long CEILING_MILLIS = 30_000L;

    private final int maxAttempts;
    private final long baseMillis;
    private final double factor;
    private final double jitter;
    private final Predicate<? super RuntimeException> retryOn;
    private final Sleeper sleeper;

    private RetryPolicy(int maxAttempts, long baseMillis, double factor, double jitter,
                        Predicate<? super RuntimeException> retryOn, Sleeper sleeper) {
        if (maxAttempts < 1) {
            throw new IllegalArgumentException("maxAttempts must be positive");
        }
        if (factor < 1.0 || jitter < 0.0 || jitter > 1.0) {
            throw new IllegalArgumentException("bad backoff: factor=" + factor + " jitter=" + jitter);
        }
        this.maxAttempts = maxAttempts;
        this.baseMillis = baseMillis;
        this.factor = factor;
        this.jitter = jitter;
        this.retryOn = retryOn;
        this.sleeper = sleeper;
    }

    public static RetryPolicy exponential(int maxAttempts, Duration base, double factor) {
        return new RetryPolicy(maxAttempts, base.toMillis(), factor, 0.2, e -> true, Thread::sleep);
    }

    public RetryPolicy onlyIf(Predicate<? super RuntimeException> condition) {
        return new RetryPolicy(maxAttempts, baseMillis, factor, jitter, condition, sleeper);
    }

    public RetryPolicy withJitter(double share) {
        return new RetryPolicy(maxAttempts, baseMillis, factor, share, retryOn, sleeper);
    }

    public RetryPolicy withSleeper(Sleeper replacement) {
        return new RetryPolicy(maxAttempts, baseMillis, factor, jitter, retryOn, replacement);
    }

    public <T> T call(Supplier<T> action) {
        RuntimeException previous = null;
        for (int attempt = 1; ; attempt++) {
            try {
                return action.get();
            } catch (RuntimeException e) {
                if (previous != null && previous != e) {
                    e.addSuppressed(previous);
                }
                if (attempt >= maxAttempts || !retryOn.test(e)) {
                    throw e;
                }
                previous = e;
                pause(delayBefore(attempt + 1), e);
            }
        }
    }

    /** Delay ahead of the given attempt; the first attempt is never delayed. */
    long delayBefore(int attempt) {
        if (attempt <= 1) {
            return 0L;
        }
        double nominal = Math.min(CEILING_MILLIS, baseMillis * Math.pow(factor, attempt - 2));
        double spread = nominal * jitter;
        if (spread < 1.0) {
            return Math.round(nominal);
        }
        return Math.round(nominal + ThreadLocalRandom.current().nextDouble(-spread, spread));
    }

    private void pause(long millis, RuntimeException pendingFailure) {
        try {
            sleeper.sleep(millis);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw pendingFailure;
        }
    }

    @FunctionalInterface
    public interface Sleeper {
        void sleep(long millis) throws InterruptedException;
    }
}
