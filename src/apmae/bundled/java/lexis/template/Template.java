package lexis.template;

import lexis.SyntaxException;
import lexis.expr.Evaluator;
import lexis.expr.Expr;
import lexis.expr.ExprParser;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Compiled text template.
 *
 * <pre>
 * {{ expr }}  {{{ expr }}}  {% if expr %} {% else %} {% end %}  {% for x in name %} {% end %}
 * </pre>
 *
 * Double braces escape for HTML, triple braces do not.
 */
public final class Template {

    private sealed interface Node {
    }

    private record Text(String text) implements Node {
    }

    private record Output(Expr expr, boolean escape) implements Node {
    }

    private record If(Expr test, List<Node> then, List<Node> otherwise) implements Node {
    }

    private record For(String variable, String listName, List<Node> body) implements Node {
    }

    private final List<Node> nodes;
    private final Evaluator evaluator;

    private Template(List<Node> nodes, Evaluator evaluator) {
        this.nodes = nodes;
        this.evaluator = evaluator;
    }

    public static Template compile(String source) {
        return compile(source, new Evaluator());
    }

    public static Template compile(String source, Evaluator evaluator) {
        Compiler compiler = new Compiler(source);
        List<Node> nodes = compiler.block(false);
        return new Template(nodes, evaluator);
    }

    public String render(Map<String, ?> model) {
        StringBuilder out = new StringBuilder(256);
        render(nodes, new HashMap<>(model), out);
        return out.toString();
    }

    private void render(List<Node> block, Map<String, Object> scope, StringBuilder out) {
        for (Node node : block) {
            if (node instanceof Text t) {
                out.append(t.text);
            } else if (node instanceof Output o) {
                Object value = evaluator.evaluate(o.expr, scope);
                String text = format(value);
                if (o.escape) {
                    escape(text, out);
                } else {
                    out.append(text);
                }
            } else if (node instanceof If branch) {
                boolean taken = Evaluator.truthy(evaluator.evaluate(branch.test, scope));
                render(taken ? branch.then : branch.otherwise, scope, out);
            } else if (node instanceof For loop) {
                renderLoop(loop, scope, out);
            }
        }
    }

    private void renderLoop(For loop, Map<String, Object> scope, StringBuilder out) {
        if (!(scope.get(loop.listName) instanceof Iterable<?> items)) {
            throw new IllegalArgumentException("'" + loop.listName + "' is not a list");
        }
        Map<String, Object> inner = new HashMap<>(scope);
        int index = 0;
        for (Object item : items) {
            inner.put(loop.variable, item);
            inner.put("index", index);
            inner.put("first", index == 0);
            if (item instanceof Map<?, ?> fields) {
                fields.forEach((name, value) -> inner.put(loop.variable + "_" + name, value));
            }
            render(loop.body, inner, out);
            index += 1;
        }
    }

    private static String format(Object value) {
        if (value == null) {
            return "";
        }
        if (value instanceof Double d && d % 1 == 0 && Math.abs(d) < 9.007e15) {
            return String.valueOf(d.longValue());
        }
        return value.toString();
    }

    private static void escape(String text, StringBuilder out) {
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '<' -> out.append("&lt;");
                case '>' -> out.append("&gt;");
                case '&' -> out.append("&amp;");
                case '"' -> out.append("&quot;");
                case '\'' -> out.append("&#39;");
                default -> out.append(c);
            }
        }
    }

    private static final class Compiler {
        private final String source;
        private int pos;
        private String closedBy = "";

        Compiler(String source) {
            this.source = source;
        }

        List<Node> block(boolean nested) {
            List<Node> out = new ArrayList<>();
            int opened = pos;
            closedBy = "";
            while (pos < source.length()) {
                int brace = nextTag(pos);
                if (brace > pos) {
                    out.add(new Text(source.substring(pos, brace)));
                    pos = brace;
                }
                if (pos == source.length()) {
                    break;
                }
                if (source.startsWith("{%", pos)) {
                    int at = pos;
                    String tag = take("{%", "%}");
                    if (tag.equals("end") || tag.equals("else")) {
                        if (!nested) {
                            throw SyntaxException.at("'" + tag + "' outside a block", source, at);
                        }
                        closedBy = tag;
                        return List.copyOf(out);
                    }
                    out.add(statement(tag, at));
                } else {
                    boolean raw = source.startsWith("{{{", pos);
                    String code = raw ? take("{{{", "}}}") : take("{{", "}}");
                    out.add(new Output(ExprParser.parse(code), !raw));
                }
            }
            if (nested) {
                throw SyntaxException.at("block is never ended", source, opened);
            }
            return List.copyOf(out);
        }

        private Node statement(String tag, int at) {
            if (tag.startsWith("if ")) {
                Expr test = ExprParser.parse(tag.substring(3));
                List<Node> then = block(true);
                List<Node> otherwise = List.of();
                if (closedBy.equals("else")) {
                    otherwise = block(true);
                    if (!closedBy.equals("end")) {
                        throw SyntaxException.at("second 'else' in one block", source, at);
                    }
                }
                return new If(test, then, otherwise);
            }
            String[] words = tag.split("\\s+");
            if (words.length == 4 && words[0].equals("for") && words[2].equals("in")) {
                List<Node> body = block(true);
                if (closedBy.equals("else")) {
                    throw SyntaxException.at("'else' does not belong in a loop", source, at);
                }
                return new For(words[1], words[3], body);
            }
            throw SyntaxException.at("unknown tag '" + tag + "'", source, at);
        }

        private int nextTag(int from) {
            for (int i = source.indexOf('{', from); i >= 0 && i + 1 < source.length(); i = source.indexOf('{', i + 1)) {
                char after = source.charAt(i + 1);
                if (after == '{' || after == '%') {
                    return i;
                }
            }
            return source.length();
        }

        private String take(String open, String close) {
            int start = pos + open.length();
            int end = source.indexOf(close, start);
            if (end < 0) {
                throw SyntaxException.at("'" + open + "' without '" + close + "'", source, pos);
            }
            pos = end + close.length();
            return source.substring(start, end).strip();
        }
    }
}
