"""Findings about removed heads say what the intervals allow, and no more; tables and pictures show the rows."""

import io

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from apmae.report.ablation import (
    ablation_findings,
    ablation_record,
    ablation_table,
    effect_sign,
    head_effects_table,
    in_order,
    interval,
)
from apmae.report.ablation_figures import doses_figure, head_effects_figure
from apmae.report.figures import png
from apmae.schema import ABLATION, ABLATION_TASKS, HEAD_EFFECTS, HEAD_SETS, RELIABILITY
from apmae.study.ablation import Ablation

COUNTS = {
    **{"transfers": "", "elsewhere": 2.0, "ranking": 300, "measuring": 400, "measuring_groups": 100},
    **{"measuring_correct": 240, "drawn": "any", "natural_rate": 0.6, "heads_by_layer": [4, 4, 0, 2]},
}


def estimate(name, value, half=0.02):
    low, high = (None, None) if half is None else (value - half, value + half)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def head(layer, number, change, halves=(0.02, 0.02), mode="mean"):
    """Rows of one head in both halves and together."""
    made = []
    for half, width in (("ranking", halves[0]), ("measuring", halves[1]), ("both", 0.01)):
        row = {"mode": mode, "half": half, "layer": layer, "head": number, "prompts": 300, "lost": 3, "gained": 1}
        row |= (
            estimate("log_probability", change, width) | estimate("accuracy", change / 10) | estimate("elsewhere", 0.1)
        )
        made.append(row)
    return made


def set_row(ranking, dose, drawn, half=0.02, every=0.04, control="", by="log_probability", beyond=None, natural=None):
    row = {"mode": "mean", "ranking": ranking, "by": by, "dose": dose, "control": control}
    row |= {"sets": 3, "shared": 0.2, "ranked": -0.1, "lost": 5.0, "gained": 2.5}
    for name in ("drawn", "balanced", "log_probability", "elsewhere"):
        row |= estimate(name, drawn, half)
    if natural is not None:
        row |= estimate("natural", natural) | estimate("reweighting", drawn - natural)
    if half is not None:
        row |= {"drawn_all_low": drawn - every, "drawn_all_high": drawn + every}
    if beyond is not None:
        row |= estimate("drawn_beyond", beyond)
    return row


HEADS = [
    *head(0, 0, -1.5),
    *head(0, 1, -0.5),
    *head(1, 2, 0.3),
    *head(1, 3, 0.1, (0.02, 0.2)),
    *head(3, 1, 0.0, (0.1, 0.1)),
]
HALVES = {"what": "halves", "mode": "mean", "other": "mean"}
AGREE = [
    {**HALVES, "by": "log_probability", "spearman": 0.89, "spearman_low": 0.8, "spearman_high": 0.94},
    {**HALVES, "by": "accuracy", "spearman": None, "spearman_low": None, "spearman_high": None},
]


def made_of(*sets, heads=HEADS, reliability=AGREE, **counts):
    rows = (
        (heads, HEAD_EFFECTS),
        (reliability, RELIABILITY),
        (list(sets), ABLATION),
        ([], ABLATION_TASKS),
        ([], HEAD_SETS),
    )
    return Ablation(*(pa.Table.from_pylist(own, schema=schema) for own, schema in rows), {**COUNTS, **counts})


def said(*sets, about, **some):
    return [line for line in ablation_findings(made_of(*sets, **some)) if about in line]


def test_heads_are_counted_in_each_half_and_in_both_beside_chance():
    (line,) = said(about="Heads removed alone")
    assert (
        "of 5, beyond their 95% interval by log-probability in both halves are 2 helpful (ranking 2, measuring 2)"
        in line
    )
    assert "and 1 harmful (ranking 2, measuring 1); by chance 0.12 of each in one half, 0.003 in both." in line
    assert line.endswith("Largest: 0.0 -1.50, 0.1 -0.50, 1.2 +0.30, 1.3 +0.10 nats.")


def test_agreement_has_its_interval_or_cannot_be_told():
    (line,) = said(about="between the halves")
    assert line.endswith("(mean): 0.89 [0.80, 0.94] by log-probability, cannot be told by accuracy.")
    both = {**AGREE[0], "what": "modes", "other": "zero"}
    (line,) = said(about="between modes", reliability=[*AGREE, both])
    assert line.endswith("on the same prompts: mean and zero 0.89 [0.80, 0.94].")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [set_row("harmful", 8, 0.01), set_row("harmful", 1, -0.03)],
            "No gain in accuracy can be shown from removing heads that harm (mean): of 2 sets the largest change is "
            "+0.010; the best by its interval is +0.010 [-0.010, +0.030] of accuracy, the 8 heads ranked most harmful",
        ),
        (
            [set_row("harmful", 4, 0.03)],
            "Perhaps a gain from removing the 4 heads ranked most harmful by log-probability (mean): +0.030 [+0.010, "
            "+0.050] of accuracy; but [-0.010, +0.070] where intervals of all sets hold at once.",
        ),
        (
            [
                set_row("harmful", 4, 0.06, natural=0.05),
                set_row("harmful", 4, 0.0, control="size", beyond=0.05),
                set_row("harmful", 4, 0.04, control="effect", beyond=0.01),
            ],
            "A gain from removing the 4 heads ranked most harmful by log-probability (mean): +0.060 [+0.040, +0.080] "
            "of accuracy, more than random heads (+0.050 [+0.030, +0.070]; 20% of the heads are the same); no more can "
            "be shown than the other heads nearest in effect (+0.010 [-0.010, +0.030]; -0.100 each alone, against "
            "-0.100). At natural rates: +0.050 [+0.030, +0.070].",
        ),
        (
            [
                set_row("harmful", 4, 0.06) | {"ranked": 0.5},
                set_row("harmful", 4, 0.0, control="effect", beyond=0.05) | {"ranked": 0.1},
            ],
            "A gain from removing the 4 heads ranked most harmful by log-probability (mean): +0.060 [+0.040, +0.080] "
            "of accuracy. The natural rate is not known, so part of it may be reweighting.",
        ),
        (
            [set_row("harmful", 4, 0.06, natural=0.01)],
            "No gain at natural rates can be shown from removing the 4 heads ranked most harmful by log-probability "
            "(mean): +0.010 [-0.010, +0.030]. On the prompts as drawn it is +0.060 [+0.040, +0.080] of accuracy, part",
        ),
        (
            [set_row("harmful", 1, 0.0, None)],
            "No gain in accuracy can be shown from removing heads that harm (mean): of 1 sets the largest change is "
            "+0.000; the best by its interval is +0.000 (no interval) of accuracy, the head ranked most harmful",
        ),
    ],
)
def test_a_gain_is_said_only_if_the_interval_is_above_nothing(rows, expected):
    lines = ablation_findings(made_of(*rows, drawn="balanced"))
    assert any(line.startswith(expected) for line in lines), lines
    assert sum("gain" in line.lower() for line in lines) == 1


def test_what_helpful_heads_cost_stands_beside_the_controls():
    rows = [
        set_row("harmful", 8, 0.0),
        set_row("helpful", 1, -0.01),
        set_row("helpful", 8, -0.3),
        set_row("helpful", 8, -0.25, control="layers", beyond=-0.05),
        set_row("helpful", 8, -0.05, control="effect", beyond=-0.25) | {"ranked": -0.04},
        set_row("helpful", 8, 0.0, by="accuracy"),
    ]
    (line,) = said(*rows, about="most helpful by log-probability (mean) changes")
    assert line == (
        "Removing the 8 heads ranked most helpful by log-probability (mean) changes accuracy by -0.300 [-0.320, "
        "-0.280]; beyond random heads of the same layers (-0.050 [-0.070, -0.030]; 20% of the heads are the same); the "
        "other heads nearest in effect are too weak to compare with (-0.040 each alone, against -0.100)."
    )
    assert said(*rows, about="No loss in accuracy can be shown from removing heads ranked helpful by accuracy (mean).")


def test_reweighting_alone_is_shown_for_heads_of_little_effect():
    rows = [
        set_row("harmful", 8, 0.0),
        set_row("neutral", 8, 0.015, natural=0.0),
        set_row("neutral", 24, -0.4, natural=-0.6),
    ]
    (line,) = said(*rows, about="Reweighting alone")
    assert (
        "the 8 heads ranked neutral by log-probability (mean) changes accuracy by +0.015 [-0.005, +0.035] if half"
        in line
    )
    assert (
        "by +0.000 [-0.020, +0.020] at the natural rate; the difference, +0.015 [-0.005, +0.035], is no effect" in line
    )
    assert not said(set_row("harmful", 8, 0.0), set_row("neutral", 8, 0.015), about="Reweighting")


def test_too_few_is_said():
    (line,) = said(about="measuring prompts are few", measuring=100, measuring_correct=50)
    assert "100 measuring prompts are few: an accuracy is known to about 0.10" in line
    (line,) = said(about="too few for intervals", measuring_groups=5)
    assert line == "5 groups of files: too few for intervals that can be relied on."
    assert not said(about="are few")


def test_why_a_change_has_no_interval():
    still = set_row("harmful", 1, 0.0, None) | {"lost": 0.0, "gained": 0.0}
    rows = [still, set_row("helpful", 2, -0.3, None), set_row("harmful", 8, 0.1)]
    one, other = said(*rows, about="no interval")[-2:]
    assert one.startswith("1 of 3 sets change no answer") and "at most 3.0% would show one (95%)" in one
    assert other.startswith("1 of 3 sets have no interval") and other.endswith("the same in every group of files.")
    (line,) = said(*rows, about="No change has an interval", measuring_groups=1)
    assert line.endswith("all measuring prompts are of one group of files.")
    assert said(*rows[:2], about="ranked helpful by log-probability (mean), because no set has an interval.")


def test_how_prompts_were_drawn_and_what_transfers_are_said():
    assert said(about="at the model's own rate") and not said(about="own rate of correct answers is not known")
    (line,) = said(about="own rate of correct answers is not known", drawn="by another model", natural_rate=None)
    assert line.startswith("The answers of another model decided which prompts were drawn")
    (line,) = said(about="half correct, half incorrect", drawn="balanced")
    assert line.endswith("of all that were asked 60% were correct.")
    assert ablation_findings(made_of(transfers="nothing transfers."))[0] == "nothing transfers."
    assert said(about="Perplexity elsewhere cannot be told", elsewhere=None)


def test_perplexity_elsewhere_is_before_and_after():
    rows = [set_row("harmful", 1, 0.0), set_row("helpful", 4, 0.5)]
    (line,) = said(*rows, about="perplexity is")
    assert f"{np.exp(2.0):.2f}; without the 4 heads ranked most helpful (mean) it is {np.exp(2.5):.2f}: +0.500" in line


def test_tables_hold_the_rows():
    rows = [
        set_row("harmful", 8, 0.01),
        set_row("harmful", 8, 0.0, control="effect", beyond=0.01),
        set_row("helpful", 1, -0.2),
    ]
    found = made_of(*rows)
    table = ablation_table(found)
    assert table.column("control") == ["", "the other heads nearest in effect", ""]
    assert table.column("ranked beyond control") == ["-", "+0.010 [-0.010, +0.030]", "-"]
    heads = head_effects_table(found)
    assert heads.column("head") == ["0.0", "0.1", "1.2", "1.3", "3.1"] and set(heads.column("lost")) == {3}
    record = ablation_record(found)
    assert record["sets"] == found.sets.to_pylist() and record["findings"] == ablation_findings(found)
    assert [row["ranking"] for row in in_order(found.ranked("mean"))] == ["helpful", "harmful"]
    assert interval(rows[0], "drawn", 1) == "+0.0 [-0.0, +0.0]" and effect_sign(rows[0], "drawn") == 0


def test_pictures_show_the_rows_and_are_not_blank():
    rows = [set_row(ranking, dose, -0.02 * dose) for ranking in ("helpful", "harmful", "neutral") for dose in (1, 4)]
    rows += [set_row("helpful", 4, -0.05, control="size", beyond=-0.03), set_row("harmful", 8, 0.0, None)]
    found = made_of(*rows)
    grid = head_effects_figure(found)
    (shown,) = grid.axes[0].images
    assert shown.get_array()[0, 0] == pytest.approx(-1.5) and shown.get_array().shape == (4, 4)
    dots = {tuple(point) for line in grid.axes[0].lines for point in line.get_xydata()}
    assert dots == {(0, 0), (1, 0), (2, 1)}, "heads whose intervals lie on one side in both halves"
    curves = doses_figure(found)
    np.testing.assert_allclose(curves.axes[0].lines[1].get_xydata(), [[1, -0.02], [4, -0.08]], atol=1e-6)
    for draw in (head_effects_figure, doses_figure):
        content = png(draw(found))
        assert content == png(draw(found)) and np.ptp(imread(io.BytesIO(content))[..., :3]) > 0.5
    assert "No sets of heads were removed" in [
        text.get_text() for text in doses_figure(made_of()).findobj() if hasattr(text, "get_text")
    ]
