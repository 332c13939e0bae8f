"""Tables of a cross-evaluation against loops over rows, and the finding in words."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest

from apmae.artifacts import Stage, fingerprint, read_manifest
from apmae.engine.evaluate import write_evaluation
from apmae.errors import ArtifactError
from apmae.report import figures
from apmae.report.evaluation import evaluate
from apmae.report.terminal import print_evaluation
from apmae.schema import LOSSES

OWN = {"one": "small", "two": "large"}
SAME = {"one": "log_normalize", "two": "log_normalize"}
COUNT = 40


def losses(lm, means, seed=0, sd=0.002):
    draw = np.random.default_rng(seed)
    rows = [
        {
            "encoder": encoder,
            "lm": lm,
            "prompt": i // 8,
            "layer": i % 8 // 4,
            "head": i % 4,
            "task": ("eol", "random")[i // 8 % 2],
            "outcome": ("correct", "incorrect")[i // 16 % 2],
            "measured": ("induction", "self", "mixed")[i % 3],
            "loss": abs(draw.normal(mean, sd)),
            "published_loss": abs(draw.normal(3 * mean, sd)),
            "divergence": None if i % 10 == 7 else abs(draw.normal(50 * mean, 20 * sd)),
            "uniform_divergence": None if i % 10 == 7 else abs(draw.normal(100 * mean, sd)),
        }
        for encoder, mean in means.items()
        for i in range(COUNT)
    ]
    return pa.Table.from_pylist(rows, schema=LOSSES)


@pytest.fixture
def tables():
    """Encoder two is much worse on the small model's patterns, encoder one a little worse on the large model's."""
    return {
        "small": losses("small", {"one": 0.01, "two": 0.02}),
        "large": losses("large", {"one": 0.0145, "two": 0.014}, seed=1),
    }


def test_cells_are_means_and_deviations_over_patterns(tables):
    found = evaluate(tables, OWN, SAME)
    assert [(cell.encoder, cell.lm, cell.own) for cell in found.cells] == [
        *(("one", "small", True), ("one", "large", False), ("two", "small", False), ("two", "large", True))
    ]
    for cell in found.cells:
        rows = tables[cell.lm].to_pylist()
        mine = [row["loss"] for row in rows if row["encoder"] == cell.encoder]
        mean = sum(mine) / COUNT
        sd = (sum((loss - mean) ** 2 for loss in mine) / COUNT) ** 0.5
        published = sum(row["published_loss"] for row in rows if row["encoder"] == cell.encoder) / COUNT
        assert (cell.patterns, cell.mean, cell.sd, cell.published) == (
            *(COUNT, pytest.approx(mean), pytest.approx(sd), pytest.approx(published)),
        )
        theirs = [row for row in rows if row["encoder"] == cell.encoder and row["divergence"] is not None]
        assert len(theirs) == COUNT * 9 // 10
        divergence = sum(row["divergence"] for row in theirs) / len(theirs)
        spread = (sum((row["divergence"] - divergence) ** 2 for row in theirs) / len(theirs)) ** 0.5
        assert (cell.divergence, cell.divergence_sd) == (pytest.approx(divergence), pytest.approx(spread))
        assert cell.uniform == pytest.approx(sum(row["uniform_divergence"] for row in theirs) / len(theirs))
    own, other = found.cells[0], found.cells[2]
    assert (own.against, own.deviations, own.better, own.moved) == (None, None, None, None)
    assert other.against == "one"
    assert other.deviations == pytest.approx((other.mean - own.mean) / own.sd)
    assert other.relative == pytest.approx(other.mean / own.mean - 1)
    pairs = zip(
        *(tables["small"].filter(pa.compute.field("encoder") == name)["loss"].to_pylist() for name in SAME), strict=True
    )
    assert other.better == sum(first < second for first, second in pairs) / COUNT
    home = found.cells[3]
    assert other.moved == pytest.approx((other.mean - home.mean) / home.sd)


def test_the_finding_says_what_is_within_a_deviation_and_what_is_not(tables):
    found = evaluate(tables, OWN, SAME)
    first, *lines, last = found.finding
    assert "in 1 of 2 cells: the paper's claim does not hold here" in first
    assert [line.split(":")[0] for line in lines] == ["one on large", "two on small"]
    other = found.cells[2]
    assert other.relative > 0.5
    assert f"{100 * other.relative:+.0f}% ({other.deviations:+.2f} s.d.)" in lines[1]
    assert "One encoder, moved" in last
    tables["small"] = losses("small", {"one": 0.01, "two": 0.0105})
    assert "in 2 of 2 cells: the paper's claim holds here" in evaluate(tables, OWN, SAME).finding[0]


def test_without_a_diagonal_nothing_is_claimed(tables):
    found = evaluate(tables, {}, SAME)
    assert not any(cell.own or cell.deviations is not None for cell in found.cells)
    (line,) = found.finding
    assert line.startswith("There is no diagonal")


def test_encoders_of_different_scalings_are_compared_by_divergence(tables):
    assert evaluate(tables, OWN, SAME).measure == "loss"
    found = evaluate(tables, OWN, {"one": "log_normalize", "two": "raw"}, ["an earlier note"])
    assert found.measure == "divergence"
    assert found.notes == (
        "an earlier note",
        "Losses of different scalings cannot be compared (one log_normalize, two raw), so divergences are.",
    )
    own, moved, other, _ = found.cells
    assert other.against == "one"
    assert other.deviations == pytest.approx((other.divergence - own.divergence) / own.divergence_sd)
    assert other.relative == pytest.approx(other.divergence / own.divergence - 1)
    pairs = zip(
        *(
            tables["small"].filter(pa.compute.field("encoder") == name)["divergence"].to_pylist()
            for name in ("one", "two")
        ),
        strict=True,
    )
    known = [(first, second) for first, second in pairs if first is not None]
    assert other.better == pytest.approx(sum(first < second for first, second in known) / len(known))
    assert moved.moved == pytest.approx((moved.divergence - own.divergence) / own.divergence_sd)
    assert "one has the smaller divergence on" in " ".join(found.finding)
    assert dict(zip(found.table.header, found.table.rows[2], strict=True))["compared by"] == "divergence"


def test_an_encoder_is_compared_with_the_models_own_one_of_the_same_scaling():
    table = losses("small", {"raw one": 0.02, "log one": 0.01, "other": 0.03})
    own, scalings = {"raw one": "small", "log one": "small"}, {"raw one": "raw", "log one": "log", "other": "log"}
    assert evaluate({"small": table}, own, scalings).cells[2].against == "log one"
    assert evaluate({"small": table}, own, scalings | {"other": "log_normalize"}).cells[2].against == "raw one"


def test_encoders_of_one_model_have_nothing_off_the_diagonal():
    table = losses("small", {"one": 0.01, "two": 0.02})
    (line,) = evaluate({"small": table}, {"one": "small", "two": "small"}, SAME).finding
    assert "nothing is off the diagonal" in line


def test_patterns_without_hidden_attention_leave_divergences_out(tmp_path):
    table = losses("small", {"one": 0.01})
    empty = table.set_column(10, "divergence", pa.array([None] * COUNT, pa.float32()))
    (cell,) = evaluate({"small": empty}, {}, {"one": "raw"}).cells
    assert np.isnan([cell.divergence, cell.divergence_sd]).all()
    with Stage.open(tmp_path / "small", "losses", {}, {}) as stage:
        stage.write_tables({"losses-00000.parquet": empty})
        stage.finish()
    write_evaluation(tmp_path / "out", {"small": tmp_path / "small"}, {}, {"one": "raw"})
    assert read_manifest(tmp_path / "out", "evaluate").counts["losses"][0]["divergence"] is None


def test_of_equal_losses_neither_is_better():
    table = losses("small", {"one": 0.01, "two": 0.01}, sd=0)
    other = evaluate({"small": table}, {"one": "small"}, SAME).cells[1]
    assert (other.deviations, other.relative, other.better) == (0, 0, 0.5)


def test_the_breakdown_is_of_every_layer_head_task_outcome_and_name(tables):
    rows = [
        dict(zip(evaluate(tables, OWN, SAME).breakdown.header, row, strict=True))
        for row in evaluate(tables, OWN, SAME).breakdown.rows
    ]
    assert (
        len({(row["encoder"], row["lm"], row["by"], row["value"]) for row in rows})
        == len(rows)
        == 4 * (2 + 8 + 2 + 2 + 3)
    )
    for row in rows:
        by = row["by"]
        of = [
            each["loss"]
            for each in tables[row["lm"]].to_pylist()
            if each["encoder"] == row["encoder"]
            and row["value"] == (f"{each['layer']}.{each['head']}" if by == "head" else str(each[by]))
        ]
        assert row["patterns"] == len(of) > 0
        assert row["mean loss"] == pytest.approx(np.mean(of))
        assert row["s.d."] == pytest.approx(np.std(of), abs=1e-9)
        apart = [
            each["divergence"]
            for each in tables[row["lm"]].to_pylist()
            if each["encoder"] == row["encoder"]
            and row["value"] == (f"{each['layer']}.{each['head']}" if by == "head" else str(each[by]))
        ]
        assert row["mean divergence"] == pytest.approx(np.mean([value for value in apart if value is not None]))


@pytest.fixture
def folders(tables, tmp_path):
    folders = {}
    for lm, table in tables.items():
        folders[lm] = tmp_path / lm
        with Stage.open(folders[lm], "losses", {}, {}) as stage:
            stage.write_tables({"losses-00000.parquet": table.slice(0, 50)})
            stage.write_tables({"losses-00001.parquet": table.slice(50)})
            stage.finish()
    return folders


def test_files_hold_what_was_found(folders, tables, tmp_path, capsys):
    found = write_evaluation(tmp_path / "out", folders, OWN, SAME, ["a note"])
    assert found == evaluate(tables, OWN, SAME, ["a note"])
    manifest = read_manifest(tmp_path / "out", "evaluate")
    assert set(manifest.files) == {"cross_evaluation.csv", "cross_evaluation.png", "losses_by.csv"}
    assert manifest.inputs["losses-large"] == fingerprint(folders["large"])
    assert (manifest.counts["finding"], manifest.counts["notes"]) == (list(found.finding), ["a note"])
    written = list(csv.DictReader(io.StringIO((tmp_path / "out/cross_evaluation.csv").read_text())))
    assert [float(row["mean loss"]) for row in written] == [cell.mean for cell in found.cells]
    assert (tmp_path / "out/cross_evaluation.png").read_bytes().startswith(b"\x89PNG")
    print_evaluation(found)
    printed = " ".join(capsys.readouterr().out.split())
    for cell in found.cells:
        assert f"{100 * cell.mean:.2f} ± {100 * cell.sd:.2f}" in printed
    assert "does not hold here" in printed
    assert "a note" in printed


def test_terminal_and_picture_show_divergences_where_scalings_differ(folders, tmp_path, capsys):
    scalings = {"one": "log_normalize", "two": "raw"}
    found = write_evaluation(tmp_path / "out", folders, OWN, scalings)
    picture = (tmp_path / "out/cross_evaluation.png").read_bytes()
    grids = [np.array([value(cell) for cell in found.cells]).reshape(2, 2) for value in GRIDS]
    assert picture == figures.png(figures.cross_evaluation(*grids, ["one", "two"], ["small", "large"], "divergence"))
    print_evaluation(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Divergence of hidden attention, nats" in printed
    for cell in found.cells:
        assert f"{cell.divergence:.2f} ± {cell.divergence_sd:.2f} ({cell.uniform:.2f})" in printed


GRIDS = (lambda cell: cell.divergence, lambda cell: cell.divergence_sd, lambda cell: cell.own)


def test_unfinished_losses_are_refused_and_earlier_files_stay(folders, tmp_path):
    write_evaluation(tmp_path / "out", folders, OWN, SAME)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (folders["large"] / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="expected a finished losses artifact"):
        write_evaluation(tmp_path / "out", folders, OWN, SAME)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(("encoders", "lms"), [(1, 1), (3, 3), (1, 12), (12, 2)])
def test_the_picture_of_any_number(encoders, lms):
    draw = np.random.default_rng(0)
    mean = draw.uniform(0.01, 0.03, (encoders, lms))
    names = [f"number {i} $x_ {'long ' * i}" for i in range(12)]
    own = np.eye(encoders, lms, dtype=bool)
    drawn = [figures.cross_evaluation(mean, mean / 3, own, names[:encoders], names[:lms]) for _ in range(2)]
    assert figures.png(drawn[0]) == figures.png(drawn[1])
    figure = drawn[0]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{100 * value:.2f} ± {100 * value / 3:.2f}" for value in mean.ravel()]
    assert len(figure.axes[0].patches) == own.sum()
    nats = figures.cross_evaluation(mean, mean / 3, own, names[:encoders], names[:lms], "divergence")
    assert [text.get_text() for text in nats.axes[0].texts] == [f"{m:.2f} ± {m / 3:.2f}" for m in mean.ravel()]
    assert "nats" in nats.axes[0].get_title()
