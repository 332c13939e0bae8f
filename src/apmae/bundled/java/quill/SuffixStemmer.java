package quill;

import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.UnaryOperator;

/**
 * A light suffix-stripping stemmer meant for index keys rather than linguistics:
 * two inflections of a word should collide, unrelated words should not.
 */
public final class SuffixStemmer implements UnaryOperator<String> {

    private record Rule(String suffix, String replacement, int minStem, boolean tidy) {
        boolean applies(String word) {
            int stem = word.length() - suffix.length();
            return stem >= minStem && word.endsWith(suffix) && hasVowel(word, stem);
        }

        String apply(String word) {
            String stem = word.substring(0, word.length() - suffix.length()) + replacement;
            return tidy ? undouble(stem) : stem;
        }
    }

    private static final List<List<Rule>> PASSES = List.of(
            List.of(
                    new Rule("sses", "ss", 1, false),
                    new Rule("ies", "y", 2, false),
                    new Rule("ches", "ch", 2, false),
                    new Rule("shes", "sh", 2, false),
                    new Rule("xes", "x", 1, false),
                    new Rule("ss", "ss", 0, false),
                    new Rule("us", "us", 1, false),
                    new Rule("s", "", 3, false)),
            List.of(
                    new Rule("ied", "y", 2, false),
                    new Rule("eed", "ee", 2, false),
                    new Rule("ing", "", 3, true),
                    new Rule("ed", "", 3, true)),
            List.of(
                    new Rule("ization", "ize", 3, false),
                    new Rule("fulness", "ful", 3, false),
                    new Rule("ness", "", 3, false),
                    new Rule("ment", "", 4, false),
                    new Rule("ably", "able", 3, false),
                    new Rule("ily", "y", 3, false),
                    new Rule("ly", "", 4, false)));

    private static final Map<String, String> IRREGULAR = Map.of(
            "children", "child",
            "mice", "mouse",
            "feet", "foot",
            "teeth", "tooth",
            "went", "go",
            "better", "good",
            "wrote", "write",
            "written", "write");

    @Override
    public String apply(String raw) {
        String word = raw.toLowerCase(Locale.ROOT);
        if (word.endsWith("'s")) {
            word = word.substring(0, word.length() - 2);
        }
        if (IRREGULAR.containsKey(word)) {
            return IRREGULAR.get(word);
        }
        if (word.length() <= 3 || !word.chars().allMatch(Character::isLetter)) {
            return word;
        }
        for (List<Rule> pass : PASSES) {
            for (Rule rule : pass) {
                if (rule.applies(word)) {
                    word = rule.apply(word);
                    break;
                }
            }
        }
        boolean silentE = word.length() > 4 && word.endsWith("e") && !word.endsWith("ee");
        return silentE ? word.substring(0, word.length() - 1) : word;
    }

    private static boolean hasVowel(String word, int length) {
        for (int i = 0; i < length; i++) {
            if (isVowel(word.charAt(i)) || (i > 0 && word.charAt(i) == 'y')) {
                return true;
            }
        }
        return false;
    }

    private static boolean isVowel(char c) {
        switch (c) {
            case 'a':
            case 'e':
            case 'i':
            case 'o':
            case 'u':
                return true;
            default:
                return false;
        }
    }

    // "stopp" -> "stop", but "fall", "miss" and "buzz" keep both letters.
    private static String undouble(String stem) {
        int last = stem.length() - 1;
        if (last < 2) {
            return stem;
        }
        char c = stem.charAt(last);
        boolean doubled = c == stem.charAt(last - 1) && !isVowel(c);
        return doubled && "lsz".indexOf(c) < 0 ? stem.substring(0, last) : stem;
    }
}
