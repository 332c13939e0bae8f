"""Circuits in words, tables and a picture say what the tables hold, and no more."""

import numpy as np
import pyarrow as pa
import pytest

from apmae.report.circuit_figures import circuit_figure
from apmae.report.circuits import (
    circuit_findings,
    circuit_record,
    circuit_table,
    edges_table,
    print_circuit,
    recall_table,
)
from apmae.report.figures import png
from apmae.schema import CIRCUIT, CIRCUIT_EDGES, CIRCUIT_RECALL, CIRCUIT_TASKS
from apmae.study.circuit import Circuit

HEADS = [(layer, head) for layer in range(3) for head in range(5)]


def rows_of(schema, **columns):
    count = len(next(iter(columns.values())))
    nothing = {name: [None] * count for name in schema.names if name not in columns}
    return pa.table({**nothing, **columns}).select(schema.names).cast(schema)


def made(every=True, clean=5.0, groups=20, tags=False):
    """Fifteen heads of one task: effects 3, -2, 1, then tenths; all patched, or the first three."""
    effects = [3.0, -2.0, 1.0, *np.linspace(0.5, 0.1, 12)]
    patched = [every or place < 3 for place in range(15)]
    some = [own if shown else None for own, shown in zip(effects, patched, strict=True)]
    total = sum(abs(own) for own in some if own is not None)
    heads = rows_of(
        CIRCUIT,
        task=["ioi"] * 15,
        layer=[layer for layer, _ in HEADS],
        head=[head for _, head in HEADS],
        attribution=effects,
        flow=[0.1] * 15,
        last_row=[0.2] * 15,
        tags=[0.5 if tags else None] * 15,
        random=[0.5] * 15,
        shortlisted=[place < 3 for place in range(15)],
        effect=some,
        low=[None if own is None or groups < 8 else own - 0.3 for own in some],
        high=[None if own is None or groups < 8 else own + 0.3 for own in some],
        share=[None if own is None else abs(own) / total for own in some],
        rank=[place + 1 if shown else None for place, shown in enumerate(patched)],
    )
    sizes = list(range(1, 16))
    recall = rows_of(
        CIRCUIT_RECALL,
        task=["ioi"] * 30,
        filter=["attribution"] * 15 + ["random"] * 15,
        heads=sizes * 2,
        recall_5=[min(size, 5) / 5 for size in sizes] + [size / 15 for size in sizes],
        recall_10=[min(size, 10) / 10 for size in sizes] + [size / 15 for size in sizes],
        share=[0.9] * 15 + [size / 15 for size in sizes],
        forwards=[6 + size for size in sizes] + [2 + size for size in sizes],
    )
    tasks = rows_of(
        CIRCUIT_TASKS,
        task=["ioi"], pairs=[40], groups=[groups], clean=[clean], counterfactual=[-4.0], fell=[0.95],
        **({"halves_5": [0.88], "halves_10": [0.93], "halves_share": [0.97]} if every else {}),
    )  # fmt: skip
    edges = rows_of(
        CIRCUIT_EDGES,
        task=["ioi"], layer=[0], head=[1], to_layer=[2], to_head=[4], effect=[1.25], low=[1.0], high=[1.5],
    )  # fmt: skip
    counts = {
        "heads": 15, "patched": 15 if every else 3, "shortlist": 3, "filter": "attribution", "forwards": 9,
        "forwards_all": 17, "left_out": {"have no counterfactual": 2}, "lm": "tiny",
    }  # fmt: skip
    return Circuit(heads, recall if every else recall.slice(0, 0), tasks, edges, counts)


def test_heads_are_listed_by_effect_with_what_filters_saw():
    table = circuit_table(made())
    assert table.header == (
        "task",
        "head",
        "effect",
        "95% interval",
        "share of all effects",
        "attribution",
        "flow",
        "last row",
    )
    assert table.rows[1][:4] == ("ioi", "0.1", "-2.00", "[-2.30, -1.70]") and len(table.rows) == 15
    assert "tags differ" in circuit_table(made(tags=True)).header
    assert len(circuit_table(made(every=False)).rows) == 3 and len(circuit_table(made(), 2).rows) == 2
    assert circuit_table(made(groups=5)).rows[0][3] == "-"


def test_shortlists_stand_beside_chance_and_the_halves():
    rows = recall_table(made()).rows
    assert [row[1:3] for row in rows] == [
        *(("attribution", size) for size in (3, 5, 8)),
        *(("random", size) for size in (3, 5, 8)),
        ("exact, other half", 10),
    ]
    assert rows[0][3:] == ("60%", "30%", "90%", 9, "53%") and rows[-1][3:6] == ("88%", "93%", "97%")
    assert edges_table(made()).rows == (("ioi", "0.1", "2.4", "+1.25", "[+1.00, +1.50]"),)
    assert not recall_table(made(every=False)).rows


def test_findings_say_what_was_measured():
    lines = circuit_findings(made())
    assert lines[0].startswith("ioi: 40 pairs from 20 groups.") and "+5.00 after prompts and -4.00" in lines[0]
    assert "it falls in 95% of the pairs." in lines[0]
    assert lines[1].startswith(
        "ioi: 9 of 15 patched heads have an effect whose interval leaves out 0, 1 of them against"
    )
    assert "have 30% of the true top 10 (by chance 20%; one half of the groups finds 93%" in lines[2]
    assert "for 9 forwards per pair instead of 17 (53%)" in lines[2]
    assert lines[3] == "Left out: 2 prompts have no counterfactual." and len(lines) == 4


def test_findings_say_what_was_not():
    lines = circuit_findings(made(every=False, clean=-0.5, groups=5))
    assert "the model does not do this task" in lines[0]
    assert lines[1] == "ioi: no intervals, because the prompts come from 5 groups; at least 8 are needed."
    assert lines[-1].startswith("3 of 15 heads were patched; what the others do was not measured")
    assert not any("true top" in line for line in lines)


def test_the_record_has_everything():
    record = circuit_record(made())
    assert record["format"] == "apmae.circuit" and len(record["heads"]) == 15 and len(record["recall"]) == 30
    assert record["findings"] == circuit_findings(made()) and record["tasks"][0]["halves_10"] == pytest.approx(0.93)


@pytest.mark.parametrize("every", [True, False])
def test_it_prints(capsys, monkeypatch, tmp_path, every):
    monkeypatch.setenv("COLUMNS", "120")
    print_circuit(made(every), tmp_path)
    said = capsys.readouterr().out
    assert "[+2.70, +3.30]" in said and ("exact, other half" in said) == every
    assert max(map(len, said.splitlines())) <= 120


def test_the_picture_has_the_numbers_of_the_tables():
    figure = circuit_figure(made())
    left, right = figure.axes[:2]
    grid = left.images[1].get_array()
    assert float(grid[0, 0]) == 3 and float(grid[0, 1]) == -2 and len(left.lines) == 3
    named = {line.get_label(): line.get_ydata() for line in right.lines}
    np.testing.assert_allclose(named["attribution"], [min(size, 10) / 10 for size in range(1, 16)], rtol=1e-6)
    np.testing.assert_allclose(named["random"], np.arange(1, 16) / 15, rtol=1e-6)
    assert named["exact, one half by the other"][0] == pytest.approx(0.93)
    some = circuit_figure(made(every=False))
    assert np.ma.count_masked(np.ma.masked_invalid(some.axes[0].images[1].get_array())) == 12
    assert "--exact all" in some.axes[1].texts[0].get_text()
    assert png(figure) == png(circuit_figure(made())) and len(png(some)) > 1000
