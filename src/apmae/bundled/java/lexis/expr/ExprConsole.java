package lexis.expr;

import lexis.SyntaxException;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Line-oriented shell around the evaluator, handy when writing pricing rules. */
public final class ExprConsole {

    private static final Pattern ASSIGNMENT = Pattern.compile("\\s*([A-Za-z_]\\w*)\\s*=(?!=)\\s*(.+)");

    private static final String HELP = """
            name = expr   remember a value
            expr          print a value; the last one is kept as _
            :vars         list what is remembered
            :tree expr    show how an expression is grouped
            :quit         leave
            """;

    private final Map<String, Object> variables = new TreeMap<>();
    private final Evaluator evaluator = new Evaluator();
    private final PrintStream out;
    private boolean running = true;

    ExprConsole(PrintStream out) {
        this.out = out;
        variables.put("pi", Math.PI);
        variables.put("nm", 1852.0);
    }

    public static void main(String[] args) throws IOException {
        ExprConsole console = new ExprConsole(System.out);
        try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            String line;
            while (console.running && (line = in.readLine()) != null) {
                console.handle(line);
            }
        }
    }

    void handle(String line) {
        if (line.isBlank()) {
            return;
        }
        try {
            if (line.charAt(0) == ':') {
                command(line.substring(1).strip());
                return;
            }
            Matcher assignment = ASSIGNMENT.matcher(line);
            boolean assigns = assignment.matches();
            String code = assigns ? assignment.group(2) : line;
            Object value = evaluator.evaluate(ExprParser.parse(code), variables);
            variables.put(assigns ? assignment.group(1) : "_", value);
            if (!assigns) {
                out.println(Evaluator.text(value));
            }
        } catch (SyntaxException e) {
            out.println(" ".repeat(Math.max(0, e.column() - 1)) + "^ " + e.getMessage());
        } catch (Evaluator.EvaluationException e) {
            out.println("error: " + e.getMessage());
        }
    }

    private void command(String text) {
        int space = text.indexOf(' ');
        String name = space < 0 ? text : text.substring(0, space);
        switch (name) {
            case "q", "quit" -> running = false;
            case "vars" -> variables.forEach((key, value) -> out.printf("%-10s %s%n", key, value));
            case "tree" -> out.println(ExprParser.parse(text.substring(name.length())));
            case "help" -> out.print(HELP);
            default -> out.println("no such command, try :help");
        }
    }
}
