"""Findings say what the intervals allow, and no more."""

import pyarrow as pa
import pytest

from apmae.report.prediction import Prediction, prediction_findings, prediction_table
from apmae.schema import PREDICTION, PREDICTION_TASKS

COUNTS = {"prompts": 200, "files": 40, "groups": 40, "left_out": {}, "drawn": "any", "natural_rate": 0.6}


def row(features, kind, delta=(None, None, None), auroc=0.7, chosen=(), with_heads=2):
    found = {name: 0.1 for name in PREDICTION.names}
    found |= {"features": features, "kind": kind, "models": ["a", "b", "a"], "chosen": list(chosen)}
    found |= {"with_heads": with_heads}
    all_of = (None, None) if delta[1] is None else (delta[1] - 0.003, delta[2] + 0.003)
    found |= dict(zip(("delta_all_low", "delta_all_high"), all_of, strict=True))
    found |= {"auroc": auroc, "auroc_low": auroc - 0.05, "auroc_high": auroc + 0.05}
    return found | dict(zip(("delta", "delta_low", "delta_high"), delta, strict=True))


def said(*rows, **counts):
    strongest = row("strongest baseline", "baseline", chosen=["tokens", "margin", "tokens"])
    sets = pa.Table.from_pylist([strongest, *rows], schema=PREDICTION)
    tasks = pa.Table.from_pylist([], schema=PREDICTION_TASKS)
    return prediction_findings(Prediction(sets, tasks, {**COUNTS, **counts}))


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ((0.02, 0.004, 0.04), "A gain in AUROC from tags, beside the strongest baseline: +0.020 [+0.004, +0.040]."),
        (
            (0.02, 0.002, 0.04),
            "Perhaps a gain from tags, beside the strongest baseline: +0.020 [+0.002, +0.040] of AUROC; but "
            "[-0.001, +0.043] where the intervals of all sets of heads hold at once.",
        ),
        ((-0.02, -0.04, -0.001), "A loss in AUROC from tags, beside the strongest baseline: -0.020 [-0.040, -0.001]."),
        ((0.02, -0.01, 0.04), "No gain can be shown from tags, beside the strongest baseline: +0.020 [-0.010, +0.040]"),
        ((0.02, 0.0, 0.04), "No gain can be shown from tags"),
        ((0.0, 0.0, 0.0), "No change from tags: beside the strongest baseline, prompts keep their order."),
    ],
)
def test_a_gain_is_said_only_if_the_interval_is_above_nothing(delta, expected):
    (line,) = [line for line in said(row("baseline + tags", "added", delta)) if "tags" in line]
    assert line.startswith(expected)


def test_heads_that_no_fold_took_are_no_gain():
    line = said(row("baseline + tags", "added", (0.0, 0.0, 0.0), with_heads=0))[1]
    assert line == "Not used: tags. In no fold does it help within the fitting files, beside the strongest baseline."


def test_the_table_says_what_each_fold_took():
    rows = [row("strongest baseline", "baseline", chosen=["tokens"] * 3), row("tags", "heads", (0.1, 0.05, 0.2))]
    counts = {**COUNTS, "prompts": 1200}
    sets = pa.Table.from_pylist(rows, schema=PREDICTION)
    made = prediction_table(Prediction(sets, pa.Table.from_pylist([], schema=PREDICTION_TASKS), counts))
    assert made.column("model") == ["a 2, b 1"] * 2 and made.column("folds with heads") == ["", "2 of 3"]
    assert made.column("beyond the baseline") == ["", "+0.100 [+0.050, +0.200]"]
    assert made.column("calibration error (chance)") == ["0.100 (0.100)"] * 2


def test_the_baseline_is_named_and_heads_are_not_ranked():
    lines = said(row("tags", "heads", auroc=0.55), row("head scores", "heads", auroc=0.65))
    assert lines[0].startswith("Without attention: AUROC 0.70 [0.65, 0.75], calibration error 0.100")
    assert lines[0].endswith("tokens (2 folds); margin (1 fold).")
    assert "Heads alone: AUROC 0.55 to 0.65, by the set of columns." in lines


def test_how_prompts_were_drawn_and_what_was_left_out():
    lines = said(left_out={"eol: all correct": 3})
    assert "Prompts left out: eol: all correct (3)." in lines
    assert "Prompts are at the model's own rate, 60% correct." in lines
    assert any(line.startswith("200 prompts of 40 files are few: an AUROC is known to about 0.05") for line in lines)
    assert "of all that were asked 60% were correct" in " ".join(said(drawn="balanced"))
    assert "cannot be told" in " ".join(said(drawn="correct", natural_rate=None))
    assert any(line.startswith("15 groups of files") for line in said(groups=15, prompts=2000))
    many = said(prompts=1000)
    assert not any("few" in line for line in many) and "0.700 [0.650, 0.750]" in many[0]
