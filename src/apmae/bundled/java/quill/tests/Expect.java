package quill.tests;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/** Just enough of a test harness: named cases, counted failures, an exit status. */
final class Expect {

    @FunctionalInterface
    interface Body {
        void run() throws Exception;
    }

    private final String suite;
    private final List<String> failures = new ArrayList<>();
    private int cases = 0;

    Expect(String suite) {
        this.suite = suite;
    }

    void check(String name, Body body) {
        cases++;
        try {
            body.run();
        } catch (AssertionError e) {
            failures.add(name + ": " + e.getMessage());
        } catch (Exception e) {
            failures.add(name + ": unexpected " + e);
        }
    }

    static void same(Object expected, Object actual) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError("expected <" + expected + "> but got <" + actual + ">");
        }
    }

    static void near(double expected, double actual, double tolerance) {
        if (Double.isNaN(actual) || Math.abs(expected - actual) > tolerance) {
            throw new AssertionError("expected " + expected + " +/- " + tolerance + ", got " + actual);
        }
    }

    static void yes(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }

    static <T extends Throwable> T raises(Class<T> type, Body body) {
        try {
            body.run();
        } catch (Throwable thrown) {
            if (type.isInstance(thrown)) {
                return type.cast(thrown);
            }
            throw new AssertionError("wanted " + type.getSimpleName() + ", caught " + thrown);
        }
        throw new AssertionError("wanted " + type.getSimpleName() + ", nothing was thrown");
    }

    boolean report() {
        System.out.printf("%s: %d cases, %d failed%n", suite, cases, failures.size());
        failures.forEach(f -> System.out.println("  FAIL " + f));
        return failures.isEmpty();
    }
}
