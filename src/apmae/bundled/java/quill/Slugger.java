package quill;

import java.text.Normalizer;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;

/**
 * Produces URL-safe slugs that are unique within one instance. Not thread safe.
 */
public class Slugger {

    private static final Map<Character, String> SPELLED_OUT = Map.of(
            '&', " and ",
            '@', " at ",
            '%', " percent ",
            '+', " plus ",
            '\u00df', "ss",
            '\u00e6', "ae",
            '\u00f8', "o");

    private final int maxLength;
    private final Map<String, Integer> issued = new HashMap<>();

    public Slugger() {
        this(64);
    }

    public Slugger(int maxLength) {
        if (maxLength <= 0) throw new IllegalArgumentException("maxLength must be positive");
        this.maxLength = maxLength;
    }

    public static String plain(String title) {
        StringBuilder expanded = new StringBuilder(title.length() + 8);
        for (char c : title.toLowerCase(Locale.ROOT).toCharArray()) {
            String replacement = SPELLED_OUT.get(c);
            if (replacement != null) {
                expanded.append(replacement);
            } else if (c != '\'' && c != '\u2019') {
                expanded.append(c);
            }
        }
        String decomposed = Normalizer.normalize(expanded, Normalizer.Form.NFD);
        StringBuilder slug = new StringBuilder(decomposed.length());
        boolean gap = false;
        for (int i = 0; i < decomposed.length(); i++) {
            char c = decomposed.charAt(i);
            if (Character.getType(c) == Character.NON_SPACING_MARK) {
                continue;
            }
            if (c < 0x80 && Character.isLetterOrDigit(c)) {
                if (gap && slug.length() > 0) {
                    slug.append('-');
                }
                slug.append(c);
                gap = false;
            } else {
                gap = true;
            }
        }
        return slug.toString();
    }

    public String next(String title) {
        String base = truncate(plain(title), maxLength);
        if (base.isEmpty()) {
            base = "untitled";
        }
        int seen = issued.merge(base, 1, Integer::sum);
        if (seen == 1) {
            return base;
        }
        String candidate;
        do {
            String suffix = "-" + seen++;
            candidate = truncate(base, Math.max(1, maxLength - suffix.length())) + suffix;
        } while (issued.containsKey(candidate));
        issued.put(base, seen - 1);
        issued.put(candidate, 1);
        return candidate;
    }

    // Prefer to cut at a hyphen, unless that would throw away over half the slug.
    private static String truncate(String slug, int limit) {
        if (slug.length() <= limit) {
            return slug;
        }
        int cut = slug.lastIndexOf('-', limit);
        return slug.substring(0, cut > limit / 2 ? cut : limit);
    }
}
