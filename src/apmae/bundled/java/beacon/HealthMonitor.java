package beacon;

import java.time.Duration;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Runs named probes in parallel and folds their results into one status for the load balancer. */
public class HealthMonitor {

    public enum Status {
        UP(200), DEGRADED(200), DOWN(503);

        private final int httpCode;

        Status(int httpCode) {
            this.httpCode = httpCode;
        }

        public int httpCode() {
            return httpCode;
        }

        Status worst(Status other) {
            return compareTo(other) >= 0 ? this : other;
        }
    }

    @FunctionalInterface
    public interface Probe {
        Result check() throws Exception;
    }

    public record Result(Status status, String detail) {
        public static Result up() {
            return new Result(Status.UP, "ok");
        }

        public static Result degraded(String why) {
            return new Result(Status.DEGRADED, why);
        }

        public static Result down(String why) {
            return new Result(Status.DOWN, why);
        }
    }

    public record Summary(Status overall, Map<String, Result> byProbe) {
        public String toJson() {
            StringBuilder json = new StringBuilder("{\"status\":\"").append(overall).append("\",\"probes\":{");
            String separator = "";
            for (Map.Entry<String, Result> e : byProbe.entrySet()) {
                json.append(separator).append(quote(e.getKey())).append(":{\"status\":\"")
                        .append(e.getValue().status()).append("\",\"detail\":")
                        .append(quote(e.getValue().detail())).append('}');
                separator = ",";
            }
            return json.append("}}").toString();
        }

        private static String quote(String raw) {
            StringBuilder out = new StringBuilder(raw.length() + 2).append('"');
            for (char c : raw.toCharArray()) {
                switch (c) {
                    case '"' -> out.append("\\\"");
                    case '\\' -> out.append("\\\\");
                    case '\n' -> out.append("\\n");
                    case '\t' -> out.append("\\t");
                    default -> {
                        if (c < 0x20) {
                            out.append(String.format("\\u%04x", (int) c));
                        } else {
                            out.append(c);
                        }
                    }
                }
            }
            return out.append('"').toString();
        }
    }

    private record Registration(Probe probe, boolean critical, Duration timeout) {
    }

    private static final int FLAP_THRESHOLD = 3;

    private final Map<String, Registration> probes = new ConcurrentHashMap<>();
    private final Map<String, Integer> failureStreaks = new ConcurrentHashMap<>();
    private final Executor executor;
    private volatile boolean draining;

    public HealthMonitor(Executor executor) {
        this.executor = executor;
    }

    /** A failing non-critical probe can degrade the service but never takes it out of rotation. */
    public void register(String name, boolean critical, Duration timeout, Probe probe) {
        Registration previous = probes.putIfAbsent(name, new Registration(probe, critical, timeout));
        if (previous != null) {
            throw new IllegalStateException("probe '" + name + "' registered twice");
        }
    }

    public void startDraining() {
        draining = true;
    }

    public Summary evaluate() {
        Map<String, CompletableFuture<Result>> running = new LinkedHashMap<>();
        probes.forEach((name, registration) -> running.put(name, launch(registration)));

        Map<String, Result> results = new LinkedHashMap<>();
        Map<Status, Integer> tally = new EnumMap<>(Status.class);
        Status overall = draining ? Status.DOWN : Status.UP;
        for (Map.Entry<String, CompletableFuture<Result>> e : running.entrySet()) {
            Registration registration = probes.get(e.getKey());
            Result result = dampen(e.getKey(), e.getValue().join());
            if (!registration.critical() && result.status() == Status.DOWN) {
                result = Result.degraded(result.detail());
            }
            results.put(e.getKey(), result);
            tally.merge(result.status(), 1, Integer::sum);
            overall = overall.worst(result.status());
        }
        if (draining) {
            results.put("lifecycle", Result.down("draining, " + tally.getOrDefault(Status.UP, 0) + " probes still up"));
        }
        return new Summary(overall, results);
    }

    private CompletableFuture<Result> launch(Registration registration) {
        return CompletableFuture.supplyAsync(() -> {
            try {
                return registration.probe().check();
            } catch (Exception e) {
                return Result.down(e.getClass().getSimpleName() + ": " + e.getMessage());
            }
        }, executor).orTimeout(registration.timeout().toMillis(), TimeUnit.MILLISECONDS).exceptionally(e -> {
            boolean slow = e instanceof TimeoutException || e.getCause() instanceof TimeoutException;
            return Result.down(slow ? "no answer within " + registration.timeout().toMillis() + " ms" : e.toString());
        });
    }

    /** One missed probe is noise; only a streak of failures counts as an outage. */
    private Result dampen(String name, Result result) {
        if (result.status() != Status.DOWN) {
            failureStreaks.remove(name);
            return result;
        }
        int streak = failureStreaks.merge(name, 1, Integer::sum);
        return streak < FLAP_THRESHOLD
                ? Result.degraded(result.detail() + " (failure " + streak + " of " + FLAP_THRESHOLD + ")")
                : result;
    }
}
