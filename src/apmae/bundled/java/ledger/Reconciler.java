package ledger;

import java.time.LocalDate;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Pairs bank statement lines with open book entries. Matching runs from the strictest rule to the loosest
 * so that a vague rule never takes an entry that a precise one would have claimed.
 */
public class Reconciler {

    public record BankLine(LocalDate date, Money amount, String text) {
    }

    public record BookEntry(String reference, LocalDate date, Money amount, String counterparty) {
    }

    public enum Confidence { REFERENCE, AMOUNT_AND_NAME, AMOUNT_ONLY, SPLIT }

    public record Match(BankLine line, List<BookEntry> entries, Confidence confidence) {
    }

    public record Report(List<Match> matches, List<BankLine> unexplained, List<BookEntry> outstanding) {
        public boolean isClean() {
            return unexplained.isEmpty() && outstanding.isEmpty();
        }

        public long needingReview() {
            return matches.stream().filter(m -> m.confidence().compareTo(Confidence.AMOUNT_ONLY) >= 0).count();
        }
    }

    private static final Pattern REFERENCE = Pattern.compile("\\b([A-Z]{2,4}-?\\d{4,10})\\b");
    private static final int MAX_SPLIT_POOL = 16;
    private static final double NAME_SIMILARITY = 0.5;

    private final int windowDays;

    public Reconciler(int windowDays) {
        this.windowDays = windowDays;
    }

    public Report reconcile(List<BankLine> statement, List<BookEntry> book) {
        BitSet usedEntries = new BitSet(book.size());
        Match[] found = new Match[statement.size()];

        matchByReference(statement, book, usedEntries, found);
        matchByAmount(statement, book, usedEntries, found, true);
        matchByAmount(statement, book, usedEntries, found, false);
        for (int i = 0; i < found.length; i++) {
            if (found[i] == null) {
                found[i] = findSplit(statement.get(i), book, usedEntries);
            }
        }

        List<Match> matches = new ArrayList<>();
        List<BankLine> unexplained = new ArrayList<>();
        for (int i = 0; i < found.length; i++) {
            if (found[i] != null) {
                matches.add(found[i]);
            } else {
                unexplained.add(statement.get(i));
            }
        }
        List<BookEntry> outstanding = new ArrayList<>();
        for (int e = usedEntries.nextClearBit(0); e < book.size(); e = usedEntries.nextClearBit(e + 1)) {
            outstanding.add(book.get(e));
        }
        return new Report(matches, unexplained, outstanding);
    }

    private void matchByReference(List<BankLine> statement, List<BookEntry> book, BitSet used, Match[] found) {
        Map<String, Integer> byReference = new HashMap<>();
        for (int e = 0; e < book.size(); e++) {
            byReference.put(book.get(e).reference().replace("-", ""), e);
        }
        for (int i = 0; i < found.length; i++) {
            BankLine line = statement.get(i);
            Matcher m = REFERENCE.matcher(line.text().toUpperCase(Locale.ROOT));
            while (found[i] == null && m.find()) {
                Integer e = byReference.get(m.group(1).replace("-", ""));
                if (e != null && !used.get(e) && book.get(e).amount().equals(line.amount())) {
                    used.set(e);
                    found[i] = new Match(line, List.of(book.get(e)), Confidence.REFERENCE);
                }
            }
        }
    }

    private void matchByAmount(List<BankLine> statement, List<BookEntry> book, BitSet used, Match[] found,
                               boolean requireName) {
        for (int i = 0; i < found.length; i++) {
            if (found[i] != null) {
                continue;
            }
            BankLine line = statement.get(i);
            int best = -1;
            long bestGap = Long.MAX_VALUE;
            boolean ambiguous = false;
            for (int e = used.nextClearBit(0); e < book.size(); e = used.nextClearBit(e + 1)) {
                BookEntry entry = book.get(e);
                long gap = daysApart(line, entry);
                if (!entry.amount().equals(line.amount()) || gap > windowDays) {
                    continue;
                }
                if (requireName && similarity(line.text(), entry.counterparty()) < NAME_SIMILARITY) {
                    continue;
                }
                if (gap < bestGap) {
                    best = e;
                    bestGap = gap;
                    ambiguous = false;
                } else if (gap == bestGap) {
                    ambiguous = true;
                }
            }
            // Two equally close candidates and no name to separate them: leave it for a person.
            if (best >= 0 && (requireName || !ambiguous)) {
                used.set(best);
                Confidence confidence = requireName ? Confidence.AMOUNT_AND_NAME : Confidence.AMOUNT_ONLY;
                found[i] = new Match(line, List.of(book.get(best)), confidence);
            }
        }
    }

    /** Looks for a few entries that were settled with one payment by trying subsets as bit masks. */
    private Match findSplit(BankLine line, List<BookEntry> book, BitSet used) {
        List<Integer> pool = new ArrayList<>();
        for (int e = used.nextClearBit(0); e < book.size(); e = used.nextClearBit(e + 1)) {
            BookEntry entry = book.get(e);
            boolean sameSide = entry.amount().isNegative() == line.amount().isNegative();
            if (sameSide && entry.amount().currency().equals(line.amount().currency())
                    && similarity(line.text(), entry.counterparty()) >= NAME_SIMILARITY) {
                pool.add(e);
            }
        }
        pool.sort(Comparator.comparingLong(e -> daysApart(line, book.get(e))));
        int n = Math.min(pool.size(), MAX_SPLIT_POOL);
        for (int mask = 1; mask < 1 << n; mask++) {
            if (Integer.bitCount(mask) < 2) {
                continue;
            }
            long sum = 0;
            for (int rest = mask; rest != 0; rest &= rest - 1) {
                sum += book.get(pool.get(Integer.numberOfTrailingZeros(rest))).amount().minor();
            }
            if (sum == line.amount().minor()) {
                List<BookEntry> parts = new ArrayList<>();
                for (int bit = 0; bit < n; bit++) {
                    if ((mask >> bit & 1) == 1) {
                        used.set(pool.get(bit));
                        parts.add(book.get(pool.get(bit)));
                    }
                }
                return new Match(line, parts, Confidence.SPLIT);
            }
        }
        return null;
    }

    private static long daysApart(BankLine line, BookEntry entry) {
        return Math.abs(ChronoUnit.DAYS.between(line.date(), entry.date()));
    }

    private static double similarity(String text, String name) {
        Set<String> wanted = words(name);
        if (wanted.isEmpty()) {
            return 0.0;
        }
        Set<String> present = words(text);
        return wanted.stream().filter(present::contains).count() / (double) wanted.size();
    }

    private static Set<String> words(String text) {
        Set<String> out = new HashSet<>();
        for (String word : text.toLowerCase(Locale.ROOT).split("[^\\p{L}\\p{N}]+")) {
            if (word.length() > 2) {
                out.add(word);
            }
        }
        return out;
    }
}
