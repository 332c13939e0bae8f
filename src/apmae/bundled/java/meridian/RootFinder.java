package meridian;

import java.util.ArrayList;
import java.util.List;
import java.util.function.DoubleUnaryOperator;

/** Zeros of continuous functions of one variable. */
public final class RootFinder {

    public enum Method { BISECTION, SECANT, NEWTON }

    public record Root(double x, double residual, int iterations, Method method) { }

    public static final class NoConvergenceException extends ArithmeticException {
        private static final long serialVersionUID = 2L;
        public final double lastEstimate;

        NoConvergenceException(String message, double lastEstimate) {
            super(message);
            this.lastEstimate = lastEstimate;
        }
    }

    private double tolerance = 1e-12;
    private int maxIterations = 100;
    private boolean polish = true;

    public RootFinder tolerance(double value) {
        if (!(value > 0) || Double.isInfinite(value)) {
            throw new IllegalArgumentException("tolerance must be positive and finite, got " + value);
        }
        tolerance = value;
        return this;
    }

    public RootFinder maxIterations(int value) {
        maxIterations = value;
        return this;
    }

    public RootFinder polish(boolean enabled) {
        polish = enabled;
        return this;
    }

    /**
     * Finds a zero between two points where the function has opposite signs. Each round tries the
     * secant step first and falls back on halving whenever that step leaves the bracket or shrinks
     * it too slowly.
     */
    public Root bracketed(DoubleUnaryOperator f, double a, double b) {
        double fa = f.applyAsDouble(a);
        double fb = f.applyAsDouble(b);
        if (fa == 0.0) {
            return new Root(a, 0.0, 0, Method.BISECTION);
        }
        if (fb == 0.0) {
            return new Root(b, 0.0, 0, Method.BISECTION);
        }
        if (fa * fb > 0) {
            throw new IllegalArgumentException(
                    String.format("f(%g) = %g and f(%g) = %g do not bracket a root", a, fa, b, fb));
        }
        Method last = Method.BISECTION;
        boolean halveNext = false;
        for (int i = 1; i <= maxIterations; i++) {
            double width = Math.abs(b - a);
            double x = b - fb * (b - a) / (fb - fa);
            boolean inside = x > Math.min(a, b) && x < Math.max(a, b);
            if (halveNext || !inside) {
                x = a + (b - a) / 2;
                last = Method.BISECTION;
            } else {
                last = Method.SECANT;
            }
            double fx = f.applyAsDouble(x);
            if (fx == 0.0 || width <= tolerance * Math.max(1.0, Math.abs(x))) {
                return new Root(x, fx, i, last);
            }
            if (fx * fa < 0) {
                b = x;
                fb = fx;
            } else {
                a = x;
                fa = fx;
            }
            halveNext = Math.abs(b - a) > 0.5 * width;
        }
        throw new NoConvergenceException("bracket still " + Math.abs(b - a) + " wide after "
                + maxIterations + " steps", (a + b) / 2);
    }

    public Root newton(DoubleUnaryOperator f, DoubleUnaryOperator slope, double start) {
        double x = start;
        double fx = f.applyAsDouble(x);
        for (int i = 1; i <= maxIterations; i++) {
            double d = slope.applyAsDouble(x);
            if (d == 0.0 || Double.isNaN(d)) {
                throw new NoConvergenceException("derivative vanished at x = " + x, x);
            }
            double step = fx / d;
            double damping = 1.0;
            double candidate = x - step;
            double fc = f.applyAsDouble(candidate);
            while (!(Math.abs(fc) <= Math.abs(fx)) && damping > 0x1p-10) {
                damping *= 0.5;
                candidate = x - damping * step;
                fc = f.applyAsDouble(candidate);
            }
            double moved = Math.abs(candidate - x);
            x = candidate;
            fx = fc;
            if (moved <= tolerance * (1.0 + Math.abs(x)) || fx == 0.0) {
                return new Root(x, fx, i, Method.NEWTON);
            }
        }
        throw new NoConvergenceException("Newton iteration stalled near " + x, x);
    }

    /** Scans a range in equal steps and refines every sign change. Double roots go unnoticed. */
    public List<Root> scan(DoubleUnaryOperator f, double from, double to, int steps) {
        List<Root> roots = new ArrayList<>();
        double h = (to - from) / steps;
        double left = from;
        double fLeft = f.applyAsDouble(left);
        for (int i = 1; i <= steps; i++) {
            double right = i == steps ? to : from + i * h;
            double fRight = f.applyAsDouble(right);
            if (fLeft == 0.0) {
                roots.add(new Root(left, 0.0, 0, Method.BISECTION));
            } else if (fLeft * fRight < 0) {
                Root root = bracketed(f, left, right);
                roots.add(polish ? polished(f, root, h) : root);
            }
            left = right;
            fLeft = fRight;
        }
        if (fLeft == 0.0) {
            roots.add(new Root(left, 0.0, 0, Method.BISECTION));
        }
        return roots;
    }

    private Root polished(DoubleUnaryOperator f, Root rough, double spacing) {
        double eps = Math.cbrt(Math.ulp(1.0)) * Math.max(1.0, Math.abs(rough.x()));
        DoubleUnaryOperator slope = x -> (f.applyAsDouble(x + eps) - f.applyAsDouble(x - eps)) / (2 * eps);
        try {
            Root fine = newton(f, slope, rough.x());
            boolean strayed = Math.abs(fine.x() - rough.x()) > Math.abs(spacing);
            return strayed || Math.abs(fine.residual()) > Math.abs(rough.residual()) ? rough : fine;
        } catch (NoConvergenceException e) {
            return rough;
        }
    }
}
