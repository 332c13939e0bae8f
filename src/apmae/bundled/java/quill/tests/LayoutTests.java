package quill.tests;

import static quill.tests.Expect.raises;
import static quill.tests.Expect.same;
import static quill.tests.Expect.yes;

import quill.MarkdownRenderer;
import quill.ParagraphWrapper;
import quill.ParagraphWrapper.Strategy;
import quill.TextTable;
import quill.TextTable.Align;

public class LayoutTests {

    private static final String PROSE =
            "The ferry left the island a little after nine, carrying eleven passengers,\n"
                    + "two bicycles and a crate of lemons that nobody would admit to owning.\n"
                    + "\n"
                    + "By noon the wind had turned.";

    public static void main(String[] args) {
        boolean passed = run();
        System.exit(passed ? 0 : 1);
    }

    static boolean run() {
        Expect expect = new Expect("layout");
        expect.check("no line exceeds the width", LayoutTests::widthIsRespected);
        expect.check("both strategies keep every word", LayoutTests::wordsSurvive);
        expect.check("balanced lines waste no more than greedy ones", LayoutTests::balancedIsNoWorse);
        expect.check("hanging indent", () -> {
            String out = new ParagraphWrapper(20, Strategy.GREEDY).indent("* ", "  ").wrap("one two three four five six");
            same("* one two three four\n  five six\n", out);
        });
        expect.check("long words break only on request", () -> {
            ParagraphWrapper wrapper = new ParagraphWrapper(10, Strategy.GREEDY);
            same("incomprehensible\n", wrapper.wrap("incomprehensible"));
            same("incompreh-\nensible\n", wrapper.breakingLongWords(true).wrap("incomprehensible"));
        });
        expect.check("narrow wrapper is refused", () -> {
            IllegalArgumentException e =
                    raises(IllegalArgumentException.class, () -> new ParagraphWrapper(4, Strategy.GREEDY));
            yes(e.getMessage().contains("4"), "message should quote the width");
        });
        expect.check("table aligns numbers right", LayoutTests::tableAlignment);
        expect.check("table rejects surplus cells", () ->
                raises(IllegalArgumentException.class, () -> new TextTable().column("only").row("a", "b")));
        expect.check("markdown blocks", LayoutTests::markdownBlocks);
        expect.check("markdown drops script links", () -> {
            MarkdownRenderer md = new MarkdownRenderer(false);
            same("<p>click me</p>", md.render("[click me](javascript:run)"));
            same("<p><a href=\"/docs\">docs</a></p>", md.render("[docs](/docs)"));
        });
        return expect.report();
    }

    private static void widthIsRespected() {
        for (Strategy strategy : Strategy.values()) {
            for (int width = 12; width <= 60; width += 7) {
                final int limit = width;
                String wrapped = new ParagraphWrapper(width, strategy).wrap(PROSE);
                yes(wrapped.lines().allMatch(l -> l.length() <= limit), strategy + " overflowed at " + width);
            }
        }
    }

    private static void wordsSurvive() {
        String expected = PROSE.replaceAll("\\s+", " ");
        for (Strategy strategy : Strategy.values()) {
            String wrapped = new ParagraphWrapper(33, strategy).wrap(PROSE);
            same(expected, wrapped.replaceAll("\\s+", " ").strip());
        }
    }

    private static void balancedIsNoWorse() {
        String paragraph = PROSE.substring(0, PROSE.indexOf("\n\n"));
        long greedy = waste(new ParagraphWrapper(28, Strategy.GREEDY).wrap(paragraph), 28);
        long balanced = waste(new ParagraphWrapper(28, Strategy.BALANCED).wrap(paragraph), 28);
        yes(balanced <= greedy, "balanced wasted " + balanced + ", greedy " + greedy);
    }

    private static long waste(String wrapped, int width) {
        String[] lines = wrapped.split("\n");
        long total = 0;
        for (int i = 0; i < lines.length - 1; i++) {
            long slack = width - lines[i].length();
            total += slack * slack;
        }
        return total;
    }

    private static void tableAlignment() {
        String table = new TextTable()
                .column("port")
                .column("tons", Align.RIGHT, 10)
                .withoutBorders()
                .row("Oban", 12.5)
                .row("Mallaig", 140.0)
                .row("Ullapool")
                .render();
        same("port        tons\n"
                + "--------  ------\n"
                + "Oban       12.50\n"
                + "Mallaig   140.00\n"
                + "Ullapool       -\n", table);
    }

    private static void markdownBlocks() {
        String html = new MarkdownRenderer(true).render("## Tides & winds\n\n- *high* water\n- `low` water\n---");
        same("<h2 id=\"tides-and-winds\">Tides &amp; winds</h2>\n"
                + "<ul>\n  <li><em>high</em> water</li>\n  <li><code>low</code> water</li>\n</ul>\n"
                + "<hr>", html);
    }
}
