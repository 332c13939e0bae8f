import pytest

from apmae.report.top_pages import marked

TEXTS = ["<fim_prefix>", "int", " x", " =", " 1", "<fim_suffix>", ";", "<fim_middle>"]


def test_tokens_are_marked_by_what_they_receive():
    received = [5.0, 0.1, 1.0, 0.3, 0.65, 2.0, 0.0, 0.19]
    pieces, most = marked(TEXTS, received, [5], hole="2")
    assert most == 1.0, "the first token and sinks set no scale"
    levels = {piece["text"]: piece["level"] for piece in pieces}
    assert levels[" x"] == 4 and levels[" ="] == 1 and levels[" 1"] == 3
    assert levels["<fim_suffix>"] == levels["<fim_prefix>"] == levels["<fim_middle>"] == 0
    kinds = {piece["text"]: piece["kind"] for piece in pieces}
    assert kinds["<fim_suffix>"] == "sink" and kinds["2"] == "hole" and kinds["<fim_middle>"] == "sentinel"
    assert "".join(piece["text"] for piece in pieces if piece["kind"] != "hole") == "".join(TEXTS)


def test_text_that_is_not_marked_is_joined():
    pieces, most = marked(["a", "b", "c", "d"], [3.0, 0.01, 0.02, 0.0], [], hole=None)
    assert [piece["text"] for piece in pieces] == ["abcd"] and most == pytest.approx(0.02)


def test_an_encoders_mask_stands_where_the_answer_does():
    pieces, _ = marked(["[CLS]", "int", "[MASK]", "="], [1.0, 2.0, 0.5, 0.5], [], hole="x")
    assert [(piece["text"], piece["kind"]) for piece in pieces][2] == ("x", "hole")
    assert [piece["level"] for piece in pieces] == [0, 4, 0, 1]


def test_a_single_token():
    assert marked(["a"], [1.0], [0], hole=None)[1] == 0
