package lexis;

/** Raised by every parser in this package tree, always with a place in the input. */
public class SyntaxException extends RuntimeException {

    private static final long serialVersionUID = 1L;

    private final int line;
    private final int column;

    public SyntaxException(String message, int line, int column) {
        super(message + " (line " + line + ", column " + column + ")");
        this.line = line;
        this.column = column;
    }

    /** Derives line and column, both counted from one, from an offset into the text. */
    public static SyntaxException at(String message, CharSequence source, int offset) {
        int line = 1;
        int column = 1;
        int end = Math.min(offset, source.length());
        for (int i = 0; i < end; i++) {
            if (source.charAt(i) == '\n') {
                line++;
                column = 1;
            } else {
                column++;
            }
        }
        return new SyntaxException(message, line, column);
    }

    public int line() {
        return line;
    }

    public int column() {
        return column;
    }
}
