"""Every span of small files full of traps, by task and language; checked by hand against ``docs/tasks.md``.

Java's are in ``test_tasks.py``. Spans with blanks in them are lists, others one text.
"""

from pathlib import Path

import pytest

from apmae.config import tasks_of
from apmae.prompts.languages import LANGUAGES
from apmae.prompts.tasks import parse_spans

SOURCES = Path(__file__).parent / "sources"

EXPECTED = {
    ("stock.py", "python"): {
        "closing_bracket": "] ] ) ] ) ) ) ) ) ) } } } ) ]",
        "eol": '" m Optional cache : 2j : : ) : n ) " False : : a',
        "boolean_literal": "True False",
        "string_literal": [
            '"""Stock of a shop: "true" = 1 here."""',
            'f"{name!r}: {total + 1:>{n}} {{}}"',
            "b'x'",
            '""',
            "r'''a\n    b'''",
            '"c"',
            "'d'",
        ],
        "numeric_literal": "0x_FF 1.5e-3 0 2j 0b11 0o17 2 3 1_000 1 1 1 2 3",
        "identifier": (
            "math m typing Optional LIMIT int m cache price items dict str list int rate eager bool Optional "
            "float total discount name count rest items items count rest name total count m floor rate n len "
            "rest total total n print name total n end label label total items eager LIMIT x a kw a"
        ),
        "boolean_operator": ["not in", "and", "not", "or", "is", "<=", "!="],
        "math_operator": "- ** // % - + @ - ~",
        "assignment_operator": "= = = = += := = = = = =",
    },
    ("ring.cpp", "cpp"): {
        "closing_bracket": ") > > > ) ) } ) } ) ] } ) ) ) } } } } ) ] ) } ) ) ) ] ) ] } > ) } }",
        "eol": '> " ) { > { : ; } } ; } : ; ; ; ; ; ; { ; ; ; ; ; : ; }',
        "boolean_literal": "false",
        "string_literal": ['R"x(a) "b" ]\nc)x"', '"n\\t"', '"s"'],
        "numeric_literal": "8 16u 1'000.5e-3f 0xFFu 2 0b101 077 1 10 1 2 0 0 1 2",
        "identifier": (
            "SQUARE x shop parts T N Ring Base std vector T Ring Ring size size_ size data_ Ring data_ push "
            "T value Ring other size_ other size_ empty T data_ rate_ mask odd Kind A B Text std string main "
            "argc argv raw add k a a k argc std cout add argc it find it second end key value table key "
            "value argv Point p x y end a b static_cast c d e f"
        ),
        "boolean_operator": "== && ! >= or not < > <=>",
        "math_operator": "<< + - -- % ~ << << << << <<",
        "assignment_operator": "= = = = = = = = = = = *= = = =",
    },
    ("cart.jsx", "javascript"): {
        "closing_bracket": "} } ] ) ] } ) ) ) ) } } ) } } } ) } } } } )",
        "eol": "; ; { ; ; { ; ; ; } } ; ( > > ; ;",
        "boolean_literal": "false true",
        "string_literal": [
            '"./sum.js"',
            "'none'",
            '"key"',
            '`total: ${sum(1, RATE) * 2}\n  ${"}"} end`',
            '"}"',
            '"cart"',
        ],
        "numeric_literal": "0x1F .5e3 1_000n 0b11 1 2 10 1 2 0",
        "identifier": (
            "sum RATE name rest options Cart Map #items limit add item count #items item id item count outer "
            "k rest k k Map outer total count test name line sum RATE View cart div className hidden cart "
            "total Row key cart id rest div x y"
        ),
        "boolean_operator": "in || ! >= && !== ?? ===",
        "math_operator": "+ - - ** ++ *",
        "assignment_operator": "= = = = = = ??= = = >>>=",
    },
    ("store.ts", "typescript"): {
        "closing_bracket": "} > > > > } > ] > } } ) } ) ] ) ) ] > ] } } )",
        "eol": "} ; } { ; ; } { ; ; } } ; ;",
        "boolean_literal": "true false",
        "string_literal": ["'a'", '"b"', "`store ${Kind.Small}`"],
        "numeric_literal": "1 0o17 0 1_0 1 0 0 2.5e3 1 10n",
        "identifier": (
            "Kind Small Large Pair K V Map K Array V Item id tags Set Store T Item items Record T count "
            "constructor name Kind Small flag find id deep T found items id filter item T item id id deep "
            "found length found found length T T found i n i n i Store count big bigint ok"
        ),
        "boolean_operator": "=== && ! > <",
        "math_operator": "- ++",
        "assignment_operator": "= = = = = = = = = += = =",
    },
    ("panel.tsx", "typescript"): {
        "closing_bracket": "> > ) > } } )",
        "eol": "( > > ;",
        "boolean_literal": "",
        "string_literal": '"all"',
        "numeric_literal": "0",
        "identifier": "Panel T props Props T List T rows props rows title props rows length b b List",
        "boolean_operator": "> &&",
        "math_operator": "",
        "assignment_operator": "=",
    },
    ("queue.go", "go"): {
        "closing_bracket": ") ) ] ] } ] ) ) ) ) ) ) } ) } } } ) ) ) } ) } ] ) }",
        "eol": (
            'queue ( " " ) int ( iota 0b11 ) { ` int } \' { { ) } ) { n } { + } : { : v : outer } { : " } 2i nil } }'
        ),
        "boolean_literal": "true",
        "string_literal": ['"fmt"', '"strings"', '`json:"items"`', '"full: %d"', "`raw\ntext`", '"a"', '"b"'],
        "numeric_literal": "1 0x_FF 0b11 1.5e-3 1 1 2 0o17 2i",
        "identifier": (
            "queue str ID int limit mask Queue T any items T ch int ratio unit float64 q Queue T Push item T "
            "more T n int err error len q items limit q full item fmt Errorf len q items q items append q "
            "items item i m more n i n n outer v q ch q ch v outer t any item string _ str Title t n n yes K "
            "comparable k K bool"
        ),
        "boolean_operator": ">= && ! || == !=",
        "math_operator": "<< &^ - + * % ^ ++ + +",
        "assignment_operator": "= = = = := += := := = &=",
    },
    ("parser.rs", "rust"): {
        "closing_bracket": ") ] ] > > > > ) } > > > ) > ) ) ) ) ) } } ) } ) } > ) ) ) } ) } }",
        "eol": "; ; ; ] ] { , , } > where , { { ; ; { { ; ; } } { ; } { , , } ; ; ) } }",
        "boolean_literal": "true false",
        "string_literal": ['"na\\"me"', '"x.rs"', '"{} {:?}"', 'r#"raw "text""#', 'b"bytes"'],
        "numeric_literal": "0xFF_u32 0b11 1_000usize 2.5e3 3 4 2 1 0 9 1 5",
        "identifier": (
            "std collections HashMap Map LIMIT NAME derive Debug Clone path Kind T Into Copy Small Pair Vec "
            "Vec T T Parser T T Iterator Item count text Option n first rest pair c text chars rev c done n "
            "n map get c Some k next k n n k first println n None f a b a b Alias Map Some f n len then Self "
            "n ok"
        ),
        "boolean_operator": "== && ! || <= && > !=",
        "math_operator": "- << & %",
        "assignment_operator": "= = = = = += = = =",
    },
    ("letter.txt", "text"): {
        "sentence_end": ". ? . . .",
        "number": [" 6.30", " 4", " 1921", " 1,250", " 3"],
        "capitalised_name": [" Port Hadley", " May", " Anna O'Neill", " Port Hadley", " Ida"],
        "quote": [" “no, never”", ' "it is enough!"'],
        "repeated_word": [" Hadley"],
    },
}
CASES = [(*file, task) for file, tasks in EXPECTED.items() for task in tasks]


def test_every_language_has_a_file_of_traps_with_every_task():
    """Java's is in test_tasks.py."""
    assert {language for _, language in EXPECTED} == LANGUAGES.keys() - {"java"}
    for (_, language), tasks in EXPECTED.items():
        assert [*tasks, "random"] == list(tasks_of(language))


@pytest.mark.parametrize(("name", "language", "task"), CASES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_spans_of_a_file_of_traps(name, language, task, newline):
    text = (SOURCES / name).read_text().replace("\n", newline)
    parsed = parse_spans(text, language, path=name)
    assert not parsed.has_error
    found = [text[start:end] for start, end in parsed.spans[task].tolist()]
    if task == "eol":
        assert all(piece.endswith(newline) for piece in found)
        found = [piece.removesuffix(newline) for piece in found]
    expected = EXPECTED[name, language][task]
    pieces = expected.split() if isinstance(expected, str) else [piece.replace("\n", newline) for piece in expected]
    assert found == pieces


def test_the_suffix_chooses_between_typescript_and_tsx():
    text = (SOURCES / "panel.tsx").read_text()
    assert parse_spans(text, "typescript", path="panel.ts").has_error
    assert not parse_spans(text, "typescript", path="panel.tsx").has_error
    assertion = "let x = <T>y;\n"
    assert not parse_spans(assertion, "typescript").has_error
    assert parse_spans(assertion, "typescript", path="x.tsx").has_error
