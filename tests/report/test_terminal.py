import re

from apmae.report.terminal import print_tags

ANSWER = {"predicted": "x", "expected": "x", "outcome": "correct"}


def row(head, measured, sinks, texts, cluster=0, name="self", nearest=(), distances=()):
    tag = {"layer": 0, "head": head, "cluster": cluster, "name": name, "strength": 0.9, "measured": measured}
    tag["unstable"] = False
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
    assert "nearest (in radii)" in printed
    lines = {cells[0]: cells[2:] for line in printed.splitlines() if (cells := re.split(r" {2,}", line.strip()))[2:]}
    assert lines["0.0"] == ["previous token", "0.90", "previous token"], "a known head is in its cluster"
    assert lines["0.1"] == ["unknown", "-", "diffuse", "first-token sink (1.3)"]
    assert lines["0.2"] == ["unstructured", "-", "diffuse", "blocks (0.8)"]
    assert lines["0.3"] == ["uniform", "-", "uniform"], "none is near"
    assert "beyond 1 it is not like its members, within 1 the name is not true of it" in " ".join(printed.split())


def test_the_nearest_cluster_stays_where_the_terminal_is_narrow(capsys, monkeypatch):
    rows = [row(0, "diffuse", [], [], -1, "induction + local band", ["first-token sink + self"], [1.3])]
    monkeypatch.setenv("COLUMNS", "80")
    print_tags(rows, [1], **ANSWER)
    printed = capsys.readouterr().out
    assert "first-token sink" in printed
    assert "Left out to fit 80 characters: cluster; --json and --html have everything." in printed
