package meridian;

import java.util.Arrays;
import java.util.Locale;
import java.util.StringJoiner;
import java.util.function.DoubleUnaryOperator;

/** Dense row-major matrix of doubles. Operations return new matrices unless they say otherwise. */
public final class Matrix {

    private static final double PIVOT_FLOOR = 1e-13;

    private final int rows;
    private final int cols;
    private final double[] data;

    public Matrix(int rows, int cols) {
        this(rows, cols, new double[Math.multiplyExact(rows, cols)]);
    }

    private Matrix(int rows, int cols, double[] data) {
        this.rows = rows;
        this.cols = cols;
        this.data = data;
    }

    public static Matrix identity(int n) {
        Matrix m = new Matrix(n, n);
        for (int i = 0; i < n; i++) {
            m.data[i * n + i] = 1.0;
        }
        return m;
    }

    public static Matrix of(double[]... rows) {
        int width = rows.length == 0 ? 0 : rows[0].length;
        Matrix m = new Matrix(rows.length, width);
        for (int r = 0; r < rows.length; r++) {
            if (rows[r].length != width) {
                throw new IllegalArgumentException(
                        "row " + r + " has " + rows[r].length + " entries, expected " + width);
            }
            System.arraycopy(rows[r], 0, m.data, r * width, width);
        }
        return m;
    }

    public double at(int r, int c) {
        return data[r * cols + c];
    }

    public void set(int r, int c, double value) {
        data[r * cols + c] = value;
    }

    public int rows() {
        return rows;
    }

    public int cols() {
        return cols;
    }

    public boolean isSquare() {
        return rows == cols;
    }

    public Matrix times(Matrix other) {
        if (cols != other.rows) {
            throw new IllegalArgumentException(String.format(
                    "cannot multiply %dx%d by %dx%d", rows, cols, other.rows, other.cols));
        }
        Matrix product = new Matrix(rows, other.cols);
        for (int i = 0; i < rows; i++) {
            int out = i * other.cols;
            for (int k = 0; k < cols; k++) {
                double a = data[i * cols + k];
                if (a == 0.0) {
                    continue;
                }
                int in = k * other.cols;
                for (int j = 0; j < other.cols; j++) {
                    product.data[out + j] += a * other.data[in + j];
                }
            }
        }
        return product;
    }

    public double[] times(double... v) {
        if (v.length != cols) {
            throw new IllegalArgumentException("vector of length " + v.length + " for " + cols + " columns");
        }
        double[] result = new double[rows];
        for (int i = 0; i < rows; i++) {
            double sum = 0;
            for (int j = 0; j < cols; j++) {
                sum = Math.fma(data[i * cols + j], v[j], sum);
            }
            result[i] = sum;
        }
        return result;
    }

    public Matrix transposed() {
        Matrix t = new Matrix(cols, rows);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < cols; j++) {
                t.data[j * rows + i] = data[i * cols + j];
            }
        }
        return t;
    }

    public Matrix map(DoubleUnaryOperator f) {
        return new Matrix(rows, cols, Arrays.stream(data).map(f).toArray());
    }

    public Matrix power(int exponent) {
        if (!isSquare() || exponent < 0) {
            throw new IllegalArgumentException("power " + exponent + " of a " + rows + "x" + cols + " matrix");
        }
        Matrix result = identity(rows);
        Matrix base = this;
        while (exponent > 0) {
            if ((exponent & 1) == 1) {
                result = result.times(base);
            }
            exponent >>= 1;
            if (exponent > 0) {
                base = base.times(base);
            }
        }
        return result;
    }

    /** Solves {@code this * x = b} by LU factorisation with partial pivoting. */
    public double[] solve(double... b) {
        Factors lu = factor();
        if (lu.singular) {
            throw new ArithmeticException("matrix is singular to working precision");
        }
        double[] x = new double[rows];
        for (int i = 0; i < rows; i++) {
            x[i] = b[lu.order[i]];
            for (int j = 0; j < i; j++) {
                x[i] -= lu.packed[i][j] * x[j];
            }
        }
        for (int i = rows - 1; i >= 0; i--) {
            for (int j = i + 1; j < rows; j++) {
                x[i] -= lu.packed[i][j] * x[j];
            }
            x[i] /= lu.packed[i][i];
        }
        return x;
    }

    public double determinant() {
        Factors lu = factor();
        double det = lu.oddSwaps ? -1.0 : 1.0;
        for (int i = 0; i < rows; i++) {
            det *= lu.packed[i][i];
        }
        return det;
    }

    private static final class Factors {
        double[][] packed;
        int[] order;
        boolean oddSwaps = false;
        boolean singular = false;
    }

    private Factors factor() {
        if (!isSquare()) {
            throw new UnsupportedOperationException("only square matrices have an LU form here");
        }
        Factors f = new Factors();
        f.packed = new double[rows][];
        f.order = new int[rows];
        for (int i = 0; i < rows; i++) {
            f.packed[i] = Arrays.copyOfRange(data, i * cols, (i + 1) * cols);
            f.order[i] = i;
        }
        double[][] a = f.packed;
        for (int k = 0; k < rows; k++) {
            int pivot = k;
            for (int i = k + 1; i < rows; i++) {
                if (Math.abs(a[i][k]) > Math.abs(a[pivot][k])) {
                    pivot = i;
                }
            }
            if (Math.abs(a[pivot][k]) < PIVOT_FLOOR) {
                f.singular = true;
                continue;
            }
            if (pivot != k) {
                double[] row = a[k];
                a[k] = a[pivot];
                a[pivot] = row;
                int tag = f.order[k];
                f.order[k] = f.order[pivot];
                f.order[pivot] = tag;
                f.oddSwaps = !f.oddSwaps;
            }
            for (int i = k + 1; i < rows; i++) {
                double ratio = a[i][k] /= a[k][k];
                for (int j = k + 1; j < rows; j++) {
                    a[i][j] -= ratio * a[k][j];
                }
            }
        }
        return f;
    }

    @Override
    public String toString() {
        StringJoiner lines = new StringJoiner("\n");
        for (int i = 0; i < rows; i++) {
            StringJoiner line = new StringJoiner(", ", "[", "]");
            for (int j = 0; j < cols; j++) {
                line.add(String.format(Locale.ROOT, "%10.4f", at(i, j)));
            }
            lines.add(line.toString());
        }
        return lines.toString();
    }
}
