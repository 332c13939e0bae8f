package harbour.berth;

import harbour.tide.TideTable;

import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Allocates quay time. Stays on one berth never overlap and are separated by a
 * turnaround gap, so that linesmen can clear the quay between two ships.
 */
public final class BerthScheduler {

    private static final Duration STEP = Duration.ofMinutes(15);
    private static final int MAX_PROBES = 4 * 24 * 3;

    private final Map<String, Berth> berths = new HashMap<>();
    private final Map<String, NavigableMap<Instant, Stay>> calendar = new HashMap<>();
    private final TideTable tides;
    private final Duration turnaround;
    private final ReentrantLock lock = new ReentrantLock(true);

    public BerthScheduler(Collection<Berth> berths, TideTable tides, Duration turnaround) {
        if (turnaround.isNegative()) {
            throw new IllegalArgumentException("turnaround must not be negative");
        }
        for (Berth berth : berths) {
            if (this.berths.putIfAbsent(berth.id(), berth) != null) {
                throw new IllegalArgumentException("duplicate berth " + berth.id());
            }
            calendar.put(berth.id(), new TreeMap<>());
        }
        this.tides = tides;
        this.turnaround = turnaround;
    }

    /**
     * Reserves the earliest slot at or after {@code wanted}. When several berths
     * are free at that moment the tightest fit wins, which keeps the long quays
     * open for long ships.
     */
    public Optional<Stay> reserve(Vessel vessel, Instant wanted, Duration length) {
        lock.lock();
        try {
            Instant probe = roundUp(wanted);
            for (int attempt = 0; attempt < MAX_PROBES; attempt++, probe = probe.plus(STEP)) {
                List<Berth> free = candidates(vessel, probe, length);
                if (free.isEmpty()) {
                    continue;
                }
                Berth chosen = free.get(0);
                Stay stay = new Stay(chosen.id(), vessel, probe, probe.plus(length));
                calendar.get(chosen.id()).put(probe, stay);
                return Optional.of(stay);
            }
            return Optional.empty();
        } finally {
            lock.unlock();
        }
    }

    public boolean release(Stay stay) {
        lock.lock();
        try {
            NavigableMap<Instant, Stay> stays = calendar.get(stay.berthId());
            return stays != null && stays.remove(stay.from(), stay);
        } finally {
            lock.unlock();
        }
    }

    private List<Berth> candidates(Vessel vessel, Instant at, Duration length) {
        double tide = tides.heightAt(at);
        List<Berth> found = new ArrayList<>();
        for (Berth berth : berths.values()) {
            if (berth.check(vessel, tide).usable() && isFree(berth.id(), at, at.plus(length))) {
                found.add(berth);
            }
        }
        found.sort(Comparator.comparingDouble((Berth b) -> b.slack(vessel)).thenComparing(Berth::id));
        return found;
    }

    private boolean isFree(String berthId, Instant from, Instant to) {
        NavigableMap<Instant, Stay> stays = calendar.get(berthId);
        Map.Entry<Instant, Stay> before = stays.floorEntry(from);
        if (before != null && before.getValue().to().plus(turnaround).isAfter(from)) {
            return false;
        }
        Instant next = stays.higherKey(from);
        return next == null || !to.plus(turnaround).isAfter(next);
    }

    private static Instant roundUp(Instant instant) {
        long step = STEP.toSeconds();
        long seconds = instant.getEpochSecond();
        if (instant.getNano() > 0) {
            seconds++;
        }
        long over = Math.floorMod(seconds, step);
        return Instant.ofEpochSecond(over == 0 ? seconds : seconds + step - over);
    }

    /** Share of the interval during which the berth was taken, from 0 to 1. */
    public double utilisation(String berthId, Instant from, Instant to) {
        if (!from.isBefore(to)) {
            throw new IllegalArgumentException("empty interval");
        }
        lock.lock();
        try {
            long busy = 0L;
            for (Stay stay : calendar.getOrDefault(berthId, new TreeMap<>()).values()) {
                long start = Math.max(stay.from().getEpochSecond(), from.getEpochSecond());
                long end = Math.min(stay.to().getEpochSecond(), to.getEpochSecond());
                if (end > start) {
                    busy += end - start;
                }
            }
            return (double) busy / Duration.between(from, to).toSeconds();
        } finally {
            lock.unlock();
        }
    }

    public record Stay(String berthId, Vessel vessel, Instant from, Instant to) {
        public Duration length() {
            return Duration.between(from, to);
        }
    }
}
