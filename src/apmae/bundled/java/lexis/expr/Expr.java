package lexis.expr;

import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/** Abstract syntax of the expression language. */
public sealed interface Expr {

    record Literal(Object value) implements Expr {
        @Override
        public String toString() {
            return value instanceof String s ? '"' + s.replace("\"", "\\\"") + '"' : String.valueOf(value);
        }
    }

    record Variable(String name, int offset) implements Expr {
        @Override
        public String toString() {
            return name;
        }
    }

    record Unary(char operator, Expr operand) implements Expr {
        @Override
        public String toString() {
            return operator + operand.toString();
        }
    }

    record Binary(Operator operator, Expr left, Expr right) implements Expr {
        @Override
        public String toString() {
            return "(" + left + " " + operator.symbol + " " + right + ")";
        }
    }

    record Conditional(Expr test, Expr then, Expr otherwise) implements Expr {
        @Override
        public String toString() {
            return "(" + test + " ? " + then + " : " + otherwise + ")";
        }
    }

    record Call(String function, List<Expr> arguments, int offset) implements Expr {
        @Override
        public String toString() {
            return arguments.stream().map(Expr::toString).collect(Collectors.joining(", ", function + "(", ")"));
        }
    }

    enum Operator {
        COALESCE("??", 1, true),
        OR("||", 2, false),
        AND("&&", 3, false),
        EQ("==", 4, false),
        NE("!=", 4, false),
        LT("<", 5, false),
        LE("<=", 5, false),
        GT(">", 5, false),
        GE(">=", 5, false),
        ADD("+", 6, false),
        SUB("-", 6, false),
        MUL("*", 7, false),
        DIV("/", 7, false),
        MOD("%", 7, false),
        POW("^", 9, true);

        final String symbol;
        final int precedence;
        final boolean rightAssociative;

        Operator(String symbol, int precedence, boolean rightAssociative) {
            this.symbol = symbol;
            this.precedence = precedence;
            this.rightAssociative = rightAssociative;
        }

        boolean shortCircuits() {
            return this == OR || this == AND || this == COALESCE;
        }
    }

    /** Names that must be bound before this expression can be evaluated in full. */
    default Set<String> freeVariables() {
        Set<String> names = new TreeSet<>();
        collect(this, names);
        return names;
    }

    private static void collect(Expr node, Set<String> into) {
        if (node instanceof Variable v) {
            into.add(v.name);
        } else if (node instanceof Unary u) {
            collect(u.operand, into);
        } else if (node instanceof Binary b) {
            collect(b.left, into);
            collect(b.right, into);
        } else if (node instanceof Conditional c) {
            collect(c.test, into);
            collect(c.then, into);
            collect(c.otherwise, into);
        } else if (node instanceof Call call) {
            call.arguments.forEach(argument -> collect(argument, into));
        }
    }
}
