package quill.tests;

import static quill.tests.Expect.near;
import static quill.tests.Expect.raises;
import static quill.tests.Expect.same;
import static quill.tests.Expect.yes;

import java.util.List;
import java.util.OptionalInt;
import java.util.Random;
import java.util.Set;
import java.util.stream.Collectors;
import quill.EditDistance;
import quill.EditDistance.Costs;
import quill.Escapes;
import quill.GlobPattern;
import quill.LineDiff;
import quill.NameCase;
import quill.Slugger;
import quill.SuffixStemmer;
import quill.TokenStream;
import quill.WordIndex;

public class TextTests {

    public static void main(String[] args) {
        boolean ok = run();
        ok &= LayoutTests.run();
        if (!ok) {
            System.exit(1);
        }
    }

    static boolean run() {
        Expect expect = new Expect("text");
        expect.check("diff script rebuilds both sides", TextTests::diffRoundTrip);
        expect.check("identical texts give no hunks", () -> {
            LineDiff diff = LineDiff.ofTexts("a\nb\n", "a\nb\n");
            yes(diff.isIdentical(), "should be identical");
            same("", diff.unified(3));
        });
        expect.check("distant changes land in separate hunks", TextTests::separateHunks);
        expect.check("banded distance agrees with the full table", TextTests::bandedDistance);
        expect.check("swap counts once", () -> {
            same(1, new EditDistance(Costs.UNIT, false).between("recieve", "receive"));
            same(2, new EditDistance(Costs.NO_SWAPS, false).between("recieve", "receive"));
            near(0.8571, new EditDistance(Costs.UNIT, true).similarity("RECIEVE", "receive"), 1e-4);
        });
        expect.check("names", TextTests::names);
        expect.check("slugs are unique", () -> {
            Slugger slugger = new Slugger(12);
            same("salt-pepper", new Slugger().next("Salt / Pepper!"));
            same("notes", slugger.next("Notes"));
            same("notes-2", slugger.next("notes"));
            same("notes-3", slugger.next("NOTES?"));
            same("untitled", slugger.next("***"));
        });
        expect.check("globs", TextTests::globs);
        expect.check("literal escapes round trip", TextTests::escapes);
        expect.check("csv quoting", () -> {
            same("plain", Escapes.csvField("plain", ','));
            same("\"a,b\"", Escapes.csvField("a,b", ','));
            same("a,b", Escapes.csvField("a,b", ';'));
            same("\"say \"\"hi\"\"\"", Escapes.csvField("say \"hi\"", ','));
        });
        expect.check("tokens keep apostrophes and decimals", () -> {
            List<String> words = new TokenStream("It's 3.14, not 3,000.50... well-known?").words().toList();
            same(List.of("It's", "3.14", "not", "3,000.50", "well-known"), words);
        });
        expect.check("inflections share a stem", () -> {
            SuffixStemmer stemmer = new SuffixStemmer();
            same(stemmer.apply("stopping"), stemmer.apply("stops"));
            same(stemmer.apply("carried"), stemmer.apply("carries"));
            same(stemmer.apply("changes"), stemmer.apply("changing"));
            yes(!stemmer.apply("bus").equals(stemmer.apply("but")), "bus and but must differ");
        });
        expect.check("index search", TextTests::index);
        return expect.report();
    }

    private static void diffRoundTrip() {
        Random random = new Random(20_240L);
        String[] alphabet = {"alpha", "bravo", "charlie", ""};
        for (int round = 0; round < 200; round++) {
            List<String> left = randomLines(random, alphabet);
            List<String> right = randomLines(random, alphabet);
            List<LineDiff.Edit> script = new LineDiff(left, right).script();
            same(left, script.stream().filter(e -> e.marker() != '+').map(LineDiff.Edit::text).toList());
            same(right, script.stream().filter(e -> e.marker() != '-').map(LineDiff.Edit::text).toList());
        }
    }

    private static List<String> randomLines(Random random, String[] alphabet) {
        return random.ints(random.nextInt(9), 0, alphabet.length).mapToObj(i -> alphabet[i]).toList();
    }

    private static void separateHunks() {
        List<String> before = List.of("a b c d e f g h i j k l".split(" "));
        List<String> after = before.stream().map(s -> s.equals("b") || s.equals("k") ? s + "!" : s).toList();
        String unified = new LineDiff(before, after).unified(2);
        Set<String> headers = unified.lines().filter(l -> l.startsWith("@@")).collect(Collectors.toSet());
        same(Set.of("@@ -1,4 +1,4 @@", "@@ -9,4 +9,4 @@"), headers);
    }

    private static void bandedDistance() {
        EditDistance distance = new EditDistance(Costs.NO_SWAPS, false);
        Random random = new Random(7);
        for (int i = 0; i < 500; i++) {
            String a = randomWord(random);
            String b = randomWord(random);
            int exact = distance.between(a, b);
            for (int limit = 0; limit <= 5; limit++) {
                OptionalInt banded = distance.within(a, b, limit);
                same(exact <= limit ? OptionalInt.of(exact) : OptionalInt.empty(), banded);
            }
        }
    }

    private static String randomWord(Random random) {
        StringBuilder word = new StringBuilder();
        for (int n = random.nextInt(8); n > 0; n--) {
            word.append((char) ('a' + random.nextInt(3)));
        }
        return word.toString();
    }

    private static void names() {
        same(List.of("parse", "http", "reply"), NameCase.words("parseHTTPReply"));
        same("max_retry_count", NameCase.SNAKE.format("maxRetryCount"));
        same("MAX_RETRY_COUNT", NameCase.SCREAMING_SNAKE.format("max-retry-count"));
        same("The Lord of the Manor", NameCase.TITLE.format("the_lord_of_the_manor"));
        same(NameCase.KEBAB, NameCase.detect("left-hand-side").orElseThrow());
        yes(NameCase.detect("What?Ever").isEmpty(), "mixed punctuation has no case");
    }

    private static void globs() {
        yes(GlobPattern.compile("src/**.java").test("src/a/b/Main.java"), "globstar crosses slashes");
        yes(!GlobPattern.compile("src/*.java").test("src/a/Main.java"), "star stays in its segment");
        yes(GlobPattern.compile("log-[0-9][!a].txt").test("log-7b.txt"), "sets");
        yes(!GlobPattern.compile("log-[0-9][!a].txt").test("log-7a.txt"), "negated set");
        yes(GlobPattern.compile("*a*a*a*a*b").test("a".repeat(2_000) + "b"), "pathological input");
        same(true, GlobPattern.compile("a\\*b").isLiteral());
        raises(IllegalArgumentException.class, () -> GlobPattern.compile("oops[a-"));
    }

    private static void escapes() {
        String nasty = "tab\t quote\" slash\\ bell\u0007 snow\u2603";
        same(nasty, Escapes.unliteral(Escapes.literal(nasty, true)));
        same(nasty, Escapes.unliteral(Escapes.literal(nasty, false)));
        var e = raises(Escapes.MalformedEscapeException.class, () -> Escapes.unliteral("\"ab\\q\""));
        same(3, e.offset());
    }

    private static void index() {
        WordIndex<Integer> index = new WordIndex<>(new SuffixStemmer());
        index.add(1, "Boats in the harbour were rocking.");
        index.add(2, "The harbour master counted boats, boats and more boats.");
        index.add(3, "Nothing to see at the railway station.");
        same(2, index.search("boat", 10).get(0).document());
        same(Set.of(1), index.containingAll("rocking boats"));
        same("boat", index.mostFrequent(1).get(0).term());
        yes(index.remove(2) && !index.remove(2), "removal is reported once");
        same(2, index.documentCount());
    }
}
