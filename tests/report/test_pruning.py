"""Findings about pruned models say what the intervals allow, and no more; tables and pictures show the rows."""

import io

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from apmae.report.figures import png
from apmae.report.pruned_card import card_of
from apmae.report.pruning import level, pruning_findings, pruning_record, pruning_table_of, share
from apmae.report.pruning_figures import pruning_figure
from apmae.report.pruning_terminal import print_pruning
from apmae.schema import PRUNED_SETS, PRUNING, RANKED_HEADS
from apmae.study.pruning import Pruning

COUNTS = {
    **{"transfers": "", "elsewhere": 2.0, "ranking": 300, "measuring": 400, "measuring_groups": 100, "heads": 48},
    **{"measuring_correct": 240, "drawn": "any", "natural_rate": 0.6, "mode": "mean", "left_out": {}},
}


def estimate(name, value, half=0.02):
    low, high = (None, None) if half is None else (value - half, value + half)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def row(ranking, dose, kept, control="", half=0.03, every=0.05, beyond=None, elsewhere=0.1):
    made = {"ranking": ranking, "dose": dose, "control": control, "sets": 1}
    made |= estimate("drawn", 0.6 * kept, half) | estimate("kept", kept, half) | estimate("elsewhere", elsewhere)
    made |= estimate("log_probability", -0.2)
    if half is not None:
        made |= {"kept_all_low": kept - every, "kept_all_high": kept + every}
    if control:
        made["shared"] = 0.5
    return made | (estimate("drawn_beyond", beyond, half) if beyond is not None else {})


def made_of(*rows, **counts):
    names = [own["ranking"] for own in rows if own["ranking"] != "random"]
    ranked = [{"ranking": name, "layer": 0, "head": 0, "place": 0, "score": 1.0} for name in dict.fromkeys(names)]
    tables = (list(rows), PRUNING), (ranked, RANKED_HEADS), ([], PRUNED_SETS)
    return Pruning(*(pa.Table.from_pylist(own, schema=schema) for own, schema in tables), COUNTS | counts)


ROWS = [
    *(row("exact", 12, 1.01), row("exact", 24, 0.96), row("exact", 12, 0.9, "layers", beyond=0.066)),
    *(row("weight", 12, 0.7), row("weight", 24, 0.3), row("weight", 12, 0.8, "layers", beyond=-0.06)),
    *(row("flow", 12, 0.82), row("flow", 12, 0.81, "layers", beyond=0.006), row("random", 12, 0.5)),
]


def one(lines, words):
    (found,) = (line for line in lines if words in line)
    return found


def test_what_is_kept_is_said_by_dose_best_first():
    lines = pruning_findings(made_of(*ROWS))
    assert lines[0] == "With all 48 heads 60.0% of 400 measuring prompts are correct."
    quarter = one(lines, "Accuracy kept without 12 of 48 heads (mean)")
    assert quarter.endswith(
        "exact effect 101% [98%, 104%], flow 82% [79%, 85%], weight norm 70% [67%, 73%], random 50% [47%, 53%]."
    )
    assert "exact effect 96%" in one(lines, "without 24 of 48")


def test_a_share_is_claimed_only_where_all_intervals_hold():
    shown = one(pruning_findings(made_of(*ROWS)), "can go with at least 95%")
    assert shown.startswith("12 heads, ranked by exact effect") and "101% [96%, 106%]" in shown
    wide = one(pruning_findings(made_of(row("exact", 12, 1.0, every=0.08))), "For no ranking and dose")
    assert "The largest number removed that still keeps it here is 12, by exact effect: 100% [92%, 108%]" in wide
    less = one(pruning_findings(made_of(row("exact", 12, 0.9))), "For no ranking and dose")
    assert less.endswith("none keeps as much here.")
    rare = row("exact", 12, 1.01, every=0.1) | estimate("kept_natural", 0.94, 0.03)
    natural = one(pruning_findings(made_of(rare)), "For no ranking and dose")
    assert "at natural rates" in natural and natural.endswith("none keeps as much here."), "the natural rate decides"
    none = row("exact", 12, 1.0) | {"kept": None}
    assert one(pruning_findings(made_of(none)), "cannot be told: no measuring prompt is correct")
    told = one(pruning_findings(made_of(row("exact", 12, 1.0, half=None))), "For no ranking and dose")
    assert "100% (no interval)" in told, "what cannot be told is not claimed"


def test_random_heads_of_the_same_layers_are_the_measure():
    line = one(pruning_findings(made_of(*ROWS)), "Beside random heads of the same layers, 12 removed")
    better, worse, same = line.split("; ")
    assert line.count("50% of the heads the same") == sum(own["control"] == "layers" for own in ROWS)
    assert "better than them: exact effect +0.066" in better and "worse than them: weight norm" in worse
    assert same.startswith("not distinguishable from them: flow")


def test_how_prompts_were_drawn_and_what_is_left_out_is_said():
    balanced = pruning_findings(
        made_of(*ROWS, drawn="balanced", left_out={"unknown": "no study of this model gives tags"})
    )
    assert "look at the figures at the natural rate too" in one(balanced, "drawn half correct")
    assert one(balanced, "Left out") == "Left out: unknown (no study of this model gives tags)."
    few = pruning_findings(made_of(*ROWS, measuring_groups=8, elsewhere=None))
    assert one(few, "8 groups of files: too few") and one(few, "Perplexity elsewhere cannot be told")
    perplexity = one(pruning_findings(made_of(*ROWS)), "Perplexity of the prompts' other tokens: 7.39")
    assert f"exact effect {np.exp(2.1):.2f}" in perplexity


def test_shares_and_levels_have_their_intervals():
    own = row("exact", 12, 0.9)
    assert share(own, "kept") == "90% [87%, 93%]" and share(own, "kept", "kept_all") == "90% [85%, 95%]"
    assert level(own, "drawn") == "0.540 [0.510, 0.570]"
    none = row("exact", 12, 0.9, half=None) | {"natural": None}
    assert share(none, "kept") == "90% (no interval)" and level(none, "drawn") == "0.540 (no interval)"
    assert level(none, "natural") == share({"kept": None}, "kept") == "-"


def test_the_table_and_the_json_have_every_row(capsys):
    found = made_of(*ROWS)
    table = pruning_table_of(found)
    assert len(table.rows) == len(ROWS) == len(pruning_record(found)["curves"])
    assert table.rows[2][:3] == ("exact effect", 12, "random heads of the same layers")
    assert pruning_record(found)["findings"] == pruning_findings(found)
    print_pruning(found)
    printed = capsys.readouterr().out
    assert "weight norm" in printed and "With all 48 heads" in printed


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [row("exact", 12, 1.0, half=None)]])
def test_the_picture_is_drawn_and_repeats(rows):
    found = made_of(*rows)
    first = png(pruning_figure(found))
    assert first == png(pruning_figure(found))
    assert imread(io.BytesIO(first)).std() > 0.01
    axes = [axis for axis in pruning_figure(found).axes if axis.axison]
    assert [axis.get_title() for axis in axes][0] == "exact effect" and len(axes) == len(found.rankings)
    drawn = {line.get_label(): line for line in axes[0].lines}
    np.testing.assert_allclose(drawn["ranked"].get_ydata(), [own["kept"] for own in found.rows(ranking="exact")])


def test_the_card_says_what_was_done():
    record = {
        **{"heads": [[0, 1], [2, 3]], "of": 48, "ranking": "gradient", "mode": "mean", "apmae": "1.0"},
        **{"taken_out": False, "zeroed_because": "layers lose different numbers", "biases_added": True},
        **{"no_mean_because": None, "original": {"name": "a-model", "fingerprint": "f00"}},
        "accuracy": {"original": 0.6, "pruned": 0.5, "pruned_low": 0.4, "pruned_high": 0.6, "kept": 0.8}
        | {"prompts": 150, "groups_of_files": 80},
        "size": {"original": {"parameters": 2000}, "pruned": {"parameters": 2000}},
        "seconds_per_forward": {"ratio": 1.0},
    }
    card = card_of(record)
    assert "# a-model without 2 of its 48 attention heads" in card and "0.1, 2.3" in card
    assert "zero, not taken out: layers lose different numbers" in card and "`attention_bias` is on" in card
    assert "0.500 (95 % interval 0.400 to 0.600)" in card
    other = card_of(record | {"taken_out": True, "mode": "zero", "no_mean_because": "no bias"})
    assert "taken out of the weights" in other and "nothing. The original" in other and "No mean: no bias." in other
