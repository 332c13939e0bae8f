package lexis.ini;

import lexis.SyntaxException;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.Reader;
import java.io.StringReader;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;

/**
 * An INI file. Keys are case-insensitive, a trailing backslash continues a line,
 * and {@code ${section:key}} refers to another value.
 */
public final class IniDocument {

    private static final int MAX_LINE = 0x4000;

    private final Map<String, Map<String, String>> sections = new LinkedHashMap<>();

    private IniDocument() {
        sections.put("", new LinkedHashMap<>());
    }

    public static IniDocument parse(String text) {
        try {
            return read(new StringReader(text));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    public static IniDocument read(Reader input) throws IOException {
        IniDocument document = new IniDocument();
        BufferedReader reader = new BufferedReader(input);
        Map<String, String> current = document.sections.get("");
        int lineNumber = 0;
        for (String line = reader.readLine(); line != null; line = reader.readLine()) {
            lineNumber++;
            int firstLine = lineNumber;
            while (line.endsWith("\\")) {
                String more = reader.readLine();
                line = line.substring(0, line.length() - 1) + (more == null ? "" : more.stripLeading());
                lineNumber++;
                if (line.length() > MAX_LINE) {
                    throw new SyntaxException("continued line is too long", firstLine, 1);
                }
            }
            String content = line.strip();
            if (content.isEmpty() || content.charAt(0) == ';' || content.charAt(0) == '#') {
                continue;
            }
            if (content.charAt(0) == '[') {
                int close = content.indexOf(']');
                if (close < 2) {
                    throw new SyntaxException("malformed section header", firstLine, 1);
                }
                String name = content.substring(1, close).strip();
                current = document.sections.computeIfAbsent(fold(name), n -> new LinkedHashMap<>());
                continue;
            }
            int split = content.indexOf('=');
            if (split <= 0) {
                throw new SyntaxException("expected key = value", firstLine, 1);
            }
            String key = fold(content.substring(0, split).strip());
            String value = unquote(content.substring(split + 1).strip(), firstLine, split + 2);
            if (current.put(key, value) != null) {
                throw new SyntaxException("key '" + key + "' is set twice", firstLine, 1);
            }
        }
        return document;
    }

    private static String unquote(String raw, int line, int column) {
        if (raw.isEmpty() || raw.charAt(0) != '"') {
            int comment = raw.indexOf(" ;");
            return comment < 0 ? raw : raw.substring(0, comment).stripTrailing();
        }
        int close = raw.indexOf('"', 1);
        if (close < 0) {
            throw new SyntaxException("quoted value is not closed", line, column);
        }
        return raw.substring(1, close);
    }

    public String get(String section, String key) {
        return resolve(fold(section), fold(key), new HashSet<>());
    }

    private String resolve(String section, String key, Set<String> visiting) {
        String raw = sections.getOrDefault(section, Map.of()).get(key);
        if (raw == null || !raw.contains("${")) {
            return raw;
        }
        String path = section + ":" + key;
        if (!visiting.add(path)) {
            throw new IllegalStateException("circular reference through " + path);
        }
        StringBuilder out = new StringBuilder();
        int from = 0;
        for (int open; (open = raw.indexOf("${", from)) >= 0; ) {
            int close = raw.indexOf('}', open);
            if (close < 0) {
                break;
            }
            out.append(raw, from, open);
            String reference = fold(raw.substring(open + 2, close));
            int colon = reference.indexOf(':');
            String target = colon < 0 ? section : reference.substring(0, colon);
            String value = resolve(target, reference.substring(colon + 1), visiting);
            if (value == null) {
                throw new IllegalStateException(path + " refers to missing " + target + ":"
                        + reference.substring(colon + 1));
            }
            out.append(value);
            from = close + 1;
        }
        visiting.remove(path);
        return out.append(raw.substring(from)).toString();
    }

    public <T> T get(String section, String key, T fallback, Function<String, ? extends T> convert) {
        String value = get(section, key);
        if (value == null || value.isEmpty()) {
            return fallback;
        }
        try {
            return convert.apply(value);
        } catch (RuntimeException e) {
            throw new IllegalArgumentException("bad value for [" + section + "] " + key + ": " + value, e);
        }
    }

    public int getInt(String section, String key, int fallback) {
        return get(section, key, fallback, Integer::decode);
    }

    public boolean getBoolean(String section, String key, boolean fallback) {
        return get(section, key, fallback, value -> switch (fold(value)) {
            case "true", "yes", "on", "1" -> true;
            case "false", "no", "off", "0" -> false;
            default -> throw new IllegalArgumentException("not a boolean");
        });
    }

    /** Sizes such as {@code 64}, {@code 512k}, {@code 16M} or {@code 2g}, in bytes. */
    public long getSize(String section, String key, long fallback) {
        return get(section, key, fallback, value -> {
            int last = value.length() - 1;
            int shift = "kmgt".indexOf(Character.toLowerCase(value.charAt(last)));
            if (shift < 0) {
                return Long.parseLong(value);
            }
            return Math.multiplyExact(Long.parseLong(value.substring(0, last)), 1L << 10 * (shift + 1));
        });
    }

    public List<String> getList(String section, String key) {
        List<String> items = new ArrayList<>();
        for (String item : get(section, key, "", Function.identity()).split(",")) {
            if (!item.isBlank()) {
                items.add(item.strip());
            }
        }
        return items;
    }

    public Set<String> sectionNames() {
        return Set.copyOf(sections.keySet());
    }

    private static String fold(String name) {
        return name.toLowerCase(Locale.ROOT);
    }
}
