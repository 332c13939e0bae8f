package lexis.expr;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;

/** Tree-walking evaluator. Values are Double, String, Boolean or null. */
public final class Evaluator {

    private final Map<String, Builtin> functions = new HashMap<>();

    public Evaluator() {
        register("min", 1, -1, args -> args.stream().mapToDouble(Evaluator::number).min().getAsDouble());
        register("max", 1, -1, args -> args.stream().mapToDouble(Evaluator::number).max().getAsDouble());
        register("abs", 1, 1, args -> Math.abs(number(args.get(0))));
        register("sqrt", 1, 1, args -> {
            double x = number(args.get(0));
            if (x < 0) {
                throw new EvaluationException("square root of a negative number: " + x);
            }
            return Math.sqrt(x);
        });
        register("round", 1, 2, args -> {
            double scale = args.size() == 2 ? Math.pow(10, number(args.get(1))) : 1.0;
            return Math.rint(number(args.get(0)) * scale) / scale;
        });
        register("len", 1, 1, args -> (double) text(args.get(0)).length());
        register("upper", 1, 1, args -> text(args.get(0)).toUpperCase(Locale.ROOT));
        register("contains", 2, 2, args -> text(args.get(0)).contains(text(args.get(1))));
        register("slice", 2, 3, args -> {
            String s = text(args.get(0));
            int from = clamp((int) number(args.get(1)), s.length());
            int to = args.size() > 2 ? clamp((int) number(args.get(2)), s.length()) : s.length();
            return from >= to ? "" : s.substring(from, to);
        });
    }

    /** Adds or replaces a function; {@code atMost} below zero means any number of arguments. */
    public Evaluator register(String name, int atLeast, int atMost, Function<List<Object>, Object> body) {
        functions.put(name, new Builtin(atLeast, atMost, body));
        return this;
    }

    public Object evaluate(Expr node, Map<String, ?> variables) {
        if (node instanceof Expr.Literal literal) {
            return literal.value();
        }
        if (node instanceof Expr.Variable variable) {
            if (!variables.containsKey(variable.name())) {
                throw new EvaluationException("unknown variable '" + variable.name() + "'");
            }
            Object value = variables.get(variable.name());
            return value instanceof Number n ? (Object) n.doubleValue() : value;
        }
        if (node instanceof Expr.Unary unary) {
            Object operand = evaluate(unary.operand(), variables);
            return unary.operator() == '!' ? (Object) !truthy(operand) : (Object) (-number(operand));
        }
        if (node instanceof Expr.Conditional c) {
            return evaluate(truthy(evaluate(c.test(), variables)) ? c.then() : c.otherwise(), variables);
        }
        if (node instanceof Expr.Binary binary) {
            Object left = evaluate(binary.left(), variables);
            return binary.operator().shortCircuits()
                    ? lazily(binary, left, variables)
                    : combine(binary.operator(), left, evaluate(binary.right(), variables));
        }
        return call((Expr.Call) node, variables);
    }

    private Object lazily(Expr.Binary binary, Object left, Map<String, ?> variables) {
        return switch (binary.operator()) {
            case AND -> truthy(left) && truthy(evaluate(binary.right(), variables));
            case OR -> truthy(left) || truthy(evaluate(binary.right(), variables));
            case COALESCE -> left != null ? left : evaluate(binary.right(), variables);
            default -> throw new AssertionError(binary.operator());
        };
    }

    private static Object combine(Expr.Operator operator, Object a, Object b) {
        switch (operator) {
            case EQ:
                return Objects.equals(a, b);
            case NE:
                return !Objects.equals(a, b);
            case ADD:
                if (a instanceof String || b instanceof String) {
                    return text(a) + text(b);
                }
                return number(a) + number(b);
            case SUB:
                return number(a) - number(b);
            case MUL:
                return number(a) * number(b);
            case DIV:
            case MOD:
                double divisor = number(b);
                if (divisor == 0.0) {
                    throw new EvaluationException("division by zero");
                }
                return operator == Expr.Operator.DIV ? number(a) / divisor : number(a) % divisor;
            case POW:
                return Math.pow(number(a), number(b));
            default:
                break;
        }
        int order = a instanceof String s && b instanceof String t
                ? s.compareTo(t)
                : Double.compare(number(a), number(b));
        return switch (operator) {
            case LT -> order < 0;
            case LE -> order <= 0;
            case GT -> order > 0;
            case GE -> order >= 0;
            default -> throw new AssertionError(operator);
        };
    }

    private Object call(Expr.Call call, Map<String, ?> variables) {
        Builtin builtin = functions.get(call.function());
        if (builtin == null) {
            throw new EvaluationException("unknown function '" + call.function() + "'");
        }
        int given = call.arguments().size();
        if (given < builtin.atLeast || builtin.atMost >= 0 && given > builtin.atMost) {
            throw new EvaluationException(call.function() + " does not take " + given + " arguments");
        }
        Object[] values = new Object[given];
        for (int i = 0; i < given; i++) {
            values[i] = evaluate(call.arguments().get(i), variables);
        }
        return builtin.body.apply(Arrays.asList(values));
    }

    public static boolean truthy(Object value) {
        if (value instanceof Boolean b) {
            return b;
        }
        if (value instanceof Double d) {
            return d != 0.0 && !d.isNaN();
        }
        return value != null && !value.equals("");
    }

    static double number(Object value) {
        if (value instanceof Double d) {
            return d;
        }
        if (value instanceof Boolean b) {
            return b ? 1 : 0;
        }
        throw new EvaluationException("not a number: " + value);
    }

    static String text(Object value) {
        if (value instanceof Double d && d == Math.rint(d) && Math.abs(d) < 1e15) {
            return Long.toString(d.longValue());
        }
        return value == null ? "" : value.toString();
    }

    private static int clamp(int index, int length) {
        int absolute = index < 0 ? index + length : index;
        return Math.max(0, Math.min(length, absolute));
    }

    private record Builtin(int atLeast, int atMost, Function<List<Object>, Object> body) {
    }

    public static class EvaluationException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        public EvaluationException(String message) {
            super(message);
        }
    }
}
