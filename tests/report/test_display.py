import pytest

from apmae.report.display import sink_words, with_place


def test_sinks_in_words():
    assert sink_words([54, 0], [" the", "package"]) == "54 \u2423the, 0 package"
    assert sink_words([], []) == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("later sink", "later sink at 7 \u21b5"),
        ("later sink on newlines", "later sink on newlines at 7 \u21b5"),
        ("previous token + later sink", "previous token + later sink at 7 \u21b5"),
        ("later sink on newlines + self", "later sink on newlines at 7 \u21b5 + self"),
        ("first-token sink", "first-token sink"),
    ],
)
def test_a_later_sink_has_its_place_in_the_name(name, shown):
    assert with_place(name, [0, 7, 3], ["a", "\n", ";"]) == shown


def test_a_name_of_a_cluster_whose_pattern_has_no_later_sink_stays():
    assert with_place("later sink", [0], ["a"]) == with_place("later sink", [], []) == "later sink"
