package meridian;

import java.util.Arrays;

/** Univariate polynomial with real coefficients, lowest degree first and no trailing zeros. */
public final class Polynomial {

    public static final Polynomial ZERO = new Polynomial();
    public static final Polynomial X = of(0, 1);

    public record Division(Polynomial quotient, Polynomial remainder) {
        public boolean isExact() {
            return remainder.isZero();
        }
    }

    private final double[] coefficients;

    private Polynomial(double... trimmed) {
        this.coefficients = trimmed;
    }

    public static Polynomial of(double... coefficients) {
        int n = coefficients.length;
        while (n > 0 && coefficients[n - 1] == 0.0) {
            n--;
        }
        return n == 0 ? ZERO : new Polynomial(Arrays.copyOf(coefficients, n));
    }

    public static Polynomial withRoots(double... roots) {
        double[] c = new double[roots.length + 1];
        c[0] = 1.0;
        for (int k = 0; k < roots.length; k++) {
            for (int i = k + 1; i > 0; i--) {
                c[i] = c[i - 1] - roots[k] * c[i];
            }
            c[0] *= -roots[k];
        }
        return of(c);
    }

    /** The polynomial of least degree through all the points, by divided differences. */
    public static Polynomial interpolate(double[] xs, double[] ys) {
        if (xs.length != ys.length) {
            throw new IllegalArgumentException(xs.length + " abscissae but " + ys.length + " ordinates");
        }
        double[] diff = ys.clone();
        for (int order = 1; order < xs.length; order++) {
            for (int i = xs.length - 1; i >= order; i--) {
                double gap = xs[i] - xs[i - order];
                if (gap == 0.0) {
                    throw new ArithmeticException("abscissa " + xs[i] + " occurs twice");
                }
                diff[i] = (diff[i] - diff[i - 1]) / gap;
            }
        }
        Polynomial p = ZERO;
        for (int i = xs.length - 1; i >= 0; i--) {
            p = p.times(of(-xs[i], 1)).plus(of(diff[i]));
        }
        return p;
    }

    /** Degree of the zero polynomial is reported as -1. */
    public int degree() {
        return coefficients.length - 1;
    }

    public boolean isZero() {
        return coefficients.length == 0;
    }

    public double coefficient(int power) {
        return power < coefficients.length ? coefficients[power] : 0.0;
    }

    public double evaluate(double x) {
        double acc = 0.0;
        for (int i = coefficients.length - 1; i >= 0; i--) {
            acc = Math.fma(acc, x, coefficients[i]);
        }
        return acc;
    }

    public Polynomial plus(Polynomial other) {
        double[] sum = Arrays.copyOf(coefficients, Math.max(coefficients.length, other.coefficients.length));
        for (int i = 0; i < other.coefficients.length; i++) {
            sum[i] += other.coefficients[i];
        }
        return of(sum);
    }

    public Polynomial minus(Polynomial other) {
        return plus(other.scaled(-1));
    }

    public Polynomial scaled(double factor) {
        return of(Arrays.stream(coefficients).map(c -> c * factor).toArray());
    }

    public Polynomial times(Polynomial other) {
        if (isZero() || other.isZero()) {
            return ZERO;
        }
        double[] product = new double[degree() + other.degree() + 1];
        for (int i = 0; i <= degree(); i++) {
            for (int j = 0; j <= other.degree(); j++) {
                product[i + j] += coefficients[i] * other.coefficients[j];
            }
        }
        return of(product);
    }

    public Division dividedBy(Polynomial divisor) {
        if (divisor.isZero()) {
            throw new ArithmeticException("division by the zero polynomial");
        }
        int shift = degree() - divisor.degree();
        if (shift < 0) {
            return new Division(ZERO, this);
        }
        double[] rest = coefficients.clone();
        double[] quotient = new double[shift + 1];
        double lead = divisor.coefficients[divisor.degree()];
        for (; shift >= 0; shift--) {
            double q = rest[shift + divisor.degree()] / lead;
            quotient[shift] = q;
            for (int j = 0; j < divisor.degree(); j++) {
                rest[shift + j] -= q * divisor.coefficients[j];
            }
        }
        return new Division(of(quotient), of(Arrays.copyOf(rest, divisor.degree())));
    }

    public Polynomial derivative() {
        if (degree() < 1) {
            return ZERO;
        }
        double[] d = new double[degree()];
        for (int i = 1; i <= degree(); i++) {
            d[i - 1] = i * coefficients[i];
        }
        return of(d);
    }

    public Polynomial compose(Polynomial inner) {
        Polynomial result = ZERO;
        for (int i = degree(); i >= 0; i--) {
            result = result.times(inner).plus(of(coefficients[i]));
        }
        return result;
    }

    @Override
    public boolean equals(Object o) {
        return o instanceof Polynomial p && Arrays.equals(coefficients, p.coefficients);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(coefficients);
    }

    @Override
    public String toString() {
        if (isZero()) {
            return "0";
        }
        StringBuilder sb = new StringBuilder();
        for (int i = degree(); i >= 0; i--) {
            double c = coefficients[i];
            if (c == 0.0) {
                continue;
            }
            if (sb.length() > 0) {
                sb.append(c < 0 ? " - " : " + ");
            } else if (c < 0) {
                sb.append('-');
            }
            double magnitude = Math.abs(c);
            if (magnitude != 1.0 || i == 0) {
                sb.append(magnitude == Math.rint(magnitude) && magnitude < 1e15
                        ? Long.toString((long) magnitude) : Double.toString(magnitude));
            }
            switch (i) {
                case 0 -> { }
                case 1 -> sb.append('x');
                default -> sb.append("x^").append(i);
            }
        }
        return sb.toString();
    }
}
