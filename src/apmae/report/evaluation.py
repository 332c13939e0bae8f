"""Cross-evaluation: every encoder on every language model's patterns (paper Table 3), and where the loss comes from.

Works on ``schema.LOSSES``. Means and standard deviations are over patterns, the latter population's (``ddof=0``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apmae.artifacts import Stage, fingerprint, read_tables, replacing
from apmae.report import figures
from apmae.report.tables import Table, head_name

BREAKDOWNS = ("layer", "head", "task", "outcome", "measured")
"""What losses are broken down by; a head is written as layer.head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One encoder on one language model's patterns."""

    encoder: str
    lm: str
    patterns: int
    mean: float
    sd: float
    published: float
    """Mean of ``published_loss``: what the paper's own Table 3 holds."""
    own: bool
    """Whether the encoder was trained on this language model's patterns: the diagonal of the table."""
    against: str | None = None
    """The language model's own encoder, where there is another one whose loss can be compared."""
    deviations: float | None = None
    """By how many of that encoder's standard deviations this mean lies above that one's."""
    relative: float | None = None
    """This mean over that one, less 1."""
    better: float | None = None
    """Share of the patterns on which that encoder has the smaller loss, in [0, 1]; where both are equal, a half."""

    moved: float | None = None
    """By how many standard deviations of this encoder's loss on its own language model's patterns this mean lies above
    the mean there; None where those are not among these. Patterns of one model may simply be harder than another's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a cross-evaluation found."""

    cells: tuple[Cell, ...]
    """Encoders in the order given, and for each the language models."""
    breakdown: Table
    notes: tuple[str, ...]
    """What the reader has to know of how the figures came about."""

    @property
    def encoders(self) -> list[str]:
        """In the order given."""
        return list(dict.fromkeys(cell.encoder for cell in self.cells))

    @property
    def lms(self) -> list[str]:
        """In the order given."""
        return list(dict.fromkeys(cell.lm for cell in self.cells))

    @property
    def table(self) -> Table:
        """One row a cell."""
        return Table(
            name="cross_evaluation",
            header=(
                "encoder", "lm", "patterns", "mean loss", "s.d.", "mean published loss", "own", "compared with",
                "deviations", "relative", "share better", "moved",
            ),
            rows=tuple(
                (c.encoder, c.lm, c.patterns, c.mean, c.sd, c.published, str(c.own).lower(), c.against, c.deviations,
                 c.relative, c.better, c.moved)
                for c in self.cells
            ),
        )  # fmt: skip

    @property
    def finding(self) -> tuple[str, ...]:
        """Whether losses off the diagonal are within one standard deviation of it, as the paper says, in words."""
        lines = []
        compared = [cell for cell in self.cells if cell.deviations is not None]
        if compared:
            inside = _inside([cell.deviations for cell in compared])
            lines.append(
                f"On one model's patterns, another model's encoder is within one standard deviation of the model's "
                f"own in {inside} of {len(compared)} cells: {_verdict(inside, len(compared))}"
            )
        for cell in compared:
            lines.append(
                f"{cell.encoder} on {cell.lm}: {cell.relative:+.0%} ({cell.deviations:+.2f} s.d.); {cell.against} has "
                f"the smaller loss on {cell.better:.0%} of the same patterns."
            )
        moved = [cell for cell in self.cells if cell.moved is not None]
        if moved:
            inside = _inside([cell.moved for cell in moved])
            lines.append(
                f"One encoder, moved to another model's patterns, stays within one standard deviation of its loss on "
                f"its own model's in {inside} of {len(moved)} cells: {_verdict(inside, len(moved))}"
            )
        return tuple(lines) or (
            "There is no diagonal to compare with: no encoder is known to be of one of these language models. Its "
            "manifest says whose it is, or the order where there are as many encoders as models.",
        )


def _over(difference: float, by: float) -> float:
    """A difference in units of ``by``; without any difference 0, and infinite if there is nothing to measure it by."""
    return difference / by if by else float(np.copysign(np.inf, difference)) if difference else 0.0


def _inside(deviations: Sequence[float | None]) -> int:
    return sum(deviation is not None and abs(deviation) <= 1 for deviation in deviations)


def _verdict(inside: int, total: int) -> str:
    return f"the paper's claim {'holds' if inside == total else 'does not hold'} here."


def evaluate(
    losses: Mapping[str, pa.Table], own: Mapping[str, str], scalings: Mapping[str, str], notes: Sequence[str] = ()
) -> Evaluation:
    """Summarise losses.

    Args:
        losses: ``schema.LOSSES`` by language model, each of the same encoders.
        own: the language model that an encoder was trained on, by encoder, where it is known.
        scalings: the scaling of each encoder: losses of different ones cannot be compared.
        notes: for :attr:`Evaluation.notes`.
    """
    columns: dict[tuple[str, str], np.ndarray] = {}
    published: dict[tuple[str, str], float] = {}
    for lm, table in losses.items():
        for encoder in scalings:
            rows = table.filter(pc.field("encoder") == encoder)
            columns[encoder, lm] = rows["loss"].to_numpy().astype(np.float64)
            published[encoder, lm] = float(rows["published_loss"].to_numpy().astype(np.float64).mean())
    cells = []
    for encoder, scaling in scalings.items():
        for lm in losses:
            mine = columns[encoder, lm]
            mean, sd = float(mine.mean()), float(mine.std())
            comparison: dict[str, Any] = {}
            diagonal = next((name for name in scalings if own.get(name) == lm and scalings[name] == scaling), None)
            if diagonal is not None and own.get(encoder) != lm:
                theirs = columns[diagonal, lm]
                difference = mean - float(theirs.mean())
                comparison = {
                    "against": diagonal,
                    "deviations": _over(difference, float(theirs.std())),
                    "relative": _over(difference, float(theirs.mean())),
                    "better": float(np.mean((theirs < mine) + 0.5 * (theirs == mine))),
                }
            home = columns.get((encoder, own.get(encoder, "")))
            if home is not None and own[encoder] != lm:
                comparison["moved"] = _over(mean - float(home.mean()), float(home.std()))
            of_lm = {"published": published[encoder, lm], "own": own.get(encoder) == lm, **comparison}
            cells.append(Cell(encoder=encoder, lm=lm, patterns=len(mine), mean=mean, sd=sd, **of_lm))
    if len(set(scalings.values())) > 1:
        said = ", ".join(f"{encoder} {scaling}" for encoder, scaling in scalings.items())
        notes = [*notes, f"Losses of different scalings cannot be compared ({said})."]
    return Evaluation(cells=tuple(cells), breakdown=_breakdown(losses), notes=tuple(notes))


def write_evaluation(
    out: Path,
    lms: Mapping[str, Path],
    own: Mapping[str, str],
    scalings: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Evaluation:
    """Write tables and picture of finished losses; earlier ones are replaced.

    Args:
        out: the evaluation's folder.
        lms: the folder of each language model's losses.
        own: as for :func:`evaluate`.
        scalings: as for :func:`evaluate`.
        notes: as for :func:`evaluate`.

    Raises:
        ArtifactError: if losses are unfinished or damaged, or the files cannot be written.
    """
    losses = {lm: read_tables(folder, "losses", "losses") for lm, folder in lms.items()}
    found = evaluate(losses, own, scalings, notes)
    picture = figures.cross_evaluation(*_grids(found), found.encoders, found.lms)
    files = {
        "cross_evaluation.csv": found.table.csv(),
        "losses_by.csv": found.breakdown.csv(),
        "cross_evaluation.png": figures.png(picture),
    }
    inputs = {f"losses-{lm}": fingerprint(folder) for lm, folder in lms.items()}
    with Stage.open(out, "evaluate", {"own": dict(own)}, inputs, overwrite=True) as stage:
        for name, content in files.items():
            with replacing(out / name) as file:
                file.write(content)
        stage.add_files(files)
        cells = [{"encoder": c.encoder, "lm": c.lm, "mean": c.mean, "sd": c.sd, "own": c.own} for c in found.cells]
        stage.finish({"losses": cells, "finding": list(found.finding), "notes": list(found.notes)})
    return found


def _grids(found: Evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and diagonal, each (encoders, language models)."""
    shape = (len(found.encoders), len(found.lms))
    values = (
        [cell.mean for cell in found.cells],
        [cell.sd for cell in found.cells],
        [cell.own for cell in found.cells],
    )
    mean, sd, own = (np.array(value).reshape(shape) for value in values)
    return mean, sd, own


def _breakdown(losses: Mapping[str, pa.Table]) -> Table:
    """Mean and standard deviation by each of :data:`BREAKDOWNS`, groups in ascending order."""
    rows = []
    for lm, table in losses.items():
        wide = table.set_column(table.column_names.index("loss"), "loss", pc.cast(table["loss"], pa.float64()))
        wide = wide.combine_chunks()  # and one thread: else sums end in other bits from run to run
        for by in BREAKDOWNS:
            keys = ["layer", "head"] if by == "head" else [by]
            spread = ("loss", "stddev", pc.VarianceOptions(ddof=0))
            groups = wide.group_by(["encoder", *keys], use_threads=False).aggregate(
                [("loss", "count"), ("loss", "mean"), spread]
            )
            for row in groups.sort_by([(key, "ascending") for key in ("encoder", *keys)]).to_pylist():
                value = head_name(row["layer"], row["head"]) if by == "head" else str(row[by])
                rows.append((row["encoder"], lm, by, value, row["loss_count"], row["loss_mean"], row["loss_stddev"]))
    header = ("encoder", "lm", "by", "value", "patterns", "mean loss", "s.d.")
    return Table(name="losses_by", header=header, rows=tuple(rows))
