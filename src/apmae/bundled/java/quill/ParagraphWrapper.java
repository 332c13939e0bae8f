package quill;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Breaks prose into lines no wider than a fixed column. Blank lines separate
 * paragraphs and survive the round trip; all other whitespace is collapsed.
 */
public final class ParagraphWrapper {

    public enum Strategy { GREEDY, BALANCED }

    private static final long OVERFLOW_PENALTY = 1_000_000L;

    private final int width;
    private final Strategy strategy;
    private String firstIndent = "";
    private String hangingIndent = "";
    private boolean breakLongWords = false;

    public ParagraphWrapper(int width, Strategy strategy) {
        if (width < 8) {
            throw new IllegalArgumentException("width must be at least 8, got " + width);
        }
        this.width = width;
        this.strategy = strategy;
    }

    public ParagraphWrapper indent(String first, String hanging) {
        if (first.length() >= width || hanging.length() >= width) {
            throw new IllegalArgumentException("indent leaves no room for text");
        }
        this.firstIndent = first;
        this.hangingIndent = hanging;
        return this;
    }

    public ParagraphWrapper breakingLongWords(boolean enabled) {
        this.breakLongWords = enabled;
        return this;
    }

    public String wrap(String text) {
        StringBuilder out = new StringBuilder(text.length() + text.length() / 16);
        List<String> pending = new ArrayList<>();
        boolean needsGap = false;
        for (String line : text.split("\\R", -1)) {
            if (!line.isBlank()) {
                pending.addAll(Arrays.asList(line.strip().split("\\s+")));
                continue;
            }
            if (!pending.isEmpty()) {
                emit(pending, needsGap, out);
                pending.clear();
                needsGap = true;
            }
        }
        if (!pending.isEmpty()) {
            emit(pending, needsGap, out);
        }
        return out.toString();
    }

    private void emit(List<String> words, boolean needsGap, StringBuilder out) {
        if (needsGap) {
            out.append('\n');
        }
        List<String> pieces = breakLongWords ? splitOversized(words) : words;
        int[] breaks = strategy == Strategy.GREEDY ? greedyBreaks(pieces) : balancedBreaks(pieces);
        int start = 0;
        for (int end : breaks) {
            out.append(start == 0 ? firstIndent : hangingIndent);
            out.append(String.join(" ", pieces.subList(start, end))).append('\n');
            start = end;
        }
    }

    private List<String> splitOversized(List<String> words) {
        int room = width - Math.max(firstIndent.length(), hangingIndent.length());
        List<String> result = new ArrayList<>(words.size());
        for (String word : words) {
            String rest = word;
            while (rest.length() > room) {
                result.add(rest.substring(0, room - 1) + "-");
                rest = rest.substring(room - 1);
            }
            result.add(rest);
        }
        return result;
    }

    private int roomFor(int firstWord) {
        return width - (firstWord == 0 ? firstIndent : hangingIndent).length();
    }

    private int[] greedyBreaks(List<String> words) {
        List<Integer> ends = new ArrayList<>();
        int lineStart = 0;
        int used = 0;
        for (int i = 0; i < words.size(); i++) {
            int length = words.get(i).length();
            if (i > lineStart && used + 1 + length > roomFor(lineStart)) {
                ends.add(i);
                lineStart = i;
                used = length;
            } else {
                used += length + (i == lineStart ? 0 : 1);
            }
        }
        ends.add(words.size());
        return ends.stream().mapToInt(Integer::intValue).toArray();
    }

    /**
     * Minimises the sum of squared slack over every line but the last, working
     * backwards so that cost[i] is the price of setting words i..n.
     */
    private int[] balancedBreaks(List<String> words) {
        int n = words.size();
        long[] cost = new long[n + 1];
        int[] next = new int[n];
        for (int i = n - 1; i >= 0; i--) {
            cost[i] = Long.MAX_VALUE;
            int used = -1;
            for (int j = i; j < n; j++) {
                used += 1 + words.get(j).length();
                int slack = roomFor(i) - used;
                if (slack < 0 && j > i) {
                    break;
                }
                long price;
                if (slack < 0) {
                    price = OVERFLOW_PENALTY;
                } else if (j == n - 1) {
                    price = 0;
                } else {
                    price = (long) slack * slack;
                }
                if (price + cost[j + 1] < cost[i]) {
                    cost[i] = price + cost[j + 1];
                    next[i] = j + 1;
                }
            }
        }
        List<Integer> ends = new ArrayList<>();
        for (int at = 0; at < n; at = next[at]) {
            ends.add(next[at]);
        }
        return ends.stream().mapToInt(Integer::intValue).toArray();
    }
}
