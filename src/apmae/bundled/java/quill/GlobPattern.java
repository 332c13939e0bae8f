package quill;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import java.util.function.Predicate;

/**
 * Path globs: {@code ?} and {@code *} stay within a segment, {@code **} crosses
 * slashes, and {@code [a-z]} or {@code [!x]} match one character. Matching runs
 * a set of live positions over the input, so no pattern can backtrack badly.
 */
public final class GlobPattern implements Predicate<String> {

  private enum Op { LITERAL, ANY_CHAR, STAR, GLOBSTAR, SET }

  private record Step(Op op, char literal, String members, boolean negated) {
    static Step of(Op op) {
      return new Step(op, '\0', "", false);
    }

    boolean consumes(char c) {
      return switch (op) {
        case LITERAL -> c == literal;
        case ANY_CHAR, STAR -> c != '/';
        case GLOBSTAR -> true;
        case SET -> c != '/' && inMembers(c) != negated;
      };
    }

    private boolean inMembers(char c) {
      // members is a flat list of inclusive (low, high) pairs
      for (int i = 0; i < members.length(); i += 2) {
        if (c >= members.charAt(i) && c <= members.charAt(i + 1)) {
          return true;
        }
      }
      return false;
    }

    boolean repeats() {
      return op == Op.STAR || op == Op.GLOBSTAR;
    }
  }

  private final String pattern;
  private final List<Step> steps;

  private GlobPattern(String pattern, List<Step> steps) {
    this.pattern = pattern;
    this.steps = steps;
  }

  public static GlobPattern compile(String pattern) {
    List<Step> steps = new ArrayList<>();
    for (int i = 0; i < pattern.length(); i++) {
      char c = pattern.charAt(i);
      switch (c) {
        case '?':
          steps.add(Step.of(Op.ANY_CHAR));
          break;
        case '*':
          if (pattern.startsWith("**", i)) {
            steps.add(Step.of(Op.GLOBSTAR));
            i++;
          } else {
            steps.add(Step.of(Op.STAR));
          }
          break;
        case '[':
          i = readSet(pattern, i, steps);
          break;
        case '\\':
          if (++i == pattern.length()) {
            throw new IllegalArgumentException("pattern ends in a backslash: " + pattern);
          }
          steps.add(new Step(Op.LITERAL, pattern.charAt(i), "", false));
          break;
        default:
          steps.add(new Step(Op.LITERAL, c, "", false));
      }
    }
    return new GlobPattern(pattern, steps);
  }

  private static int readSet(String pattern, int open, List<Step> steps) {
    int i = open + 1;
    boolean negated = i < pattern.length() && pattern.charAt(i) == '!';
    if (negated) {
      i++;
    }
    int close = pattern.indexOf(']', i + 1);
    if (close < 0) {
      throw new IllegalArgumentException("unclosed '[' at " + open + " in " + pattern);
    }
    StringBuilder members = new StringBuilder();
    while (i < close) {
      char low = pattern.charAt(i);
      boolean range = i + 2 < close && pattern.charAt(i + 1) == '-';
      char high = range ? pattern.charAt(i + 2) : low;
      if (high < low) {
        throw new IllegalArgumentException("reversed range " + low + "-" + high);
      }
      members.append(low).append(high);
      i += range ? 3 : 1;
    }
    steps.add(new Step(Op.SET, '\0', members.toString(), negated));
    return close;
  }

  @Override
  public boolean test(String path) {
    BitSet live = new BitSet(steps.size() + 1);
    activate(live, 0);
    for (int i = 0; i < path.length() && !live.isEmpty(); i++) {
      BitSet following = new BitSet(steps.size() + 1);
      char c = path.charAt(i);
      for (int s = live.nextSetBit(0); s >= 0 && s < steps.size(); s = live.nextSetBit(s + 1)) {
        Step step = steps.get(s);
        if (step.consumes(c)) {
          activate(following, step.repeats() ? s : s + 1);
        }
      }
      live = following;
    }
    return live.get(steps.size());
  }

  // Stars may match nothing, so reaching one also reaches whatever follows it.
  private void activate(BitSet live, int position) {
    live.set(position);
    while (position < steps.size() && steps.get(position).repeats()) {
      live.set(++position);
    }
  }

  public boolean isLiteral() {
    return steps.stream().allMatch(step -> step.op() == Op.LITERAL);
  }

  @Override
  public String toString() {
    return pattern;
  }
}
