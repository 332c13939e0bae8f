package lexis.expr;

import lexis.SyntaxException;
import lexis.expr.Lexer.Kind;
import lexis.expr.Lexer.Token;

import java.util.ArrayList;
import java.util.List;

/** Precedence climbing over the token list; unary minus sits just below {@code ^}. */
public final class ExprParser {

    private static final int UNARY_PRECEDENCE = 8;
    private static final int MAX_DEPTH = 200;

    private final String source;
    private final List<Token> tokens;
    private int next;
    private int depth;

    private ExprParser(String source) {
        this.source = source;
        this.tokens = new Lexer(source).scan();
    }

    public static Expr parse(String source) {
        ExprParser parser = new ExprParser(source);
        Expr result = parser.conditional();
        if (parser.peek().kind() != Kind.END) {
            throw parser.error("expected an operator but found '" + parser.peek().lexeme() + "'");
        }
        return result;
    }

    private Expr conditional() {
        if (++depth > MAX_DEPTH) {
            throw error("expression is nested too deeply");
        }
        Expr test = binary(0);
        if (accept("?")) {
            Expr then = conditional();
            expect(":");
            Expr otherwise = conditional();
            test = new Expr.Conditional(test, then, otherwise);
        }
        depth--;
        return test;
    }

    private Expr binary(int minimum) {
        Expr left = unary();
        while (true) {
            Expr.Operator operator = operatorAt(peek());
            if (operator == null || operator.precedence < minimum) {
                return left;
            }
            next++;
            int tighter = operator.rightAssociative ? operator.precedence : operator.precedence + 1;
            left = new Expr.Binary(operator, left, binary(tighter));
        }
    }

    private Expr unary() {
        if (accept("-")) {
            Expr operand = binary(UNARY_PRECEDENCE);
            if (operand instanceof Expr.Literal literal && literal.value() instanceof Double d) {
                return new Expr.Literal(-d);
            }
            return new Expr.Unary('-', operand);
        }
        if (accept("!")) {
            return new Expr.Unary('!', binary(UNARY_PRECEDENCE));
        }
        return primary();
    }

    private Expr primary() {
        Token token = peek();
        switch (token.kind()) {
            case NUMBER -> {
                next++;
                return new Expr.Literal(token.number());
            }
            case TEXT -> {
                next++;
                return new Expr.Literal(token.lexeme());
            }
            case NAME -> {
                next++;
                return named(token);
            }
            default -> {
                if (accept("(")) {
                    Expr inner = conditional();
                    expect(")");
                    return inner;
                }
                throw error(token.kind() == Kind.END ? "expression ends too early"
                        : "expected a value but found '" + token.lexeme() + "'");
            }
        }
    }

    private Expr named(Token name) {
        switch (name.lexeme()) {
            case "true":
                return new Expr.Literal(true);
            case "false":
                return new Expr.Literal(false);
            case "null":
                return new Expr.Literal(null);
            default:
                break;
        }
        if (!accept("(")) {
            return new Expr.Variable(name.lexeme(), name.offset());
        }
        List<Expr> arguments = new ArrayList<>();
        if (!accept(")")) {
            do {
                arguments.add(conditional());
            } while (accept(","));
            expect(")");
        }
        return new Expr.Call(name.lexeme(), List.copyOf(arguments), name.offset());
    }

    private static Expr.Operator operatorAt(Token token) {
        if (token.kind() == Kind.SYMBOL) {
            for (Expr.Operator operator : Expr.Operator.values()) {
                if (operator.symbol.equals(token.lexeme())) {
                    return operator;
                }
            }
        }
        return null;
    }

    private Token peek() {
        return tokens.get(next);
    }

    private boolean accept(String symbol) {
        if (peek().is(symbol)) {
            next++;
            return true;
        }
        return false;
    }

    private void expect(String symbol) {
        if (!accept(symbol)) {
            throw error("expected '" + symbol + "'");
        }
    }

    private SyntaxException error(String message) {
        return SyntaxException.at(message, source, peek().offset());
    }
}
