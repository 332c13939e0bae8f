package quill;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/** Identifier spellings, and conversion between them. */
public enum NameCase {
    CAMEL("") {
        @Override
        String spell(String word, int position) {
            return position == 0 ? word : capitalise(word);
        }
    },
    PASCAL("") {
        @Override
        String spell(String word, int position) {
            return capitalise(word);
        }
    },
    SNAKE("_"),
    SCREAMING_SNAKE("_") {
        @Override
        String spell(String word, int position) {
            return word.toUpperCase(Locale.ROOT);
        }
    },
    KEBAB("-"),
    TITLE(" ") {
        @Override
        String spell(String word, int position) {
            boolean minor = position > 0 && MINOR_WORDS.contains(word);
            return minor ? word : capitalise(word);
        }
    };

    private static final List<String> MINOR_WORDS = List.of("a", "an", "and", "by", "for", "in", "of", "on", "or", "the", "to");

    private final String separator;

    NameCase(String separator) {
        this.separator = separator;
    }

    String spell(String word, int position) {
        return word;
    }

    public String format(String name) {
        List<String> words = words(name);
        StringBuilder out = new StringBuilder(name.length() + words.size());
        for (int i = 0; i < words.size(); i++) {
            if (i > 0) {
                out.append(separator);
            }
            out.append(spell(words.get(i), i));
        }
        return out.toString();
    }

    public boolean accepts(String name) {
        return !name.isEmpty() && format(name).equals(name);
    }

    /** The first spelling that reproduces the name unchanged, if any does. */
    public static Optional<NameCase> detect(String name) {
        for (NameCase candidate : values()) {
            if (candidate.accepts(name)) {
                return Optional.of(candidate);
            }
        }
        return Optional.empty();
    }

    /**
     * Splits on punctuation and on case humps. A run of capitals is treated as
     * an acronym, so "parseHTTPReply" gives parse, http, reply.
     */
    public static List<String> words(String name) {
        List<String> words = new ArrayList<>();
        StringBuilder current = new StringBuilder();
        for (int i = 0; i < name.length(); i++) {
            char c = name.charAt(i);
            if (!Character.isLetterOrDigit(c)) {
                flush(current, words);
                continue;
            }
            if (current.length() > 0 && startsWord(name, i)) {
                flush(current, words);
            }
            current.append(Character.toLowerCase(c));
        }
        flush(current, words);
        return words;
    }

    private static boolean startsWord(String name, int i) {
        char previous = name.charAt(i - 1);
        if (!Character.isUpperCase(name.charAt(i))) {
            return false;
        }
        if (Character.isLowerCase(previous) || Character.isDigit(previous)) {
            return true;
        }
        boolean hasNext = i + 1 < name.length();
        return hasNext && Character.isUpperCase(previous) && Character.isLowerCase(name.charAt(i + 1));
    }

    private static void flush(StringBuilder current, List<String> words) {
        if (current.length() > 0) {
            words.add(current.toString());
            current.setLength(0);
        }
    }

    private static String capitalise(String word) {
        return Character.toUpperCase(word.charAt(0)) + word.substring(1);
    }
}
