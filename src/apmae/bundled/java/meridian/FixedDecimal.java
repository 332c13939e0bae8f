package meridian;

import java.io.Serializable;
import java.math.BigInteger;

/**
 * A decimal number held as a long count of units of {@code 10^-scale}. Overflow is an error rather
 * than a wraparound, which is the reason to prefer this to a bare long in ledgers.
 */
public final class FixedDecimal implements Comparable<FixedDecimal>, Serializable {

    private static final long serialVersionUID = 7_204_118L;
    private static final int MAX_SCALE = 18;

    private static final long[] POWERS = new long[MAX_SCALE + 1];

    static {
        POWERS[0] = 1L;
        for (int i = 1; i < POWERS.length; i++) {
            POWERS[i] = POWERS[i - 1] * 10L;
        }
    }

    public enum Rounding {
        DOWN, UP, HALF_UP, HALF_EVEN, FLOOR, CEILING
    }

    private final long units;
    private final int scale;

    private FixedDecimal(long units, int scale) {
        this.units = units;
        this.scale = scale;
    }

    public static FixedDecimal ofUnits(long units, int scale) {
        if (scale < 0 || scale > MAX_SCALE) {
            throw new IllegalArgumentException("scale " + scale + " is not within 0.." + MAX_SCALE);
        }
        return new FixedDecimal(units, scale);
    }

    public static FixedDecimal parse(String text) {
        int i = 0;
        boolean negative = false;
        if (!text.isEmpty() && (text.charAt(0) == '-' || text.charAt(0) == '+')) {
            negative = text.charAt(0) == '-';
            i = 1;
        }
        long units = 0;
        int digits = 0;
        int scale = -1;
        for (; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '_':
                    continue;
                case '.':
                    if (scale >= 0) {
                        throw new NumberFormatException("second decimal point in \"" + text + "\"");
                    }
                    scale = 0;
                    continue;
                default:
                    if (c < '0' || c > '9') {
                        throw new NumberFormatException("unexpected '" + c + "' in \"" + text + "\"");
                    }
            }
            units = Math.addExact(Math.multiplyExact(units, 10L), c - '0');
            digits++;
            if (scale >= 0) {
                scale++;
            }
        }
        if (digits == 0) {
            throw new NumberFormatException("no digits in \"" + text + "\"");
        }
        return ofUnits(negative ? -units : units, Math.max(scale, 0));
    }

    public FixedDecimal plus(FixedDecimal other) {
        int common = Math.max(scale, other.scale);
        return new FixedDecimal(Math.addExact(unitsAt(common), other.unitsAt(common)), common);
    }

    public FixedDecimal minus(FixedDecimal other) {
        return plus(other.negated());
    }

    public FixedDecimal negated() {
        return new FixedDecimal(Math.negateExact(units), scale);
    }

    /** Product rounded to the given scale; the intermediate value is kept to 128 bits. */
    public FixedDecimal times(FixedDecimal other, int resultScale, Rounding rounding) {
        long high = Math.multiplyHigh(units, other.units);
        long low = units * other.units;
        int excess = scale + other.scale - resultScale;
        if (high == low >> 63) {
            return excess >= 0
                    ? ofUnits(divide(low, power(excess), rounding), resultScale)
                    : ofUnits(Math.multiplyExact(low, power(-excess)), resultScale);
        }
        BigInteger wide = BigInteger.valueOf(units)
                .multiply(BigInteger.valueOf(other.units));
        if (excess <= 0) {
            throw new ArithmeticException("product of " + this + " and " + other + " overflows");
        }
        BigInteger[] parts = wide.divideAndRemainder(BigInteger.TEN.pow(excess));
        int twice = parts[1].abs().shiftLeft(1).compareTo(BigInteger.TEN.pow(excess));
        long truncated = parts[0].longValueExact();
        boolean bump = roundsAway(wide.signum(), parts[1].signum() != 0, twice, (truncated & 1) != 0, rounding);
        return ofUnits(bump ? Math.addExact(truncated, wide.signum()) : truncated, resultScale);
    }

    public FixedDecimal dividedBy(long divisor, Rounding rounding) {
        if (divisor == 0) {
            throw new ArithmeticException(this + " / 0");
        }
        return new FixedDecimal(divide(units, divisor, rounding), scale);
    }

    public FixedDecimal rescaled(int newScale, Rounding rounding) {
        if (newScale >= scale) {
            return ofUnits(unitsAt(newScale), newScale);
        }
        return ofUnits(divide(units, power(scale - newScale), rounding), newScale);
    }

    /** Splits into parts that differ by at most one unit and still add up to this amount. */
    public FixedDecimal[] allocate(int parts) {
        FixedDecimal[] shares = new FixedDecimal[parts];
        long base = Math.floorDiv(units, (long) parts);
        long extra = Math.floorMod(units, (long) parts);
        for (int i = 0; i < parts; i++) {
            shares[i] = new FixedDecimal(i < extra ? base + 1 : base, scale);
        }
        return shares;
    }

    public int signum() {
        return Long.signum(units);
    }

    private long unitsAt(int newScale) {
        return Math.multiplyExact(units, power(newScale - scale));
    }

    private static long power(int exponent) {
        if (exponent > MAX_SCALE) {
            throw new ArithmeticException("10^" + exponent + " does not fit in a long");
        }
        return POWERS[exponent];
    }

    private static long divide(long numerator, long divisor, Rounding rounding) {
        long quotient = numerator / divisor;
        long rest = numerator % divisor;
        int sign = (numerator ^ divisor) < 0 ? -1 : 1;
        long half = Math.abs(divisor) - Math.abs(rest);
        int twice = Long.compare(Math.abs(rest), half);
        return roundsAway(sign, rest != 0, twice, (quotient & 1) != 0, rounding) ? quotient + sign : quotient;
    }

    private static boolean roundsAway(int sign, boolean inexact, int vsHalf, boolean odd, Rounding rounding) {
        if (!inexact) {
            return false;
        }
        return switch (rounding) {
            case DOWN -> false;
            case UP -> true;
            case HALF_UP -> vsHalf >= 0;
            case HALF_EVEN -> vsHalf > 0 || (vsHalf == 0 && odd);
            case FLOOR -> sign < 0;
            case CEILING -> sign > 0;
        };
    }

    @Override
    public int compareTo(FixedDecimal other) {
        if (scale == other.scale) {
            return Long.compare(units, other.units);
        }
        int whole = Long.compare(units / POWERS[scale], other.units / POWERS[other.scale]);
        if (whole != 0) {
            return whole;
        }
        long a = units % POWERS[scale] * POWERS[MAX_SCALE - scale];
        long b = other.units % POWERS[other.scale] * POWERS[MAX_SCALE - other.scale];
        return Long.compare(a, b);
    }

    @Override
    public boolean equals(Object o) {
        return o instanceof FixedDecimal d && compareTo(d) == 0;
    }

    @Override
    public int hashCode() {
        long u = units;
        int s = scale;
        while (s > 0 && u % 10 == 0) {
            u /= 10;
            s--;
        }
        return 31 * Long.hashCode(u) + s;
    }

    @Override
    public String toString() {
        if (scale == 0) {
            return Long.toString(units);
        }
        StringBuilder digits = new StringBuilder(Long.toUnsignedString(Math.abs(units)));
        while (digits.length() <= scale) {
            digits.insert(0, '0');
        }
        digits.insert(digits.length() - scale, '.');
        return units < 0 ? "-" + digits : digits.toString();
    }
}
