package quill;

/** Escaping for the three places quill writes text: source literals, HTML and CSV. */
public final class Escapes {

    /** Raised when an escape sequence cannot be decoded. */
    public static final class MalformedEscapeException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        private final int offset;

        MalformedEscapeException(String message, int offset) {
            super(message + " at offset " + offset);
            this.offset = offset;
        }

        public int offset() {
            return offset;
        }
    }

    private static final char[] HEX = "0123456789abcdef".toCharArray();

    private Escapes() {
    }

    public static String literal(String text, boolean asciiOnly) {
        StringBuilder out = new StringBuilder(text.length() + 2).append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '"' -> out.append("\\\"");
                case '\\' -> out.append("\\\\");
                case '\n' -> out.append("\\n");
                case '\r' -> out.append("\\r");
                case '\t' -> out.append("\\t");
                default -> {
                    boolean control = c < 0x20 || c == 0x7f;
                    if (control || (asciiOnly && c > 0x7e)) {
                        appendUnicode(out, c);
                    } else {
                        out.append(c);
                    }
                }
            }
        }
        return out.append('"').toString();
    }

    private static void appendUnicode(StringBuilder out, char c) {
        out.append('\\').append('u');
        for (int shift = 12; shift >= 0; shift -= 4) {
            out.append(HEX[(c >>> shift) & 0xF]);
        }
    }

    /** Inverse of {@link #literal}; the surrounding quotes are required. */
    public static String unliteral(String quoted) {
        int last = quoted.length() - 1;
        if (last < 1 || quoted.charAt(0) != '"' || quoted.charAt(last) != '"') {
            throw new MalformedEscapeException("missing quotes", 0);
        }
        StringBuilder out = new StringBuilder(quoted.length());
        int i = 1;
        while (i < last) {
            char c = quoted.charAt(i++);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            if (i >= last) {
                throw new MalformedEscapeException("dangling backslash", i - 1);
            }
            char code = quoted.charAt(i++);
            switch (code) {
                case 'n' -> out.append('\n');
                case 'r' -> out.append('\r');
                case 't' -> out.append('\t');
                case '"', '\\', '/' -> out.append(code);
                case 'u' -> {
                    if (i + 4 > last) {
                        throw new MalformedEscapeException("truncated unicode escape", i - 2);
                    }
                    int value = 0;
                    for (int end = i + 4; i < end; i++) {
                        int digit = Character.digit(quoted.charAt(i), 16);
                        if (digit < 0) {
                            throw new MalformedEscapeException("bad hex digit", i);
                        }
                        value = (value << 4) | digit;
                    }
                    out.append((char) value);
                }
                default -> throw new MalformedEscapeException("unknown escape '" + code + "'", i - 2);
            }
        }
        return out.toString();
    }

    public static String html(String text) {
        StringBuilder out = null;
        for (int i = 0; i < text.length(); i++) {
            String entity = switch (text.charAt(i)) {
                case '&' -> "&amp;";
                case '<' -> "&lt;";
                case '>' -> "&gt;";
                case '"' -> "&quot;";
                case '\'' -> "&#39;";
                default -> null;
            };
            if (entity != null && out == null) {
                out = new StringBuilder(text.length() + 16).append(text, 0, i);
            }
            if (out != null) {
                if (entity != null) {
                    out.append(entity);
                } else {
                    out.append(text.charAt(i));
                }
            }
        }
        return out == null ? text : out.toString();
    }

    public static String csvField(String value, char delimiter) {
        boolean quote = value.isEmpty() || value.startsWith(" ") || value.endsWith(" ");
        for (int i = 0; i < value.length() && !quote; i++) {
            char c = value.charAt(i);
            quote = c == delimiter || c == '"' || c == '\n' || c == '\r';
        }
        return quote ? '"' + value.replace("\"", "\"\"") + '"' : value;
    }
}
