package lexis.csv;

import lexis.SyntaxException;

import java.io.Closeable;
import java.io.IOException;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;

/**
 * Streaming CSV reader. Quoted fields may hold delimiters, doubled quotes and
 * line breaks; all of LF, CRLF and CR end a record.
 */
public final class CsvReader implements Iterable<CsvReader.Row>, Closeable {

    private static final int EOF = -1;
    private static final int NOTHING_PUSHED = -2;

    private final Reader input;
    private final char delimiter;
    private final char[] buffer = new char[8_192];
    private int filled;
    private int cursor;
    private int pushedBack = NOTHING_PUSHED;
    private int line = 1;
    private final Map<String, Integer> header = new HashMap<>();

    public CsvReader(Reader input, char delimiter, boolean hasHeader) throws IOException {
        this.input = input;
        this.delimiter = delimiter;
        if (hasHeader) {
            List<String> names = readRecord();
            if (names == null) {
                throw new SyntaxException("header expected but the input is empty", 1, 1);
            }
            for (int i = 0; i < names.size(); i++) {
                String name = names.get(i).strip();
                if (i == 0 && name.startsWith("\uFEFF")) {
                    name = name.substring(1);
                }
                if (header.putIfAbsent(name, i) != null) {
                    throw new SyntaxException("duplicate column '" + name + "'", 1, 1);
                }
            }
        }
    }

    private int read() throws IOException {
        if (pushedBack != NOTHING_PUSHED) {
            int c = pushedBack;
            pushedBack = NOTHING_PUSHED;
            return c;
        }
        if (cursor == filled) {
            filled = input.read(buffer, 0, buffer.length);
            cursor = 0;
            if (filled <= 0) {
                filled = 0;
                return EOF;
            }
        }
        return buffer[cursor++];
    }

    private List<String> readRecord() throws IOException {
        List<String> fields = new ArrayList<>(Math.max(8, header.size()));
        StringBuilder field = new StringBuilder();
        boolean quoted = false;
        boolean wasQuoted = false;
        boolean sawAnything = false;
        while (true) {
            int c = read();
            if (c == EOF) {
                if (quoted) {
                    throw new SyntaxException("quoted field is not closed", line, field.length() + 1);
                }
                if (!sawAnything) {
                    return null;
                }
                fields.add(field.toString());
                return fields;
            }
            sawAnything = true;
            if (quoted) {
                if (c != '"') {
                    line += c == '\n' ? 1 : 0;
                    field.append((char) c);
                    continue;
                }
                int after = read();
                if (after == '"') {
                    field.append('"');
                } else {
                    quoted = false;
                    pushedBack = after;
                }
            } else if (c == delimiter) {
                fields.add(field.toString());
                field.setLength(0);
                wasQuoted = false;
            } else if (c == '\n' || c == '\r') {
                if (c == '\r') {
                    int after = read();
                    if (after != '\n') {
                        pushedBack = after;
                    }
                }
                line++;
                fields.add(field.toString());
                return fields;
            } else if (c == '"' && field.length() == 0 && !wasQuoted) {
                quoted = true;
                wasQuoted = true;
            } else if (wasQuoted) {
                throw new SyntaxException("text after closing quote", line, field.length() + 1);
            } else {
                field.append((char) c);
            }
        }
    }

    @Override
    public Iterator<Row> iterator() {
        return new Iterator<>() {
            private Row upcoming;
            private boolean done;

            @Override
            public boolean hasNext() {
                while (upcoming == null && !done) {
                    int startLine = line;
                    List<String> fields;
                    try {
                        fields = readRecord();
                    } catch (IOException e) {
                        throw new UncheckedIOException("reading near line " + startLine, e);
                    }
                    if (fields == null) {
                        done = true;
                    } else if (fields.size() > 1 || !fields.get(0).isEmpty()) {
                        upcoming = new Row(startLine, fields);
                    }
                }
                return upcoming != null;
            }

            @Override
            public Row next() {
                if (!hasNext()) {
                    throw new NoSuchElementException();
                }
                Row row = upcoming;
                upcoming = null;
                return row;
            }
        };
    }

    @Override
    public void close() throws IOException {
        input.close();
    }

    public final class Row {
        private final int lineNumber;
        private final List<String> fields;

        private Row(int lineNumber, List<String> fields) {
            this.lineNumber = lineNumber;
            this.fields = fields;
        }

        public String get(int column) {
            return column < fields.size() ? fields.get(column) : "";
        }

        public String get(String column) {
            Integer position = header.get(column);
            if (position == null) {
                throw new IllegalArgumentException("no column '" + column + "', have " + header.keySet());
            }
            return get(position.intValue());
        }

        public double getDouble(String column, double whenBlank) {
            String value = get(column).strip();
            if (value.isEmpty()) {
                return whenBlank;
            }
            try {
                return Double.parseDouble(value);
            } catch (NumberFormatException e) {
                throw new SyntaxException("column '" + column + "' is not a number: " + value, lineNumber, 1);
            }
        }

        public int size() {
            return fields.size();
        }

        public int lineNumber() {
            return lineNumber;
        }
    }
}
