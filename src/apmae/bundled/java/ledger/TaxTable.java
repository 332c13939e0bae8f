package ledger;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.ArrayList;
import java.util.Currency;
import java.util.List;

/**
 * Progressive tax over a list of bands with an allowance that tapers away for high earners. All thresholds
 * are yearly amounts in major units.
 */
public final class TaxTable {

    private record Band(long from, long to, BigDecimal rate, String label) {
        boolean isOpenEnded() {
            return to == Long.MAX_VALUE;
        }
    }

    public record Line(String label, Money taxable, BigDecimal rate, Money tax) {
    }

    public record Assessment(Money income, Money allowance, List<Line> lines) {
        public Money total() {
            return lines.stream().map(Line::tax).reduce(Money.zero(income.currency()), Money::plus);
        }

        public double effectiveRate() {
            return income.isZero() ? 0d : (double) total().minor() / income.minor();
        }
    }

    private final Currency currency;
    private final List<Band> bands;
    private final long allowance;
    private final long taperStart;
    private final int taperDivisor;

    private TaxTable(Builder b) {
        this.currency = b.currency;
        this.bands = List.copyOf(b.bands);
        this.allowance = b.allowance;
        this.taperStart = b.taperStart;
        this.taperDivisor = b.taperDivisor;
    }

    public static Builder in(Currency currency) {
        return new Builder(currency);
    }

    public Assessment assess(Money income) {
        if (income.isNegative()) {
            throw new IllegalArgumentException("income is negative: " + income);
        }
        Money free = allowanceFor(income);
        Money remaining = income.compareTo(free) <= 0 ? Money.zero(currency) : income.minus(free);
        List<Line> lines = new ArrayList<>();
        for (Band band : bands) {
            if (remaining.isZero()) {
                break;
            }
            Money slice = remaining;
            if (!band.isOpenEnded()) {
                Money width = major(band.to() - band.from());
                slice = remaining.compareTo(width) < 0 ? remaining : width;
            }
            Money tax = slice.times(band.rate(), RoundingMode.DOWN);
            lines.add(new Line(band.label(), slice, band.rate(), tax));
            remaining = remaining.minus(slice);
        }
        return new Assessment(income, free, List.copyOf(lines));
    }

    /** Tax to withhold this month given what was earned and withheld since the start of the tax year. */
    public Money withholding(int monthOfYear, Money earnedToDate, Money withheldToDate) {
        BigDecimal scaleUp = new BigDecimal(12).divide(new BigDecimal(monthOfYear), 10, RoundingMode.HALF_UP);
        Money annualised = earnedToDate.times(scaleUp, RoundingMode.HALF_UP);
        Money dueByNow = assess(annualised).total().allocate(monthOfYear, 12 - monthOfYear)[0];
        Money owed = dueByNow.minus(withheldToDate);
        return owed.isNegative() ? Money.zero(currency) : owed;
    }

    private Money allowanceFor(Money income) {
        Money full = major(allowance);
        Money excess = income.minus(major(taperStart));
        if (taperDivisor == 0 || excess.isNegative()) {
            return full;
        }
        Money reduced = full.minus(Money.ofMinor(excess.minor() / taperDivisor, currency));
        return reduced.isNegative() ? Money.zero(currency) : reduced;
    }

    private Money major(long units) {
        return Money.of(BigDecimal.valueOf(units), currency, RoundingMode.UNNECESSARY);
    }

    public static final class Builder {
        private final Currency currency;
        private final List<Band> bands = new ArrayList<>();
        private long allowance;
        private long taperStart = 0;
        private int taperDivisor = 0;

        private Builder(Currency currency) {
            this.currency = currency;
        }

        public Builder allowance(long units) {
            this.allowance = units;
            return this;
        }

        /** Above {@code start} one unit of allowance is lost for every {@code divisor} units earned. */
        public Builder taper(long start, int divisor) {
            this.taperStart = start;
            this.taperDivisor = divisor;
            return this;
        }

        public Builder band(String label, long upTo, String rate) {
            long from = bands.isEmpty() ? 0 : bands.get(bands.size() - 1).to();
            if (upTo <= from) {
                throw new IllegalArgumentException("band '" + label + "' ends at " + upTo + ", before it begins");
            }
            bands.add(new Band(from, upTo, new BigDecimal(rate), label));
            return this;
        }

        public TaxTable above(String label, String rate) {
            band(label, Long.MAX_VALUE, rate);
            return new TaxTable(this);
        }
    }
}
