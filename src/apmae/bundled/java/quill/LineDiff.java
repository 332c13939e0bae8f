package quill;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Objects;

/** Line-oriented comparison of two texts, reported as an edit script or as unified hunks. */
public final class LineDiff {

    public sealed interface Edit permits Keep, Insert, Delete {
        String text();

        default char marker() {
            if (this instanceof Insert) {
                return '+';
            }
            return this instanceof Delete ? '-' : ' ';
        }
    }

    public record Keep(String text, int leftLine, int rightLine) implements Edit {}

    public record Insert(String text, int rightLine) implements Edit {}

    public record Delete(String text, int leftLine) implements Edit {}

    private final List<String> left;
    private final List<String> right;

    public LineDiff(List<String> left, List<String> right) {
        this.left = List.copyOf(left);
        this.right = List.copyOf(right);
    }

    public static LineDiff ofTexts(String before, String after) {
        return new LineDiff(before.lines().toList(), after.lines().toList());
    }

    public List<Edit> script() {
        int prefix = 0;
        int shortest = Math.min(left.size(), right.size());
        while (prefix < shortest && left.get(prefix).equals(right.get(prefix))) {
            prefix++;
        }
        int suffix = 0;
        while (suffix < shortest - prefix
                && Objects.equals(left.get(left.size() - 1 - suffix), right.get(right.size() - 1 - suffix))) {
            suffix++;
        }

        List<Edit> edits = new ArrayList<>(left.size() + right.size());
        for (int i = 0; i < prefix; i++) {
            edits.add(new Keep(left.get(i), i, i));
        }
        edits.addAll(middle(prefix, left.size() - suffix, prefix, right.size() - suffix));
        for (int k = suffix; k > 0; k--) {
            int l = left.size() - k;
            edits.add(new Keep(left.get(l), l, right.size() - k));
        }
        return edits;
    }

    // Longest common subsequence over the part that actually differs; the
    // trimmed prefix and suffix keep this table small for typical revisions.
    private List<Edit> middle(int leftFrom, int leftTo, int rightFrom, int rightTo) {
        int rows = leftTo - leftFrom;
        int cols = rightTo - rightFrom;
        int[][] common = new int[rows + 1][cols + 1];
        for (int r = rows - 1; r >= 0; r--) {
            for (int c = cols - 1; c >= 0; c--) {
                boolean same = left.get(leftFrom + r).equals(right.get(rightFrom + c));
                common[r][c] = same
                        ? common[r + 1][c + 1] + 1
                        : Math.max(common[r + 1][c], common[r][c + 1]);
            }
        }
        List<Edit> edits = new ArrayList<>();
        int r = 0;
        int c = 0;
        while (r < rows || c < cols) {
            if (r < rows && c < cols && left.get(leftFrom + r).equals(right.get(rightFrom + c))) {
                edits.add(new Keep(left.get(leftFrom + r), leftFrom + r, rightFrom + c));
                r++;
                c++;
            } else if (c >= cols || (r < rows && common[r + 1][c] >= common[r][c + 1])) {
                edits.add(new Delete(left.get(leftFrom + r), leftFrom + r));
                r++;
            } else {
                edits.add(new Insert(right.get(rightFrom + c), rightFrom + c));
                c++;
            }
        }
        return edits;
    }

    public boolean isIdentical() {
        return left.equals(right);
    }

    public String unified(int context) {
        List<Edit> edits = script();
        StringBuilder out = new StringBuilder();
        Deque<Edit> lead = new ArrayDeque<>();
        List<Edit> hunk = new ArrayList<>();
        int leftLine = 0;
        int rightLine = 0;
        int hunkLeft = 0;
        int hunkRight = 0;
        int quiet = 0;

        for (Edit edit : edits) {
            boolean changed = !(edit instanceof Keep);
            if (changed && hunk.isEmpty()) {
                hunkLeft = leftLine - lead.size();
                hunkRight = rightLine - lead.size();
                hunk.addAll(lead);
                lead.clear();
            }
            if (changed || !hunk.isEmpty()) {
                hunk.add(edit);
                quiet = changed ? 0 : quiet + 1;
            } else {
                lead.addLast(edit);
                if (lead.size() > context) {
                    lead.removeFirst();
                }
            }
            if (!(edit instanceof Insert)) {
                leftLine++;
            }
            if (!(edit instanceof Delete)) {
                rightLine++;
            }
            if (quiet > 2 * context) {
                int cut = hunk.size() - quiet + context;
                writeHunk(out, hunk.subList(0, cut), hunkLeft, hunkRight);
                lead.addAll(hunk.subList(hunk.size() - context, hunk.size()));
                hunk.clear();
                quiet = 0;
            }
        }
        if (!hunk.isEmpty()) {
            int surplus = Math.max(0, quiet - context);
            writeHunk(out, hunk.subList(0, hunk.size() - surplus), hunkLeft, hunkRight);
        }
        return out.toString();
    }

    private static void writeHunk(StringBuilder out, List<Edit> hunk, int leftStart, int rightStart) {
        long removed = hunk.stream().filter(e -> !(e instanceof Insert)).count();
        long added = hunk.stream().filter(e -> !(e instanceof Delete)).count();
        out.append(String.format("@@ -%d,%d +%d,%d @@%n", leftStart + 1, removed, rightStart + 1, added));
        for (Edit edit : hunk) {
            out.append(edit.marker()).append(edit.text()).append(System.lineSeparator());
        }
    }
}
