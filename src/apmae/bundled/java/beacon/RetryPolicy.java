package beacon;

import java.io.IOException;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.function.Supplier;

/** Bounded exponential backoff with full jitter. Immutable, so one policy can be shared freely. */
public final class RetryPolicy {

    public static final RetryPolicy NEVER = new RetryPolicy(1, Duration.ZERO, Duration.ZERO, Duration.ZERO, e -> false);

    private final int maxAttempts;
    private final Duration base;
    private final Duration cap;
    private final Duration deadline;
    private final Predicate<Throwable> retryable;

    private RetryPolicy(int maxAttempts, Duration base, Duration cap, Duration deadline,
                        Predicate<Throwable> retryable) {
        this.maxAttempts = maxAttempts;
        this.base = base;
        this.cap = cap;
        this.deadline = deadline;
        this.retryable = Objects.requireNonNull(retryable);
    }

    public static RetryPolicy forIo(int maxAttempts) {
        return new RetryPolicy(maxAttempts, Duration.ofMillis(50), Duration.ofSeconds(5), Duration.ofSeconds(30),
                e -> e instanceof IOException);
    }

    public RetryPolicy backoff(Duration first, Duration atMost) {
        if (first.isNegative() || first.compareTo(atMost) > 0) {
            throw new IllegalArgumentException("backoff from " + first + " to " + atMost);
        }
        return new RetryPolicy(maxAttempts, first, atMost, deadline, retryable);
    }

    public RetryPolicy within(Duration total) {
        return new RetryPolicy(maxAttempts, base, cap, total, retryable);
    }

    public RetryPolicy alsoOn(Class<? extends Throwable> type) {
        return new RetryPolicy(maxAttempts, base, cap, deadline, retryable.or(type::isInstance));
    }

    public <T> T call(Callable<T> action) throws Exception {
        long startedAt = System.nanoTime();
        Exception first = null;
        for (int attempt = 1; ; attempt++) {
            try {
                return action.call();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                throw e;
            } catch (Exception e) {
                if (first == null) {
                    first = e;
                } else if (first != e) {
                    first.addSuppressed(e);
                }
                long pause = nextPauseNanos(attempt, e, System.nanoTime() - startedAt);
                if (pause < 0) {
                    throw first;
                }
                TimeUnit.NANOSECONDS.sleep(pause);
            }
        }
    }

    /** Same contract as {@link #call} but parks no thread while waiting. */
    public <T> CompletableFuture<T> callAsync(Supplier<CompletableFuture<T>> action, ScheduledExecutorService timer) {
        CompletableFuture<T> outcome = new CompletableFuture<>();
        attempt(action, timer, outcome, 1, System.nanoTime());
        return outcome;
    }

    private <T> void attempt(Supplier<CompletableFuture<T>> action, ScheduledExecutorService timer,
                             CompletableFuture<T> outcome, int number, long startedAt) {
        if (outcome.isDone()) {
            return;
        }
        CompletableFuture<T> inFlight;
        try {
            inFlight = action.get();
        } catch (RuntimeException e) {
            inFlight = CompletableFuture.failedFuture(e);
        }
        inFlight.whenComplete((value, error) -> {
            if (error == null) {
                outcome.complete(value);
                return;
            }
            Throwable cause = error instanceof CompletionException && error.getCause() != null
                    ? error.getCause() : error;
            long pause = nextPauseNanos(number, cause, System.nanoTime() - startedAt);
            if (pause < 0) {
                outcome.completeExceptionally(cause);
            } else {
                timer.schedule(() -> attempt(action, timer, outcome, number + 1, startedAt),
                        pause, TimeUnit.NANOSECONDS);
            }
        });
    }

    private long nextPauseNanos(int attempt, Throwable error, long elapsed) {
        if (attempt >= maxAttempts || !retryable.test(error)) {
            return -1;
        }
        // Doubling past 2^20 would overflow long before the cap matters.
        long ceiling = Math.min(cap.toNanos(), base.toNanos() << Math.min(attempt - 1, 20));
        long pause = ceiling <= 0 ? 0 : ThreadLocalRandom.current().nextLong(ceiling + 1);
        boolean tooLate = !deadline.isZero() && elapsed + pause > deadline.toNanos();
        return tooLate ? -1 : pause;
    }
}
