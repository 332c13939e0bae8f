package quill;

import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;

/**
 * Renders a deliberately small Markdown dialect: headings, paragraphs, flat lists,
 * quotes, fenced code, rules, and the usual inline emphasis, code and links.
 */
public final class MarkdownRenderer {

    sealed interface Block permits Heading, Paragraph, Listing, Quote, Code, Rule {}

    record Heading(int level, String text) implements Block {}

    record Paragraph(String text) implements Block {}

    record Listing(boolean ordered, List<String> items) implements Block {}

    record Quote(List<Block> content) implements Block {}

    record Code(String language, String body) implements Block {}

    record Rule() implements Block {}

    private final Slugger anchors = new Slugger(48);
    private final boolean linkHeadings;

    public MarkdownRenderer(boolean linkHeadings) {
        this.linkHeadings = linkHeadings;
    }

    public String render(String markdown) {
        return parse(markdown.lines().toList()).stream()
                .map(this::html)
                .collect(Collectors.joining("\n"));
    }

    List<Block> parse(List<String> lines) {
        List<Block> blocks = new ArrayList<>();
        int i = 0;
        while (i < lines.size()) {
            String line = lines.get(i);
            String trimmed = line.strip();
            if (trimmed.isEmpty()) {
                i++;
            } else if (trimmed.startsWith("```")) {
                int close = i + 1;
                while (close < lines.size() && !lines.get(close).strip().equals("```")) {
                    close++;
                }
                blocks.add(new Code(trimmed.substring(3).strip(), String.join("\n", lines.subList(i + 1, close))));
                i = close + 1;
            } else if (headingLevel(trimmed) > 0) {
                int level = headingLevel(trimmed);
                blocks.add(new Heading(level, trimmed.substring(level + 1).strip()));
                i++;
            } else if (isRule(trimmed)) {
                blocks.add(new Rule());
                i++;
            } else if (trimmed.startsWith(">")) {
                List<String> inner = new ArrayList<>();
                while (i < lines.size() && lines.get(i).strip().startsWith(">")) {
                    inner.add(lines.get(i++).strip().substring(1));
                }
                blocks.add(new Quote(parse(inner)));
            } else if (markerLength(trimmed) > 0) {
                boolean ordered = Character.isDigit(trimmed.charAt(0));
                List<String> items = new ArrayList<>();
                while (i < lines.size()) {
                    String item = lines.get(i).strip();
                    int marker = markerLength(item);
                    if (marker == 0 || Character.isDigit(item.charAt(0)) != ordered) {
                        break;
                    }
                    items.add(item.substring(marker).strip());
                    i++;
                }
                blocks.add(new Listing(ordered, items));
            } else {
                StringBuilder text = new StringBuilder(trimmed);
                i++;
                while (i < lines.size() && continuesParagraph(lines.get(i).strip())) {
                    text.append(' ').append(lines.get(i++).strip());
                }
                blocks.add(new Paragraph(text.toString()));
            }
        }
        return blocks;
    }

    private String html(Block block) {
        if (block instanceof Heading h) {
            String id = linkHeadings ? " id=\"" + anchors.next(h.text()) + "\"" : "";
            return "<h%d%s>%s</h%d>".formatted(h.level(), id, inline(h.text()), h.level());
        }
        if (block instanceof Paragraph p) {
            return "<p>" + inline(p.text()) + "</p>";
        }
        if (block instanceof Listing list) {
            String tag = list.ordered() ? "ol" : "ul";
            return list.items().stream()
                    .map(item -> "  <li>" + inline(item) + "</li>\n")
                    .collect(Collectors.joining("", "<" + tag + ">\n", "</" + tag + ">"));
        }
        if (block instanceof Quote q) {
            return "<blockquote>\n" + q.content().stream().map(this::html).collect(Collectors.joining("\n"))
                    + "\n</blockquote>";
        }
        if (block instanceof Code c) {
            String css = c.language().isEmpty() ? "" : " class=\"language-" + Escapes.html(c.language()) + "\"";
            return "<pre><code" + css + ">" + Escapes.html(c.body()) + "</code></pre>";
        }
        return "<hr>";
    }

    private String inline(String text) {
        StringBuilder out = new StringBuilder(text.length() * 5 / 4);
        int i = 0;
        while (i < text.length()) {
            char c = text.charAt(i);
            int close;
            if (c == '\\' && i + 1 < text.length()) {
                out.append(Escapes.html(text.substring(i + 1, i + 2)));
                i += 2;
            } else if (c == '`' && (close = text.indexOf('`', i + 1)) > i) {
                out.append("<code>").append(Escapes.html(text.substring(i + 1, close))).append("</code>");
                i = close + 1;
            } else if (text.startsWith("**", i) && (close = text.indexOf("**", i + 2)) > i + 2) {
                out.append("<strong>").append(inline(text.substring(i + 2, close))).append("</strong>");
                i = close + 2;
            } else if (c == '*' && (close = text.indexOf('*', i + 1)) > i + 1) {
                out.append("<em>").append(inline(text.substring(i + 1, close))).append("</em>");
                i = close + 1;
            } else if (c == '[' && (close = linkEnd(text, i)) > 0) {
                int middle = text.indexOf("](", i);
                String target = text.substring(middle + 2, close);
                String label = inline(text.substring(i + 1, middle));
                out.append(isSafe(target)
                        ? "<a href=\"" + Escapes.html(target) + "\">" + label + "</a>"
                        : label);
                i = close + 1;
            } else {
                out.append(Escapes.html(String.valueOf(c)));
                i++;
            }
        }
        return out.toString();
    }

    private static int linkEnd(String text, int open) {
        int middle = text.indexOf("](", open);
        return middle < 0 ? -1 : text.indexOf(')', middle + 2);
    }

    private static boolean isSafe(String target) {
        int colon = target.indexOf(':');
        if (colon < 0) {
            return true;
        }
        return switch (target.substring(0, colon).toLowerCase()) {
            case "http", "https", "mailto" -> true;
            default -> false;
        };
    }

    private static int headingLevel(String line) {
        int hashes = 0;
        while (hashes < line.length() && line.charAt(hashes) == '#') {
            hashes++;
        }
        return hashes <= 6 && hashes < line.length() && line.charAt(hashes) == ' ' ? hashes : 0;
    }

    private static boolean isRule(String line) {
        return line.length() >= 3 && (line.chars().allMatch(c -> c == '-') || line.chars().allMatch(c -> c == '*'));
    }

    private static int markerLength(String line) {
        if (line.startsWith("- ") || line.startsWith("* ")) {
            return 2;
        }
        int digits = 0;
        while (digits < line.length() && Character.isDigit(line.charAt(digits))) {
            digits++;
        }
        return digits > 0 && line.startsWith(". ", digits) ? digits + 2 : 0;
    }

    private static boolean continuesParagraph(String line) {
        return !line.isEmpty() && !line.startsWith(">") && !line.startsWith("```")
                && headingLevel(line) == 0 && markerLength(line) == 0 && !isRule(line);
    }
}
