package ledger;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;
import java.time.LocalDate;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Repayment plans for fixed-rate loans. Rates are annual fractions, so 0.045 means 4.5 percent. */
public final class LoanSchedule {

    public enum Method { ANNUITY, EQUAL_PRINCIPAL, INTEREST_ONLY }

    public enum DayCount {
        ACTUAL_365 {
            @Override
            BigDecimal fraction(LocalDate from, LocalDate to) {
                return ratio(ChronoUnit.DAYS.between(from, to), 365);
            }
        },
        ACTUAL_360 {
            @Override
            BigDecimal fraction(LocalDate from, LocalDate to) {
                return ratio(ChronoUnit.DAYS.between(from, to), 360);
            }
        },
        THIRTY_360 {
            @Override
            BigDecimal fraction(LocalDate from, LocalDate to) {
                int startDay = Math.min(from.getDayOfMonth(), 30);
                int endDay = to.getDayOfMonth() == 31 && startDay == 30 ? 30 : to.getDayOfMonth();
                int days = 360 * (to.getYear() - from.getYear())
                        + 30 * (to.getMonthValue() - from.getMonthValue())
                        + endDay - startDay;
                return ratio(days, 360);
            }
        };

        abstract BigDecimal fraction(LocalDate from, LocalDate to);

        private static BigDecimal ratio(long days, int basis) {
            return BigDecimal.valueOf(days).divide(BigDecimal.valueOf(basis), PRECISION);
        }
    }

    public record Terms(Money principal, BigDecimal annualRate, int months, LocalDate drawdown,
                        Method method, DayCount dayCount) {
        public Terms {
            if (months < 1 || months > 600) {
                throw new IllegalArgumentException("term of " + months + " months");
            }
            if (annualRate.signum() < 0 || annualRate.compareTo(BigDecimal.ONE) >= 0) {
                throw new IllegalArgumentException("annual rate " + annualRate + " is not a fraction");
            }
        }
    }

    public record Instalment(int number, LocalDate due, Money interest, Money principal, Money outstanding) {
        public Money payment() {
            return interest.plus(principal);
        }
    }

    private static final MathContext PRECISION = MathContext.DECIMAL64;
    private static final RoundingMode ROUNDING = RoundingMode.HALF_EVEN;

    private LoanSchedule() {
    }

    public static List<Instalment> build(Terms terms) {
        List<Instalment> plan = new ArrayList<>(terms.months());
        Money level = levelPayment(terms);
        Money[] slices = terms.principal().allocate(ones(terms.months()));
        Money outstanding = terms.principal();
        LocalDate previous = terms.drawdown();

        for (int n = 1; n <= terms.months(); n++) {
            LocalDate due = terms.drawdown().plusMonths(n);
            Money interest = accrued(outstanding, terms, previous, due);
            boolean last = n == terms.months();
            Money principal;
            if (last) {
                principal = outstanding;
            } else {
                principal = switch (terms.method()) {
                    case ANNUITY -> level.minus(interest);
                    case EQUAL_PRINCIPAL -> slices[n - 1];
                    case INTEREST_ONLY -> Money.zero(outstanding.currency());
                };
            }
            outstanding = outstanding.minus(principal);
            plan.add(new Instalment(n, due, interest, principal, outstanding));
            previous = due;
        }
        return plan;
    }

    /** The constant monthly payment that clears the loan if every month were exactly a twelfth of a year. */
    public static Money levelPayment(Terms terms) {
        BigDecimal monthly = terms.annualRate().divide(BigDecimal.valueOf(12), PRECISION);
        if (monthly.signum() == 0) {
            BigDecimal share = BigDecimal.ONE.divide(BigDecimal.valueOf(terms.months()), PRECISION);
            return terms.principal().times(share, RoundingMode.UP);
        }
        BigDecimal growth = BigDecimal.ONE.add(monthly).pow(terms.months(), PRECISION);
        BigDecimal factor = monthly.multiply(growth).divide(growth.subtract(BigDecimal.ONE), PRECISION);
        return terms.principal().times(factor, ROUNDING);
    }

    /**
     * Effective yearly rate implied by a price and a stream of monthly payments, found by bisection. Good to
     * about a hundredth of a basis point, which is more than any disclosure form asks for.
     */
    public static double effectiveRate(Money received, List<Instalment> plan) {
        double low = 0.0;
        double high = 5.0;
        for (int i = 0; i < 200 && high - low > 1e-9; i++) {
            double mid = (low + high) / 2;
            double monthlyDiscount = Math.pow(1.0 + mid, -1.0 / 12);
            double present = 0;
            double discount = 1;
            for (Instalment instalment : plan) {
                discount *= monthlyDiscount;
                present += instalment.payment().minor() * discount;
            }
            if (present > received.minor()) {
                low = mid;
            } else {
                high = mid;
            }
        }
        return (low + high) / 2;
    }

    private static Money accrued(Money balance, Terms terms, LocalDate from, LocalDate to) {
        BigDecimal period = terms.dayCount().fraction(from, to);
        return balance.times(terms.annualRate().multiply(period, PRECISION), ROUNDING);
    }

    private static int[] ones(int count) {
        int[] weights = new int[count];
        Arrays.fill(weights, 1);
        return weights;
    }
}
