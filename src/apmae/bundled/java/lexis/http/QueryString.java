package lexis.http;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/** Ordered multimap of decoded query parameters. */
public final class QueryString {

    private static final int MAX_PARAMETERS = 1_000;
    private static final char[] HEX = "0123456789ABCDEF".toCharArray();

    // Bit n is set when the ASCII character n (low word) or n + 64 (high word) needs no escape.
    private static final long SAFE_LOW = 0x03FF_6000_0000_0000L;
    private static final long SAFE_HIGH = 0x47FF_FFFE_87FF_FFFEL;

    private final Map<String, List<String>> values = new LinkedHashMap<>();

    public static QueryString parse(String raw) {
        QueryString query = new QueryString();
        int start = raw.startsWith("?") ? 1 : 0;
        int count = 0;
        while (start < raw.length()) {
            int end = raw.indexOf('&', start);
            if (end < 0) {
                end = raw.length();
            }
            if (end > start) {
                if (++count > MAX_PARAMETERS) {
                    throw new IllegalArgumentException("more than " + MAX_PARAMETERS + " parameters");
                }
                int equals = raw.indexOf('=', start);
                boolean bare = equals < 0 || equals >= end;
                String name = decode(raw.substring(start, bare ? end : equals));
                query.add(name, bare ? "" : decode(raw.substring(equals + 1, end)));
            }
            start = end + 1;
        }
        return query;
    }

    public QueryString add(String name, String value) {
        values.computeIfAbsent(name, n -> new ArrayList<>(1)).add(value);
        return this;
    }

    public Optional<String> first(String name) {
        return all(name).stream().findFirst();
    }

    public List<String> all(String name) {
        return Collections.unmodifiableList(values.getOrDefault(name, List.of()));
    }

    public OptionalInt intValue(String name) {
        String text = first(name).orElse("");
        if (text.isEmpty() || text.length() > 11) {
            return OptionalInt.empty();
        }
        try {
            return OptionalInt.of(Integer.parseInt(text));
        } catch (NumberFormatException ignored) {
            return OptionalInt.empty();
        }
    }

    /** A parameter without a value counts as set, as in {@code ?verbose}. */
    public boolean flag(String name) {
        if (!values.containsKey(name)) {
            return false;
        }
        String value = values.get(name).get(0);
        return value.isEmpty() || value.equals("1") || value.equalsIgnoreCase("true");
    }

    static String decode(String text) {
        if (text.indexOf('%') < 0) {
            return text.replace('+', ' ');
        }
        byte[] source = text.getBytes(StandardCharsets.UTF_8);
        byte[] bytes = new byte[source.length];
        int length = 0;
        for (int i = 0; i < source.length; i++) {
            byte b = source[i];
            if (b == '+') {
                b = ' ';
            } else if (b == '%') {
                boolean complete = i + 2 < source.length;
                int high = complete ? Character.digit(source[i + 1], 16) : -1;
                int low = complete ? Character.digit(source[i + 2], 16) : -1;
                if (high < 0 || low < 0) {
                    throw new IllegalArgumentException("broken escape in '" + text + "'");
                }
                b = (byte) (high << 4 | low);
                i += 2;
            }
            bytes[length++] = b;
        }
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes, 0, length)).toString();
        } catch (CharacterCodingException e) {
            throw new IllegalArgumentException("escapes are not valid UTF-8: " + text, e);
        }
    }

    static void encode(String text, StringBuilder out) {
        for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
            if (b >= 0 && ((b < 64 ? SAFE_LOW : SAFE_HIGH) >>> (b & 63) & 1) != 0) {
                out.append((char) b);
            } else {
                out.append('%').append(HEX[b >> 4 & 0xF]).append(HEX[b & 0xF]);
            }
        }
    }

    @Override
    public String toString() {
        StringBuilder out = new StringBuilder();
        values.forEach((name, list) -> {
            for (String value : list) {
                if (out.length() > 0) {
                    out.append('&');
                }
                encode(name, out);
                if (!value.isEmpty()) {
                    out.append('=');
                    encode(value, out);
                }
            }
        });
        return out.toString();
    }
}
