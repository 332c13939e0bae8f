import re

from apmae.report.terminal import print_study, print_tags
from apmae.study.reader import Study

ANSWER = {"predicted": "x", "expected": "x", "outcome": "correct"}


def row(head, measured, sinks, texts, cluster=0, name="self", nearest=(), distances=()):
    tag = {"layer": 0, "head": head, "cluster": cluster, "name": name, "strength": 0.9, "measured": measured}
    tag |= {
        "unstable": False,
        "reason": {0: "", -1: "structure" if name in ("unstructured", "uniform") else "far"}.get(cluster, ""),
    }
    return {**tag, "sinks": sinks, "sink_tokens": texts, "nearest": nearest, "distances": distances}


def test_tags_say_where_the_sinks_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    rows = [
        row(0, "first-token sink", [0], ["<s>"]),
        row(1, "later sink on words", [9, 0], [" the", "<s>"], cluster=-1),
        row(2, "self", [], []),
    ]
    print_tags(rows, [3], **ANSWER)
    printed = " ".join(capsys.readouterr().out.split())
    assert "later sink on words at 9 \u2423the" in printed
    assert printed.endswith(
        "Sinks, tokens to which nearly all later ones attend: 0 <s> (2 heads), 9 \u2423the (1 head)"
    )


def test_a_note_comes_first(capsys):
    print_tags([row(0, "self", [], [])], [1], **ANSWER, note="The atlas was fitted on other models: a.")
    assert capsys.readouterr().out.startswith("The atlas was fitted on other models: a.\nThe model answers x")


def test_of_many_sinks_those_of_most_heads_are_listed(capsys):
    rows = [row(head, "later sink", [*range(1, head + 1)], ["[b]"] * head) for head in range(1, 9)]
    print_tags(rows, [9], **ANSWER)
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 [b] (8 heads), 2 [b] (7 heads)" in printed
    assert printed.endswith("6 [b] (3 heads), and 2 more")


def test_an_encoder_without_a_head_answers_nothing(capsys):
    print_tags([row(0, "self", [], [])], [1], predicted=None, expected="sea", outcome=None)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("Masked: sea. An encoder without a head for masked tokens answers nothing.")


def test_without_a_sink_none_is_mentioned(capsys):
    print_tags([row(0, "self", [], [])], [1], **ANSWER)
    assert "Sinks" not in capsys.readouterr().out


def test_an_unknown_head_is_shown_with_its_nearest_cluster_and_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    rows = [
        row(0, "previous token", [], [], 1, "previous token", ["previous token", "self"], [0.25, 7.0]),
        row(1, "diffuse", [], [], -1, "unknown", ["first-token sink", "self"], [1.26, 3.0]),
        row(2, "diffuse", [], [], -1, "unstructured", ["blocks"], [0.84]),
        row(3, "uniform", [], [], -1, "uniform"),
    ]
    print_tags(rows, [4], **ANSWER)
    printed = capsys.readouterr().out
    lines = {cells[0]: cells[1:] for line in printed.splitlines() if (cells := re.split(r" {2,}", line.strip()))[2:]}
    assert lines["0.0"] == ["1", "previous token", "0.90", "previous token"], "a known head is in its cluster"
    assert lines["0.1"] == [".", "unknown; nearest: first-token sink (1.3 radii)", "-", "diffuse"]
    assert lines["0.2"] == [".", "unstructured; nearest: blocks (0.8 radii)", "-", "diffuse"]
    assert lines["0.3"] == [".", "uniform", "-", "uniform"], "none is near"
    assert "Unknown: 2 without structure, 1 too far from the cluster that wins. Beside each" in " ".join(
        printed.split()
    )


def test_where_all_heads_are_known_none_has_a_nearest_cluster(capsys):
    print_tags([row(0, "self", [], [])], [1], **ANSWER)
    printed = " ".join(capsys.readouterr().out.split())
    assert "The atlas knows 1 of 1 heads here" in printed
    assert "nearest" not in printed


LONG = "local band, over 10 % on the previous token, evenness 0.29 to 0.42, 14 to 30 % in blocks"


def column(printed, header):
    """The texts of a printed column, each in one piece."""
    lines = printed.splitlines()
    (title,) = (number for number, line in enumerate(lines) if f"  {header}" in line and "   " in line)
    start = lines[title].index(header)
    end = start + len(re.match(rf"{header} *", lines[title][start:])[0])
    texts = []
    for line in lines[title + 2 :]:
        if not line.strip():
            break
        if line[:7].strip():  # a number begins each row
            texts.append("")
        texts[-1] = f"{texts[-1]} {line[start:end].strip()}".strip()
    return texts


def test_at_eighty_characters_every_name_of_a_tag_can_be_read_to_its_end(capsys, monkeypatch):
    rows = [
        row(0, "later sink on words", [67], [" the"], 3, LONG),
        row(1, "diffuse", [], [], -1, "unknown", [LONG], [1.3]),
        row(2, "self", [], [], 4, LONG) | {"unstable": True},
        row(3, "self", [], [], 5, "self"),
    ]
    monkeypatch.setenv("COLUMNS", "80")
    print_tags(rows, [4], **ANSWER)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "\u2026" not in printed and "Left out" not in printed
    assert column(printed, "name") == [LONG, f"{LONG} (unstable)", "self", f"unknown; nearest: {LONG} (1.3 radii)"]
    assert column(printed, "measured") == ["later sink on words at 67 \u2423the", "self", "self", "diffuse"]
    assert column(printed, "cluster") == ["3", "4", "5", "."]


def test_of_many_heads_some_unknown_ones_are_listed(capsys):
    known = [row(head, "self", [], []) for head in range(100)]
    unknown = [row(head, "diffuse", [], [], -1, "unknown", ["self"], [1.5]) for head in range(100, 130)]
    print_tags([*known, *unknown], [130], **ANSWER)
    printed = capsys.readouterr().out
    assert [name.startswith("unknown") for name in column(printed, "name")] == [False] * 40 + [True] * 20
    assert "70 more heads" in printed
    print_tags([*known, *unknown[:5]], [130], **ANSWER)
    names = column(capsys.readouterr().out, "name")
    assert [name.startswith("unknown") for name in names] == [False] * 55 + [True] * 5


def test_at_eighty_characters_every_name_of_a_study_can_be_read_to_its_end(tmp_path, write_study, capsys, monkeypatch):
    names = (LONG, f"some {LONG}", "self", "induction")
    study = Study(write_study(tmp_path, names=names))
    monkeypatch.setenv("COLUMNS", "80")
    print_study(study, tmp_path / "index.html")
    printed = capsys.readouterr().out
    table = printed.split("layers \u00d7 heads")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert column(printed, "name") == [LONG, f"some {LONG}", "self (unstable)", "induction"]
    assert column(printed, "stable") == ["0.90", "0.80", "0.70", "0.60"], "the lower of both"
