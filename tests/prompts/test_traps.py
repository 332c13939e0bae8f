"""One line a trap that the files of ``test_golden.py`` do not hold; by hand from ``docs/tasks.md`` and the languages."""

import pytest

from apmae.prompts.tasks import parse_spans

# language, task, text, spans (each without blanks)
TRAPS = [
    # literals: every base, separators, suffixes; the sign stays outside
    ("java", "numeric_literal", "class A { double d = -0x1.8p3 + .5f - 1D * 07L / 0B1_0 % 1e10f; }", "0x1.8p3 .5f 1D 07L 0B1_0 1e10f"),
    ("java", "math_operator", "class A { double d = -0x1.8p3 + .5f - 1D * 07L / 0B1_0 % 1e10f; }", "- + - * / %"),
    ("java", "numeric_literal", "class A { char c = '1'; String s = \"2\"; int x3 = a[4]; }", "4"),
    ("cpp", "numeric_literal", "int a = -0x1p3 + 1'000UL * 0b1'0 / 1e3L;\n", "0x1p3 1'000UL 0b1'0 1e3L"),
    ("cpp", "math_operator", "int a = -0x1p3 + 1'000UL * 0b1'0 / 1e3L;\n", "- + * /"),
    ("cpp", "numeric_literal", "int f() { g(b -1, -2, + 3); S<-4> s; case -5: return +6.5f; } // é\n", "1 2 3 4 5 6.5f"),
    ("cpp", "math_operator", "int f() { g(b -1, -2, + 3); S<-4> s; case -5: return +6.5f; } // é\n", "- - + - - +"),
    ("cpp", "math_operator", "/* é */ int a = -1 - -2; @@ -3 @@\nint b = 4;\n", "- - -"),
    ("javascript", "numeric_literal", "x = -0XFF + 08.5 + 1e-5 + 0b1n + Infinity;", "0XFF 08.5 1e-5 0b1n"),
    ("typescript", "numeric_literal", "type N = -1 | 2; let x: 3 = 3;", "1 2 3 3"),
    ("go", "numeric_literal", "package p\nvar x = 0777 + -0b1_0 + 0x1p-2 + 1_000 + 2.5i + '4'\n", "0777 0b1_0 0x1p-2 1_000 2.5i"),
    ("rust", "numeric_literal", "fn f() { -0o17u8; 1e3_f32; 1.; x.0.1; b'2'; t.0 + 3 }", "0o17u8 1e3_f32 1. 3"),
    ("python", "numeric_literal", "x = -0XFf + 0o_17 + 1_0.0e-1_0J + f'{4:5}'\n", "0XFf 0o_17 1_0.0e-1_0J 4"),
    # > closes generics here and compares there
    (
        "java",
        "closing_bracket",
        "class A { void f() { this.<List<Map<K, V>>>g(); boolean b = a < c && d > e; int i = j >>> 2 >> 1; } }",
        ") > > > ) } }",
    ),
    ("java", "boolean_operator", "class A { boolean b = a < c && d > e; List<T> f(Map<K, V> m) { return null; } }", "< && >"),
    ("java", "math_operator", "class A { List<List<T>> x = y >> z >>> 1; }", ">> >>>"),
    ("cpp", "closing_bracket", "std::map<int, std::vector<int>> m; int y = a->b >> 2 >= 1;\n", "> >"),
    ("cpp", "math_operator", "std::map<int, std::vector<int>> m; int y = a->b >> 2 >= 1;\n", ">>"),
    ("cpp", "boolean_operator", "bool operator>(A& a, int); bool y = a < b && c > d;\n", "< && >"),
    ("typescript", "closing_bracket", "let v: Map<string, Set<number>> = w >> 1; f<number>(x > y, z => z);", "> > > )"),
    ("typescript", "boolean_operator", "let v: Map<string, Set<number>> = w >> 1; f<number>(x > y, z => z);", ">"),
    ("rust", "closing_bracket", "fn f() -> R<Vec<u8>> { let v = i.collect::<Vec<_>>(); a > b; c >> d; }", ") > > > > ) }"),
    ("rust", "boolean_operator", "fn f() -> R<Vec<u8>> { let v = i.collect::<Vec<_>>(); a > b; c >> d; }", ">"),
    ("javascript", "closing_bracket", "const f = (a) => <B c={d}>e</B>;", ") }"),
    # text blocks and their like are one string, and no line ends within
    ("java", "string_literal", 'class A { String t = """\n"x"\\\n+1""" + "y" + \'"\'; }', '"""\n"x"\\\n+1""" "y"'),
    ("java", "eol", 'class A {\nString t = """\n"x"\n+1;\n""";\n}\n', "{\n ;\n }\n"),
    ("javascript", "string_literal", "x = `${`${1}`}`;", "`${`${1}`}` `${1}`"),
    ("rust", "string_literal", "fn f() { c\"a\"; br#\"b\"\"#; 'c'; b'd' }", 'c"a" br#"b""#'),
    ("cpp", "string_literal", "auto s = u8\"a\" L\"b\" \"c\"_x; char c = '\"';\n", 'u8"a" L"b" "c"'),
    # names: of types, too
    ("java", "identifier", "class A<T> extends B { C<D> e(F... g) { int h; return (I) j; } }", "A T B C D e F g h I j"),
    ("go", "identifier", "package p\ntype A[B any] struct { c map[string]D; *E }\n", "p A B any c string D E"),
    # operators
    ("cpp", "math_operator", "template <typename... T> int f(T... a) { return (a + ...) - (... * a); }\n", "+ - *"),
    ("cpp", "boolean_operator", "template <class T> requires A<T> && B<T> || C<T> bool f(T... a) { return (... || a); }\n", "&& || ||"),
    ("javascript", "boolean_operator", "if (#x in obj && !y) for (k in z) {} a ||= b; c = d?.e ?? f;", "in && ! ??"),
    ("javascript", "assignment_operator", "const f = (x = 1, {y = 2, z: w = 3} = {}) => x >= y; a &&= b; c ||= d;", "= = = = = &&= ||="),
    ("typescript", "math_operator", "type A = B & C | D; let x = a! - b;", "-"),
    ("typescript", "assignment_operator", "type A = B; enum E { F = 1 } class C<T = string> { d = 1 } x ??= y;", "= = ??="),
    ("go", "math_operator", "package p\nfunc f(a *T) { p := &x; *p = *q * -r; c <- <-d; i-- }\ntype N interface { ~int | ~uint }\n", "* - --"),
    ("go", "assignment_operator", "package p\ntype A = B\nfunc f() { x, ok := <-c; y &^= 1; T{z: 1} }\n", ":= &^="),
    ("rust", "boolean_operator", "fn f() { let c = |a| a || !b; match z { 1 | 2 if x == 1 => {}, _ => m!(p == q) } }", "|| ! =="),
    ("python", "math_operator", "f(*a, **k)\nmatch x:\n    case -1 | 2:\n        y: int | None = a @ b\n", "| @"),
    ("python", "assignment_operator", "type X = int\ndef f(a=1, *, b: int = 2): print(f'{a=}', end='')\nif (n := 1) == 2: n //= 3\n", "= = = := //="),
    # zero-width nodes that the parser made up
    ("javascript", "closing_bracket", "f(1;\ng(2);\n", ")"),
    ("go", "closing_bracket", "package p\nfunc f() { g(1; }\n", ") }"),
    ("rust", "closing_bracket", "fn f() { g(1; }\n", ") }"),
    ("cpp", "closing_bracket", "void f() { g(1; }\nint a[2;\n", ") }"),
    ("typescript", "closing_bracket", "let x: Array<Map<string, number>;\n", ">"),
    # macros and directives of C++: the lines are lines of code, what a macro is defined as is not looked into
    ("cpp", "boolean_operator", "#if defined(X) && Y > 1\n#define Z (a || b)\n#endif\n", "&& >"),
    ("cpp", "eol", "#if A\n#define F(x) do { \\\n  g(x); \\\n} while (0)\nint y; // z\n#endif\n", "A\n )\n endif\n"),
]


@pytest.mark.parametrize(("language", "task", "text", "expected"), TRAPS)
def test_a_trap_by_hand(language, task, text, expected):
    found = [text[start:end] for start, end in parse_spans(text, language).spans[task].tolist()]
    assert " ".join(found) == expected


HEADER = """\
#ifdef __cplusplus
extern "C" {
#endif
API(void) first(int a = 1);
class EXPORT Broken : { int b = 2; @@ };
inline bool last(int c) { return c == 3 && true; }
#ifdef __cplusplus
}
#endif
"""


def test_a_header_that_does_not_parse_gives_only_what_lies_outside_of_errors():
    """Nodes asked one by one, by the tree itself: none that lies in an error or is missing has a span."""
    import tree_sitter
    import tree_sitter_cpp

    parsed = parse_spans(HEADER, "cpp", path="x.h")
    assert parsed is not None and parsed.has_error
    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_cpp.language())).parse(HEADER.encode())
    errors = []
    waiting = [tree.root_node]
    while waiting:
        node = waiting.pop()
        if node.type == "ERROR":
            errors.append(node.byte_range)
        waiting += node.children
    assert errors
    for task, spans in parsed.spans.items():
        if task != "eol":
            for start, end in spans.tolist():
                assert not any(first < end and start < last for first, last in errors), (task, HEADER[start:end])
    numbers = [HEADER[start:end] for start, end in parsed.spans["numeric_literal"].tolist()]
    assert "3" in numbers
