package cellar;

import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;

/**
 * Chooses which sealed segments are worth rewriting. Works on statistics alone and never touches a file,
 * which keeps the policy easy to simulate against recorded workloads.
 */
public final class CompactionPlanner {

    public enum Reason { GARBAGE, FRAGMENTATION, EXPIRED_TOMBSTONES }

    public record SegmentStats(long id, long totalBytes, long liveBytes, int tombstones, Instant sealedAt) {

        public SegmentStats {
            if (liveBytes < 0 || liveBytes > totalBytes) {
                throw new IllegalArgumentException("segment " + id + ": live " + liveBytes + " of " + totalBytes);
            }
        }

        double garbageRatio() {
            return totalBytes == 0 ? 1.0 : 1.0 - (double) liveBytes / totalBytes;
        }
    }

    public record Plan(Reason reason, List<Long> segmentIds, long bytesToRewrite, long bytesReclaimed) {

        /** Bytes written per byte freed; the lower the better. */
        public double writeCost() {
            return bytesReclaimed == 0 ? Double.POSITIVE_INFINITY : bytesToRewrite / (double) bytesReclaimed;
        }
    }

    private static final double GARBAGE_THRESHOLD = 0.4;
    private static final int SMALL_RUN = 4;

    private final long targetSegmentBytes;
    private final long ioBudgetBytes;
    private final Duration tombstoneGrace;

    public CompactionPlanner(long targetSegmentBytes, long ioBudgetBytes, Duration tombstoneGrace) {
        this.targetSegmentBytes = targetSegmentBytes;
        this.ioBudgetBytes = ioBudgetBytes;
        this.tombstoneGrace = tombstoneGrace;
    }

    public Optional<Plan> next(List<SegmentStats> sealed, Instant now) {
        List<Plan> candidates = new ArrayList<>(3);
        garbageHeavy(sealed).ifPresent(candidates::add);
        expired(sealed, now).ifPresent(candidates::add);
        if (candidates.isEmpty()) {
            // Merging small neighbours frees nothing, so only do it when the store is otherwise idle.
            return smallNeighbours(sealed);
        }
        return candidates.stream().min(Comparator.comparingDouble(Plan::writeCost));
    }

    private Optional<Plan> garbageHeavy(List<SegmentStats> sealed) {
        List<SegmentStats> worstFirst = sealed.stream()
                .filter(s -> s.garbageRatio() >= GARBAGE_THRESHOLD)
                .sorted(Comparator.comparingDouble(SegmentStats::garbageRatio).reversed())
                .toList();
        List<SegmentStats> chosen = new ArrayList<>();
        long spent = 0;
        for (SegmentStats s : worstFirst) {
            if (spent + s.liveBytes() > ioBudgetBytes) {
                continue;
            }
            chosen.add(s);
            spent += s.liveBytes();
        }
        return chosen.isEmpty() ? Optional.empty() : Optional.of(plan(Reason.GARBAGE, chosen));
    }

    private Optional<Plan> expired(List<SegmentStats> sealed, Instant now) {
        Instant cutoff = now.minus(tombstoneGrace);
        // A tombstone may only vanish once nothing older can resurrect the key, hence oldest segments only.
        List<SegmentStats> prefix = sealed.stream()
                .sorted(Comparator.comparingLong(SegmentStats::id))
                .takeWhile(s -> s.sealedAt().isBefore(cutoff))
                .limit(SMALL_RUN)
                .toList();
        int tombstones = prefix.stream().mapToInt(SegmentStats::tombstones).sum();
        boolean affordable = prefix.stream().mapToLong(SegmentStats::liveBytes).sum() <= ioBudgetBytes;
        return tombstones > 0 && affordable
                ? Optional.of(plan(Reason.EXPIRED_TOMBSTONES, prefix))
                : Optional.empty();
    }

    private Optional<Plan> smallNeighbours(List<SegmentStats> sealed) {
        List<SegmentStats> ordered = new ArrayList<>(sealed);
        ordered.sort(Comparator.comparingLong(SegmentStats::id));
        List<SegmentStats> run = new ArrayList<>();
        long runBytes = 0;
        for (SegmentStats s : ordered) {
            boolean fits = s.liveBytes() < targetSegmentBytes / 2 && runBytes + s.liveBytes() <= targetSegmentBytes;
            if (!fits) {
                if (run.size() >= SMALL_RUN) {
                    break;
                }
                run.clear();
                runBytes = 0;
                continue;
            }
            run.add(s);
            runBytes += s.liveBytes();
        }
        return run.size() >= SMALL_RUN ? Optional.of(plan(Reason.FRAGMENTATION, run)) : Optional.empty();
    }

    private static Plan plan(Reason reason, List<SegmentStats> chosen) {
        long live = 0;
        long total = 0;
        List<Long> ids = new ArrayList<>(chosen.size());
        for (SegmentStats s : chosen) {
            live += s.liveBytes();
            total += s.totalBytes();
            ids.add(s.id());
        }
        ids.sort(null);
        return new Plan(reason, List.copyOf(ids), live, total - live);
    }
}
