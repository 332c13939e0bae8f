package ledger;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;
import java.time.LocalDate;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Currency;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.locks.StampedLock;

/**
 * Historical exchange rates. A pair with no direct quote is crossed through the fewest intermediate
 * currencies that have a recent enough rate.
 */
public class ExchangeRates {

    private record Pair(Currency from, Currency to) {
    }

    public record Quote(BigDecimal rate, LocalDate oldest, List<Currency> path) {
        public boolean isCrossed() {
            return path.size() > 2;
        }
    }

    public static final class RateUnavailableException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        RateUnavailableException(Currency from, Currency to, LocalDate date) {
            super("no " + from + "/" + to + " rate for " + date);
        }
    }

    private static final MathContext CONTEXT = new MathContext(16, RoundingMode.HALF_EVEN);
    private static final int MAX_HOPS = 3;

    private final Map<Pair, NavigableMap<LocalDate, BigDecimal>> series = new HashMap<>();
    private final StampedLock lock = new StampedLock();
    private final int maxAgeDays;

    public ExchangeRates(int maxAgeDays) {
        this.maxAgeDays = maxAgeDays;
    }

    public void record(Currency from, Currency to, LocalDate date, BigDecimal rate) {
        if (rate.signum() <= 0 || from.equals(to)) {
            throw new IllegalArgumentException("bad rate " + from + "/" + to + " = " + rate);
        }
        long stamp = lock.writeLock();
        try {
            series.computeIfAbsent(new Pair(from, to), p -> new TreeMap<>()).put(date, rate);
            series.computeIfAbsent(new Pair(to, from), p -> new TreeMap<>())
                    .put(date, BigDecimal.ONE.divide(rate, CONTEXT));
        } finally {
            lock.unlockWrite(stamp);
        }
    }

    public Money convert(Money source, Currency target, LocalDate date) {
        if (source.currency().equals(target)) {
            return source;
        }
        Quote quote = quote(source.currency(), target, date)
                .orElseThrow(() -> new RateUnavailableException(source.currency(), target, date));
        return Money.of(source.amount().multiply(quote.rate()), target, RoundingMode.HALF_EVEN);
    }

    public Optional<Quote> quote(Currency from, Currency to, LocalDate date) {
        long stamp = lock.readLock();
        try {
            return search(from, to, date);
        } finally {
            lock.unlockRead(stamp);
        }
    }

    private Optional<Quote> search(Currency from, Currency to, LocalDate date) {
        Map<Currency, Quote> reached = new LinkedHashMap<>();
        Deque<Currency> frontier = new ArrayDeque<>();
        reached.put(from, new Quote(BigDecimal.ONE, date, List.of(from)));
        frontier.add(from);
        while (!frontier.isEmpty()) {
            Currency here = frontier.poll();
            Quote soFar = reached.get(here);
            if (here.equals(to)) {
                return Optional.of(soFar);
            }
            if (soFar.path().size() > MAX_HOPS) {
                continue;
            }
            for (Map.Entry<Pair, NavigableMap<LocalDate, BigDecimal>> e : series.entrySet()) {
                Currency next = e.getKey().to();
                if (!e.getKey().from().equals(here) || reached.containsKey(next)) {
                    continue;
                }
                Map.Entry<LocalDate, BigDecimal> fixing = e.getValue().floorEntry(date);
                if (fixing == null || fixing.getKey().plusDays(maxAgeDays).isBefore(date)) {
                    continue;
                }
                List<Currency> path = new ArrayList<>(soFar.path());
                path.add(next);
                LocalDate oldest = fixing.getKey().isBefore(soFar.oldest()) ? fixing.getKey() : soFar.oldest();
                reached.put(next, new Quote(soFar.rate().multiply(fixing.getValue(), CONTEXT), oldest, path));
                frontier.add(next);
            }
        }
        return Optional.empty();
    }

    /** Unrealised gain (positive) or loss on holding {@code position} between two dates. */
    public Money revaluation(Money position, Currency reporting, LocalDate opened, LocalDate now) {
        Money then = convert(position, reporting, opened);
        return convert(position, reporting, now).minus(then);
    }
}
