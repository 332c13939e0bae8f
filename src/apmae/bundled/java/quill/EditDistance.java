package quill;

import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.OptionalInt;

public final class EditDistance {

    /** Price of each primitive edit. Swapping is the exchange of two adjacent characters. */
    public record Costs(int insert, int delete, int replace, int swap) {
        public static final Costs UNIT = new Costs(1, 1, 1, 1);
        public static final Costs NO_SWAPS = new Costs(1, 1, 1, Integer.MAX_VALUE / 4);

        public Costs {
            if (insert < 0 || delete < 0 || replace < 0 || swap < 0) {
                throw new IllegalArgumentException("edit costs cannot be negative");
            }
        }
    }

    public record Suggestion(String word, int distance) {}

    private final Costs costs;
    private final boolean ignoreCase;

    public EditDistance(Costs costs, boolean ignoreCase) {
        this.costs = costs;
        this.ignoreCase = ignoreCase;
    }

    public int between(CharSequence source, CharSequence target) {
        int n = target.length();
        int[] older = new int[n + 1];
        int[] above = new int[n + 1];
        int[] row = new int[n + 1];
        for (int j = 1; j <= n; j++) {
            above[j] = above[j - 1] + costs.insert();
        }
        for (int i = 1; i <= source.length(); i++) {
            row[0] = i * costs.delete();
            for (int j = 1; j <= n; j++) {
                boolean match = same(source.charAt(i - 1), target.charAt(j - 1));
                int best = above[j - 1] + (match ? 0 : costs.replace());
                best = Math.min(best, above[j] + costs.delete());
                best = Math.min(best, row[j - 1] + costs.insert());
                if (i > 1 && j > 1
                        && same(source.charAt(i - 1), target.charAt(j - 2))
                        && same(source.charAt(i - 2), target.charAt(j - 1))) {
                    best = Math.min(best, older[j - 2] + costs.swap());
                }
                row[j] = best;
            }
            int[] recycled = older;
            older = above;
            above = row;
            row = recycled;
        }
        return above[n];
    }

    /**
     * Unit-cost distance without swaps, evaluated only near the diagonal.
     * Empty when the true distance exceeds the limit.
     */
    public OptionalInt within(String a, String b, int limit) {
        if (Math.abs(a.length() - b.length()) > limit) {
            return OptionalInt.empty();
        }
        final int far = limit + 1;
        int[] row = new int[b.length() + 1];
        for (int j = 0; j < row.length; j++) {
            row[j] = Math.min(j, far);
        }
        for (int i = 1; i <= a.length(); i++) {
            int from = Math.max(1, i - limit);
            int to = Math.min(b.length(), i + limit);
            int diagonal = row[from - 1];
            row[from - 1] = from == 1 ? Math.min(i, far) : far;
            int rowBest = row[from - 1];
            for (int j = from; j <= to; j++) {
                int up = j == i + limit ? far : row[j];
                int step = same(a.charAt(i - 1), b.charAt(j - 1)) ? diagonal : diagonal + 1;
                diagonal = row[j];
                row[j] = Math.min(far, Math.min(step, Math.min(up, row[j - 1]) + 1));
                rowBest = Math.min(rowBest, row[j]);
            }
            if (rowBest > limit) {
                return OptionalInt.empty();
            }
        }
        int answer = row[b.length()];
        return answer <= limit ? OptionalInt.of(answer) : OptionalInt.empty();
    }

    public double similarity(String a, String b) {
        int longest = Math.max(a.length(), b.length());
        if (longest == 0) {
            return 1.0;
        }
        return 1.0 - between(a, b) / (double) longest;
    }

    public List<Suggestion> suggest(String typed, Collection<String> vocabulary, int maxDistance, int count) {
        return vocabulary.stream()
                .filter(word -> Math.abs(word.length() - typed.length()) <= maxDistance)
                .map(word -> new Suggestion(word, between(typed, word)))
                .filter(s -> s.distance() <= maxDistance)
                .sorted(Comparator.comparingInt(Suggestion::distance).thenComparing(Suggestion::word))
                .limit(count)
                .toList();
    }

    private boolean same(char a, char b) {
        return a == b || (ignoreCase && Character.toLowerCase(a) == Character.toLowerCase(b));
    }
}
