package lexis.expr;

import lexis.SyntaxException;

import java.util.ArrayList;
import java.util.List;

final class Lexer {

    enum Kind { NUMBER, TEXT, NAME, SYMBOL, END }

    record Token(Kind kind, String lexeme, double number, int offset) {
        boolean is(String symbol) {
            return kind == Kind.SYMBOL && lexeme.equals(symbol);
        }
    }

    // Longer symbols first, so that "<=" is not read as "<" and "=".
    private static final String[] SYMBOLS = {
        "<=", ">=", "==", "!=", "&&", "||", "??", "+", "-", "*", "/", "%", "^",
        "<", ">", "!", "(", ")", ",", "?", ":",
    };

    private final String source;
    private int pos;

    Lexer(String source) {
        this.source = source;
    }

    List<Token> scan() {
        List<Token> tokens = new ArrayList<>(source.length() / 3 + 1);
        while (true) {
            while (pos < source.length() && Character.isWhitespace(source.charAt(pos))) {
                pos++;
            }
            if (pos >= source.length()) {
                tokens.add(new Token(Kind.END, "", 0, pos));
                return tokens;
            }
            char c = source.charAt(pos);
            if (isDigit(c) || c == '.' && pos + 1 < source.length() && isDigit(source.charAt(pos + 1))) {
                tokens.add(number());
            } else if (Character.isJavaIdentifierStart(c)) {
                int start = pos;
                while (pos < source.length() && Character.isJavaIdentifierPart(source.charAt(pos))) {
                    pos++;
                }
                tokens.add(new Token(Kind.NAME, source.substring(start, pos), 0, start));
            } else if (c == '"' || c == '\'') {
                tokens.add(text(c));
            } else {
                tokens.add(symbol());
            }
        }
    }

    private Token number() {
        int start = pos;
        if (source.startsWith("0x", pos)) {
            pos += 2;
            long value = 0;
            int digits = 0;
            for (int digit; pos < source.length() && (digit = Character.digit(source.charAt(pos), 16)) >= 0; pos++) {
                value = value << 4 | digit;
                digits++;
            }
            if (digits == 0 || digits > 12) {
                throw SyntaxException.at("hex literal needs 1 to 12 digits", source, start);
            }
            return new Token(Kind.NUMBER, source.substring(start, pos), value, start);
        }
        digits();
        if (pos < source.length() && source.charAt(pos) == '.') {
            pos++;
            digits();
        }
        if (pos < source.length() && (source.charAt(pos) | 0x20) == 'e') {
            pos++;
            if (pos < source.length() && (source.charAt(pos) == '+' || source.charAt(pos) == '-')) {
                pos++;
            }
            if (digits() == 0) {
                throw SyntaxException.at("exponent has no digits", source, start);
            }
        }
        String lexeme = source.substring(start, pos);
        return new Token(Kind.NUMBER, lexeme, Double.parseDouble(lexeme), start);
    }

    private int digits() {
        int start = pos;
        while (pos < source.length() && isDigit(source.charAt(pos))) {
            pos++;
        }
        return pos - start;
    }

    private Token text(char quote) {
        int start = pos++;
        StringBuilder value = new StringBuilder();
        while (pos < source.length()) {
            char c = source.charAt(pos++);
            if (c == quote) {
                return new Token(Kind.TEXT, value.toString(), 0, start);
            }
            if (c != '\\') {
                value.append(c);
                continue;
            }
            if (pos == source.length()) {
                break;
            }
            char escaped = source.charAt(pos++);
            switch (escaped) {
                case 'n':
                    value.append('\n');
                    break;
                case 't':
                    value.append('\t');
                    break;
                case '\\':
                case '"':
                case '\'':
                    value.append(escaped);
                    break;
                default:
                    throw SyntaxException.at("unknown escape \\" + escaped, source, pos - 2);
            }
        }
        throw SyntaxException.at("text is not closed", source, start);
    }

    private Token symbol() {
        for (String symbol : SYMBOLS) {
            if (source.startsWith(symbol, pos)) {
                Token token = new Token(Kind.SYMBOL, symbol, 0, pos);
                pos += symbol.length();
                return token;
            }
        }
        throw SyntaxException.at("unexpected character '" + source.charAt(pos) + "'", source, pos);
    }

    private static boolean isDigit(char c) {
        return c >= '0' && c <= '9';
    }
}
