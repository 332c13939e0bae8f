"""A line for each trap that is not in the files of ``test_golden.py``: by hand, from ``docs/tasks.md``.

Numbers of every base with separators and suffixes, their sign outside; ``>`` of generics beside ``>`` that compares or
shifts; texts of many lines; names of types; signs that are not operators; nodes that the parser made up.
"""

import pytest
import tree_sitter
import tree_sitter_cpp

from apmae.prompts.tasks import parse_spans

TRAPS = [
    (
        "java",
        "class A { double d = -0x1.8p3 + .5f - 1D * 07L / 0B1_0 % 1e10f; }",
        {"numeric_literal": "0x1.8p3 .5f 1D 07L 0B1_0 1e10f", "math_operator": "- + - * / %"},
    ),
    (
        "java",
        "class A { char c = '1'; String s = \"2\"; int x3 = a[4]; }",
        {"numeric_literal": "4"},
    ),
    (
        "java",
        "class A { void f() { this.<List<Map<K, V>>>g(); boolean b = a < c && d > e; int i = j >>> 2 >> 1; } }",
        {"closing_bracket": ") > > > ) } }"},
    ),
    (
        "java",
        "class A { boolean b = a < c && d > e; List<T> f(Map<K, V> m) { return null; } }",
        {"boolean_operator": "< && >"},
    ),
    (
        "java",
        "class A { List<List<T>> x = y >> z >>> 1; }",
        {"math_operator": ">> >>>"},
    ),
    (
        "java",
        'class A { String t = """\n"x"\\\n+1""" + "y" + \'"\'; }',
        {"string_literal": '"""\n"x"\\\n+1""" "y"'},
    ),
    (
        "java",
        'class A {\nString t = """\n"x"\n+1;\n""";\n}\n',
        {"eol": "{\n ;\n }\n"},
    ),
    (
        "java",
        "class A<T> extends B { C<D> e(F... g) { int h; return (I) j; } }",
        {"identifier": "A T B C D e F g h I j"},
    ),
    (
        "python",
        "x = -0XFf + 0o_17 + 1_0.0e-1_0J + f'{4:5}'\n",
        {"numeric_literal": "0XFf 0o_17 1_0.0e-1_0J 4"},
    ),
    (
        "python",
        "f(*a, **k)\nmatch x:\n    case -1 | 2:\n        y: int | None = a @ b\n",
        {"math_operator": "| @"},
    ),
    (
        "python",
        "type X = int\ndef f(a=1, *, b: int = 2): print(f'{a=}', end='')\nif (n := 1) == 2: n //= 3\n",
        {"assignment_operator": "= = = := //="},
    ),
    (
        "cpp",
        "int a = -0x1p3 + 1'000UL * 0b1'0 / 1e3L;\n",
        {"numeric_literal": "0x1p3 1'000UL 0b1'0 1e3L", "math_operator": "- + * /"},
    ),
    (
        "cpp",
        "int f() { g(b -1, -2, + 3); S<-4> s; case -5: return +6.5f; } // é\n",
        {"numeric_literal": "1 2 3 4 5 6.5f", "math_operator": "- - + - - +"},
    ),
    (
        "cpp",
        "/* é */ int a = -1 - -2; @@ -3 @@\nint b = 4;\n",
        {"math_operator": "- - -"},
    ),
    (
        "cpp",
        "std::map<int, std::vector<int>> m; int y = a->b >> 2 >= 1;\n",
        {"closing_bracket": "> >", "math_operator": ">>"},
    ),
    (
        "cpp",
        "bool operator>(A& a, int); bool y = a < b && c > d;\n",
        {"boolean_operator": "< && >"},
    ),
    (
        "cpp",
        'auto s = u8"a" L"b" "c"_x; char c = \'"\';\n',
        {"string_literal": 'u8"a" L"b" "c"'},
    ),
    (
        "cpp",
        "template <typename... T> int f(T... a) { return (a + ...) - (... * a); }\n",
        {"math_operator": "+ - *"},
    ),
    (
        "cpp",
        "template <class T> requires A<T> && B<T> || C<T> bool f(T... a) { return (... || a); }\n",
        {"boolean_operator": "&& || ||"},
    ),
    (
        "cpp",
        "void f() { g(1; }\nint a[2;\n",
        {"closing_bracket": ") }"},
    ),
    (
        "cpp",
        "#if defined(X) && Y > 1\n#define Z (a || b)\n#endif\n",
        {"boolean_operator": "&& >"},
    ),
    (
        "cpp",
        "#if A\n#define F(x) do { \\\n  g(x); \\\n} while (0)\nint y; // z\n#endif\n",
        {"eol": "A\n )\n endif\n"},
    ),
    (
        "javascript",
        "x = -0XFF + 08.5 + 1e-5 + 0b1n + Infinity;",
        {"numeric_literal": "0XFF 08.5 1e-5 0b1n"},
    ),
    (
        "javascript",
        "const f = (a) => <B c={d}>e</B>;",
        {"closing_bracket": ") }"},
    ),
    (
        "javascript",
        "x = `${`${1}`}`;",
        {"string_literal": "`${`${1}`}` `${1}`"},
    ),
    (
        "javascript",
        "if (#x in obj && !y) for (k in z) {} a ||= b; c = d?.e ?? f;",
        {"boolean_operator": "in && ! ??"},
    ),
    (
        "javascript",
        "const f = (x = 1, {y = 2, z: w = 3} = {}) => x >= y; a &&= b; c ||= d;",
        {"assignment_operator": "= = = = = &&= ||="},
    ),
    (
        "javascript",
        "f(1;\ng(2);\n",
        {"closing_bracket": ")"},
    ),
    (
        "typescript",
        "type N = -1 | 2; let x: 3 = 3;",
        {"numeric_literal": "1 2 3 3"},
    ),
    (
        "typescript",
        "let v: Map<string, Set<number>> = w >> 1; f<number>(x > y, z => z);",
        {"closing_bracket": "> > > )", "boolean_operator": ">"},
    ),
    (
        "typescript",
        "type A = B & C | D; let x = a! - b;",
        {"math_operator": "-"},
    ),
    (
        "typescript",
        "type A = B; enum E { F = 1 } class C<T = string> { d = 1 } x ??= y;",
        {"assignment_operator": "= = ??="},
    ),
    (
        "typescript",
        "let x: Array<Map<string, number>;\n",
        {"closing_bracket": ">"},
    ),
    (
        "go",
        "package p\nvar x = 0777 + -0b1_0 + 0x1p-2 + 1_000 + 2.5i + '4'\n",
        {"numeric_literal": "0777 0b1_0 0x1p-2 1_000 2.5i"},
    ),
    (
        "go",
        "package p\ntype A[B any] struct { c map[string]D; *E }\n",
        {"identifier": "p A B any c string D E"},
    ),
    (
        "go",
        "package p\nfunc f(a *T) { p := &x; *p = *q * -r; c <- <-d; i-- }\ntype N interface { ~int | ~uint }\n",
        {"math_operator": "* - --"},
    ),
    (
        "go",
        "package p\ntype A = B\nfunc f() { x, ok := <-c; y &^= 1; T{z: 1} }\n",
        {"assignment_operator": ":= &^="},
    ),
    (
        "go",
        "package p\nfunc f() { g(1; }\n",
        {"closing_bracket": ") }"},
    ),
    (
        "rust",
        "fn f() { -0o17u8; 1e3_f32; 1.; x.0.1; b'2'; t.0 + 3 }",
        {"numeric_literal": "0o17u8 1e3_f32 1. 3"},
    ),
    (
        "rust",
        "fn f() -> R<Vec<u8>> { let v = i.collect::<Vec<_>>(); a > b; c >> d; }",
        {"closing_bracket": ") > > > > ) }", "boolean_operator": ">"},
    ),
    (
        "rust",
        'fn f() { c"a"; br#"b""#; \'c\'; b\'d\' }',
        {"string_literal": 'c"a" br#"b""#'},
    ),
    (
        "rust",
        "fn f() { let c = |a| a || !b; match z { 1 | 2 if x == 1 => {}, _ => m!(p == q) } }",
        {"boolean_operator": "|| ! =="},
    ),
    (
        "rust",
        "fn f() { g(1; }\n",
        {"closing_bracket": ") }"},
    ),
]

CASES = [(language, task, text, spans) for language, text, tasks in TRAPS for task, spans in tasks.items()]


@pytest.mark.parametrize(("language", "task", "text", "expected"), CASES)
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


def test_a_header_that_does_not_parse_gives_only_spans_outside_errors():
    """Each node of the tree is checked: none that is missing or inside an error has a span."""
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
