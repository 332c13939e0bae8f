package meridian;

import java.util.function.DoubleBinaryOperator;
import java.util.function.DoubleUnaryOperator;

/** Definite integrals, adaptively or on a fixed Gauss-Legendre grid. */
public final class Quadrature {

    public record Estimate(double value, double error, long evaluations, boolean converged) {
        public Estimate plus(Estimate other) {
            return new Estimate(value + other.value, error + other.error,
                    evaluations + other.evaluations, converged && other.converged);
        }
    }

    private static final int MAX_DEPTH = 48;

    private Quadrature() { }

    /** Adaptive Simpson. An infinite bound is mapped onto a finite one first. */
    public static Estimate integrate(DoubleUnaryOperator f, double from, double to, double tolerance) {
        if (Double.isNaN(from) || Double.isNaN(to)) {
            throw new IllegalArgumentException("integration bound is NaN");
        }
        if (from == to) {
            return new Estimate(0.0, 0.0, 0L, true);
        }
        if (from > to) {
            Estimate e = integrate(f, to, from, tolerance);
            return new Estimate(-e.value, e.error, e.evaluations, e.converged);
        }
        if (Double.isInfinite(from) && Double.isInfinite(to)) {
            return integrate(f, from, 0.0, tolerance / 2).plus(integrate(f, 0.0, to, tolerance / 2));
        }
        if (Double.isInfinite(to)) {
            return integrate(t -> t >= 1 ? 0.0
                    : f.applyAsDouble(from + t / (1 - t)) / ((1 - t) * (1 - t)), 0, 1, tolerance);
        }
        if (Double.isInfinite(from)) {
            return integrate(x -> f.applyAsDouble(-x), -to, Double.POSITIVE_INFINITY, tolerance);
        }
        return new Adaptive(f).run(from, to, tolerance);
    }

    private static final class Adaptive {
        private final DoubleUnaryOperator f;
        private long evaluations;
        private double error = 0.0;
        private boolean converged = true;

        Adaptive(DoubleUnaryOperator f) {
            this.f = f;
        }

        Estimate run(double a, double b, double tolerance) {
            double fa = sample(a);
            double fm = sample((a + b) / 2);
            double fb = sample(b);
            double whole = (b - a) / 6 * (fa + 4 * fm + fb);
            double value = refine(a, b, fa, fm, fb, whole, tolerance, 0);
            return new Estimate(value, error, evaluations, converged);
        }

        private double refine(double a, double b, double fa, double fm, double fb,
                              double whole, double tolerance, int depth) {
            double m = (a + b) / 2;
            double flm = sample((a + m) / 2);
            double frm = sample((m + b) / 2);
            double left = (m - a) / 6 * (fa + 4 * flm + fm);
            double right = (b - m) / 6 * (fm + 4 * frm + fb);
            double delta = left + right - whole;
            if (depth >= 3 && Math.abs(delta) <= 15 * tolerance) {
                error += Math.abs(delta) / 15;
                return left + right + delta / 15;
            }
            if (depth == MAX_DEPTH || m <= a || m >= b) {
                converged = false;
                error += Math.abs(delta);
                return left + right;
            }
            return refine(a, m, fa, flm, fm, left, tolerance / 2, depth + 1)
                    + refine(m, b, fm, frm, fb, right, tolerance / 2, depth + 1);
        }

        private double sample(double x) {
            evaluations++;
            double y = f.applyAsDouble(x);
            if (Double.isNaN(y)) {
                throw new ArithmeticException("integrand is undefined at " + x);
            }
            return y;
        }
    }

    /** Nodes and weights on [-1, 1], found by Newton's method on the Legendre recurrence. */
    public static final class GaussRule {
        private final double[] nodes;
        private final double[] weights;

        public GaussRule(int n) {
            if (n < 1) {
                throw new IllegalArgumentException("a Gauss rule needs a node, got n = " + n);
            }
            nodes = new double[n];
            weights = new double[n];
            for (int i = 0; i < (n + 1) / 2; i++) {
                double x = Math.cos(Math.PI * (i + 0.75) / (n + 0.5));
                double slope;
                double step;
                int guard = 0;
                do {
                    double p = 1.0;
                    double before = 0.0;
                    for (int k = 1; k <= n; k++) {
                        double older = before;
                        before = p;
                        p = ((2 * k - 1) * x * before - (k - 1) * older) / k;
                    }
                    slope = n * (x * p - before) / (x * x - 1);
                    step = p / slope;
                    x -= step;
                } while (Math.abs(step) > 1e-15 && ++guard < 20);
                nodes[i] = -x;
                nodes[n - 1 - i] = x;
                weights[i] = weights[n - 1 - i] = 2 / ((1 - x * x) * slope * slope);
            }
        }

        public double apply(DoubleUnaryOperator f, double a, double b) {
            double half = (b - a) / 2;
            double centre = (a + b) / 2;
            double sum = 0.0;
            for (int i = 0; i < nodes.length; i++) {
                sum += weights[i] * f.applyAsDouble(centre + half * nodes[i]);
            }
            return half * sum;
        }

        public double apply(DoubleBinaryOperator f, double ax, double bx, double ay, double by) {
            return apply(x -> apply(y -> f.applyAsDouble(x, y), ay, by), ax, bx);
        }
    }
}
