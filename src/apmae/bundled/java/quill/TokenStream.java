package quill;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.function.Predicate;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/** Pull tokeniser for running English text. Offsets refer to the original string. */
public final class TokenStream implements Iterable<TokenStream.Token> {

    public enum Kind {
        WORD, NUMBER, PUNCTUATION, SYMBOL;

        public boolean isLexical() {
            return this == WORD || this == NUMBER;
        }
    }

    public record Token(Kind kind, String text, int start) {
        public int end() {
            return start + text.length();
        }
    }

    private final String source;

    public TokenStream(String source) {
        this.source = source;
    }

    public Stream<Token> stream() {
        return StreamSupport.stream(spliterator(), false);
    }

    public Stream<String> words() {
        Predicate<Token> lexical = t -> t.kind().isLexical();
        return stream().filter(lexical).map(Token::text);
    }

    @Override
    public Iterator<Token> iterator() {
        return new Scanner();
    }

    private final class Scanner implements Iterator<Token> {
        private int at = 0;

        @Override
        public boolean hasNext() {
            while (at < source.length() && Character.isWhitespace(source.charAt(at))) {
                at++;
            }
            return at < source.length();
        }

        @Override
        public Token next() {
            if (!hasNext()) {
                throw new NoSuchElementException("end of text at offset " + at);
            }
            int start = at;
            char c = source.charAt(at);
            Kind kind;
            if (Character.isLetter(c)) {
                skipWord();
                kind = Kind.WORD;
            } else if (Character.isDigit(c)) {
                skipNumber();
                kind = Kind.NUMBER;
            } else {
                at++;
                kind = switch (c) {
                    case '.', ',', ';', ':', '!', '?', '(', ')', '"', '\'' -> Kind.PUNCTUATION;
                    default -> Kind.SYMBOL;
                };
                // runs such as "..." or "--" stay together
                while (at < source.length() && source.charAt(at) == c && (c == '.' || c == '-')) {
                    at++;
                }
            }
            return new Token(kind, source.substring(start, at), start);
        }

        private void skipWord() {
            while (at < source.length()) {
                char c = source.charAt(at);
                boolean joiner = (c == '\'' || c == '-') && letterAt(at + 1);
                if (!Character.isLetterOrDigit(c) && !joiner) {
                    return;
                }
                at++;
            }
        }

        private void skipNumber() {
            boolean seenPoint = false;
            while (at < source.length()) {
                char c = source.charAt(at);
                if (Character.isDigit(c)) {
                    at++;
                } else if (c == ',' && digitAt(at + 1) && !seenPoint) {
                    at++;
                } else if (c == '.' && digitAt(at + 1) && !seenPoint) {
                    seenPoint = true;
                    at++;
                } else {
                    break;
                }
            }
        }

        private boolean letterAt(int index) {
            return index < source.length() && Character.isLetter(source.charAt(index));
        }

        private boolean digitAt(int index) {
            return index < source.length() && Character.isDigit(source.charAt(index));
        }
    }
}
