package ledger;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.Currency;
import java.util.Objects;

/** An exact amount held as a whole number of the currency's minor units. */
public final class Money implements Comparable<Money> {

    private final long minor;
    private final Currency currency;

    private Money(long minor, Currency currency) {
        this.minor = minor;
        this.currency = Objects.requireNonNull(currency, "currency");
    }

    public static Money ofMinor(long minor, Currency currency) {
        return new Money(minor, currency);
    }

    public static Money of(BigDecimal amount, Currency currency, RoundingMode rounding) {
        BigDecimal scaled = amount.movePointRight(digits(currency)).setScale(0, rounding);
        return new Money(scaled.longValueExact(), currency);
    }

    /** Parses input such as {@code "EUR 1,204.50"}. Digits beyond the currency's precision are rejected. */
    public static Money parse(String text) {
        String trimmed = text.strip();
        int gap = trimmed.indexOf(' ');
        if (gap != 3) {
            throw new IllegalArgumentException("expected '<CCY> <amount>' but got '" + text + "'");
        }
        Currency currency = Currency.getInstance(trimmed.substring(0, gap));
        BigDecimal amount = new BigDecimal(trimmed.substring(gap + 1).replace(",", ""));
        try {
            return of(amount, currency, RoundingMode.UNNECESSARY);
        } catch (ArithmeticException e) {
            throw new IllegalArgumentException("too many decimals for " + currency + ": " + amount, e);
        }
    }

    public static Money zero(Currency currency) {
        return new Money(0L, currency);
    }

    public Money plus(Money other) {
        return new Money(Math.addExact(minor, sameCurrency(other)), currency);
    }

    public Money minus(Money other) {
        return new Money(Math.subtractExact(minor, sameCurrency(other)), currency);
    }

    public Money negate() {
        return new Money(Math.negateExact(minor), currency);
    }

    public Money abs() {
        return minor < 0 ? negate() : this;
    }

    public Money times(BigDecimal factor, RoundingMode rounding) {
        BigDecimal product = BigDecimal.valueOf(minor).multiply(factor).setScale(0, rounding);
        return new Money(product.longValueExact(), currency);
    }

    /**
     * Splits the amount in proportion to the weights without gaining or losing a cent. Remainders go to the
     * parts that were rounded down the most, ties to the earlier part.
     */
    public Money[] allocate(int... weights) {
        long totalWeight = 0;
        for (int w : weights) {
            if (w < 0) {
                throw new IllegalArgumentException("negative weight " + w);
            }
            totalWeight += w;
        }
        if (totalWeight == 0) {
            throw new IllegalArgumentException("weights sum to zero");
        }

        long[] shares = new long[weights.length];
        long[] lost = new long[weights.length];
        long left = minor;
        for (int i = 0; i < weights.length; i++) {
            long scaled = Math.multiplyExact(minor, weights[i]);
            shares[i] = Math.floorDiv(scaled, totalWeight);
            lost[i] = Math.floorMod(scaled, totalWeight);
            left -= shares[i];
        }
        for (; left > 0; left--) {
            int neediest = 0;
            for (int i = 1; i < lost.length; i++) {
                if (lost[i] > lost[neediest]) {
                    neediest = i;
                }
            }
            shares[neediest]++;
            lost[neediest] = -1;
        }

        Money[] parts = new Money[shares.length];
        for (int i = 0; i < parts.length; i++) {
            parts[i] = new Money(shares[i], currency);
        }
        return parts;
    }

    public boolean isZero() {
        return minor == 0;
    }

    public boolean isNegative() {
        return minor < 0;
    }

    public long minor() {
        return minor;
    }

    public Currency currency() {
        return currency;
    }

    public BigDecimal amount() {
        return BigDecimal.valueOf(minor, digits(currency));
    }

    private long sameCurrency(Money other) {
        if (!currency.equals(other.currency)) {
            throw new IllegalArgumentException("cannot combine " + currency + " with " + other.currency);
        }
        return other.minor;
    }

    private static int digits(Currency currency) {
        return Math.max(0, currency.getDefaultFractionDigits());
    }

    @Override
    public int compareTo(Money other) {
        return Long.compare(minor, sameCurrency(other));
    }

    @Override
    public boolean equals(Object o) {
        return o instanceof Money m && minor == m.minor && currency.equals(m.currency);
    }

    @Override
    public int hashCode() {
        return 31 * Long.hashCode(minor) + currency.hashCode();
    }

    @Override
    public String toString() {
        return currency.getCurrencyCode() + ' ' + amount().toPlainString();
    }
}
