package quill;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/** Monospace table with per-column alignment and optional width limits. */
public final class TextTable {

    public enum Align {
        LEFT {
            @Override
            String pad(String cell, int width) {
                return cell + " ".repeat(width - cell.length());
            }
        },
        RIGHT {
            @Override
            String pad(String cell, int width) {
                return " ".repeat(width - cell.length()) + cell;
            }
        },
        CENTRE {
            @Override
            String pad(String cell, int width) {
                int slack = width - cell.length();
                int before = slack / 2;
                return " ".repeat(before) + cell + " ".repeat(slack - before);
            }
        };

        abstract String pad(String cell, int width);
    }

    private record Column(String title, Align align, int maxWidth) {}

    private final List<Column> columns = new ArrayList<>();
    private final List<String[]> rows = new ArrayList<>();
    private boolean borders = true;
    private String missing = "-";

    public TextTable column(String title) {
        return column(title, Align.LEFT, 40);
    }

    public TextTable column(String title, Align align, int maxWidth) {
        if (!rows.isEmpty()) {
            throw new IllegalStateException("columns must be declared before rows");
        }
        if (maxWidth < 3) {
            throw new IllegalArgumentException("column '" + title + "' is too narrow: " + maxWidth);
        }
        columns.add(new Column(title, align, maxWidth));
        return this;
    }

    public TextTable withoutBorders() {
        borders = false;
        return this;
    }

    public TextTable missing(String placeholder) {
        missing = Objects.requireNonNull(placeholder);
        return this;
    }

    public TextTable row(Object... values) {
        if (values.length > columns.size()) {
            throw new IllegalArgumentException(
                    "row has " + values.length + " values for " + columns.size() + " columns");
        }
        String[] cells = new String[columns.size()];
        for (int i = 0; i < cells.length; i++) {
            Object value = i < values.length ? values[i] : null;
            cells[i] = clip(show(value), columns.get(i).maxWidth());
        }
        rows.add(cells);
        return this;
    }

    /** Inserts a horizontal rule below the rows added so far. */
    public TextTable separator() {
        rows.add(null);
        return this;
    }

    private String show(Object value) {
        if (value == null) {
            return missing;
        }
        if (value instanceof Double d) {
            return d.isNaN() ? missing : String.format("%.2f", d);
        }
        if (value instanceof Boolean flag) {
            return flag ? "yes" : "no";
        }
        return value.toString().replace('\n', ' ');
    }

    private static String clip(String cell, int limit) {
        return cell.length() <= limit ? cell : cell.substring(0, limit - 2) + "..";
    }

    public String render() {
        int[] widths = new int[columns.size()];
        for (int i = 0; i < widths.length; i++) {
            widths[i] = clip(columns.get(i).title(), columns.get(i).maxWidth()).length();
            for (String[] row : rows) {
                if (row != null) {
                    widths[i] = Math.max(widths[i], row[i].length());
                }
            }
        }
        String[] header = columns.stream().map(c -> clip(c.title(), c.maxWidth())).toArray(String[]::new);
        StringBuilder out = new StringBuilder();
        if (borders) {
            rule(out, widths);
        }
        line(out, header, widths, true);
        rule(out, widths);
        for (String[] row : rows) {
            if (row == null) {
                rule(out, widths);
            } else {
                line(out, row, widths, false);
            }
        }
        if (borders) {
            rule(out, widths);
        }
        return out.toString();
    }

    private void rule(StringBuilder out, int[] widths) {
        for (int i = 0; i < widths.length; i++) {
            if (borders) {
                out.append('+').append("-".repeat(widths[i] + 2));
            } else {
                out.append(i == 0 ? "" : "  ").append("-".repeat(widths[i]));
            }
        }
        out.append(borders ? "+\n" : "\n");
    }

    private void line(StringBuilder out, String[] cells, int[] widths, boolean heading) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < cells.length; i++) {
            Align align = heading && columns.get(i).align() != Align.RIGHT ? Align.LEFT : columns.get(i).align();
            String padded = align.pad(cells[i], widths[i]);
            text.append(borders ? "| " + padded + " " : (i == 0 ? "" : "  ") + padded);
        }
        out.append(borders ? text.append('|') : text.toString().stripTrailing()).append('\n');
    }
}
