from apmae.report.terminal import print_tags

ANSWER = {"predicted": "x", "expected": "x", "outcome": "correct"}


def row(head, measured, sinks, texts, cluster=0):
    tag = {"layer": 0, "head": head, "cluster": cluster, "name": "self", "strength": 0.9, "measured": measured}
    return {**tag, "sinks": sinks, "sink_tokens": texts}


def test_tags_say_where_the_sinks_are(capsys):
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
