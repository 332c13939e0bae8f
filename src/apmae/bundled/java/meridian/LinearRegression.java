package meridian;

import java.util.Arrays;
import java.util.Objects;

/** Least squares with an optional ridge penalty, fitted from accumulated normal equations. */
public final class LinearRegression {

    public record Fit(double[] weights, double intercept, double rSquared, double residualVariance) {

        public double predict(double... features) {
            if (features.length != weights.length) {
                throw new IllegalArgumentException(
                        "model has " + weights.length + " features, row has " + features.length);
            }
            double y = intercept;
            for (int i = 0; i < weights.length; i++) {
                y += weights[i] * features[i];
            }
            return y;
        }

        @Override
        public boolean equals(Object o) {
            if (!(o instanceof Fit)) {
                return false;
            }
            Fit other = (Fit) o;
            return Arrays.equals(weights, other.weights) && intercept == other.intercept;
        }

        @Override
        public int hashCode() {
            return Objects.hash(Arrays.hashCode(weights), intercept);
        }
    }

    private final int width;
    private final double[] means;
    private final double[][] scatter;
    private final double[] crossed;
    private double targetMean;
    private double targetScatter;
    private double weightSum;
    private int observations;
    private double ridge = 0.0;

    public LinearRegression(int features) {
        if (features < 1) {
            throw new IllegalArgumentException("need at least one feature");
        }
        width = features;
        means = new double[features];
        scatter = new double[features][features];
        crossed = new double[features];
    }

    public LinearRegression withRidge(double lambda) {
        if (lambda < 0 || Double.isNaN(lambda)) {
            throw new IllegalArgumentException("ridge penalty must not be negative: " + lambda);
        }
        ridge = lambda;
        return this;
    }

    public void observe(double target, double... features) {
        observeWeighted(1.0, target, features);
    }

    public void observeWeighted(double weight, double target, double... features) {
        if (features.length != width) {
            throw new IllegalArgumentException("expected " + width + " features, got " + features.length);
        }
        if (weight <= 0) {
            return;
        }
        weightSum += weight;
        observations++;
        double share = weight / weightSum;
        // centred updates: subtracting large raw sums later would cost half the digits
        double keep = weight * (1 - share);
        double dy = target - targetMean;
        double[] dx = new double[width];
        for (int i = 0; i < width; i++) {
            dx[i] = features[i] - means[i];
        }
        for (int i = 0; i < width; i++) {
            for (int j = 0; j <= i; j++) {
                scatter[i][j] += keep * dx[i] * dx[j];
            }
            crossed[i] += keep * dx[i] * dy;
            means[i] += share * dx[i];
        }
        targetScatter += keep * dy * dy;
        targetMean += share * dy;
    }

    public boolean isDetermined() {
        return ridge > 0 || observations > width;
    }

    public Fit fit() {
        if (!isDetermined()) {
            throw new IllegalStateException(observations + " rows cannot determine "
                    + (width + 1) + " coefficients");
        }
        double[][] lower = cholesky();
        double[] w = crossed.clone();
        for (int i = 0; i < width; i++) {
            for (int j = 0; j < i; j++) {
                w[i] -= lower[i][j] * w[j];
            }
            w[i] /= lower[i][i];
        }
        for (int i = width - 1; i >= 0; i--) {
            for (int j = i + 1; j < width; j++) {
                w[i] -= lower[j][i] * w[j];
            }
            w[i] /= lower[i][i];
        }

        double intercept = targetMean;
        double explained = 0.0;
        for (int i = 0; i < width; i++) {
            intercept -= w[i] * means[i];
            double sxw = 0.0;
            for (int j = 0; j < width; j++) {
                sxw += (j <= i ? scatter[i][j] : scatter[j][i]) * w[j];
            }
            explained += w[i] * (2 * crossed[i] - sxw);
        }
        double left = Math.max(0.0, targetScatter - explained);
        int freedom = observations - width - 1;
        return new Fit(w, intercept,
                targetScatter == 0 ? 1.0 : 1 - left / targetScatter,
                freedom > 0 ? left / freedom : Double.NaN);
    }

    private double[][] cholesky() {
        double[][] l = new double[width][width];
        for (int i = 0; i < width; i++) {
            for (int j = 0; j <= i; j++) {
                double sum = scatter[i][j] + (i == j ? ridge : 0.0);
                for (int k = 0; k < j; k++) {
                    sum -= l[i][k] * l[j][k];
                }
                if (i != j) {
                    l[i][j] = sum / l[j][j];
                    continue;
                }
                if (sum <= 1e-12 * Math.max(scatter[i][i], Double.MIN_NORMAL)) {
                    throw new ArithmeticException("feature " + i + " is a combination of earlier ones");
                }
                l[i][i] = Math.sqrt(sum);
            }
        }
        return l;
    }
}
