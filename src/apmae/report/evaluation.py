"""Cross-evaluation: every encoder on every language model's patterns (paper Table 3), and where the loss comes from.

Reads ``schema.LOSSES``. Means and standard deviations (of the population, ``ddof=0``) are over patterns. Encoders with
the same scaling are compared by their loss, encoders with different scalings by their divergence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    """Mean loss."""
    sd: float
    published: float
    """Mean of ``published_loss``, which is in the paper's Table 3."""
    divergence: float
    """Mean divergence, over patterns with hidden mass; NaN if there are none."""
    divergence_sd: float
    uniform: float
    """Mean divergence of a prediction that is even over hidden keys, without any knowledge."""
    own: bool
    """Whether the encoder was trained on this language model's patterns: the diagonal of the table."""
    against: str | None = None
    """The language model's own encoder, if it is another one. All fields below compare by ``Evaluation.measure``."""
    deviations: float | None = None
    """By how many of that encoder's standard deviations this encoder's mean is above that encoder's."""
    relative: float | None = None
    """This encoder's mean divided by that encoder's, minus 1."""
    better: float | None = None
    """Share of the patterns on which that encoder is better, in [0, 1]; a half where both are equal."""
    moved: float | None = None
    """By how many standard deviations this mean is above the encoder's mean on its own language model's patterns, whose
    standard deviation is the unit; None if those are not evaluated. One model's patterns may simply be harder."""

    def shown(self, measure: str) -> tuple[float, float]:
        """Mean and standard deviation of "loss" or "divergence"."""
        return (self.mean, self.sd) if measure == "loss" else (self.divergence, self.divergence_sd)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a cross-evaluation found."""

    cells: tuple[Cell, ...]
    """Encoders in the order given, and for each the language models."""
    breakdown: Table
    measure: str
    """What encoders are compared by: "loss", or "divergence" where scalings differ."""
    notes: tuple[str, ...]
    """What a reader has to know about how the numbers were made."""

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
        """One row per cell."""
        return Table(
            name="cross_evaluation",
            header=(
                "encoder", "lm", "patterns", "mean loss", "s.d.", "mean published loss", "mean divergence",
                "s.d. of divergence", "uniform divergence", "own", "compared with", "compared by", "deviations",
                "relative", "share better", "moved",
            ),
            rows=tuple(
                (c.encoder, c.lm, c.patterns, c.mean, c.sd, c.published, c.divergence, c.divergence_sd, c.uniform,
                 str(c.own).lower(), c.against, self.measure, c.deviations, c.relative, c.better, c.moved)
                for c in self.cells
            ),
        )  # fmt: skip

    @property
    def finding(self) -> tuple[str, ...]:
        """In words, whether encoders off the diagonal are within one standard deviation of it, as the paper says."""
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
                f"the smaller {self.measure} on {cell.better:.0%} of the same patterns."
            )
        moved = [cell for cell in self.cells if cell.moved is not None]
        if moved:
            inside = _inside([cell.moved for cell in moved])
            lines.append(
                f"One encoder, moved to another model's patterns, stays within one standard deviation of its "
                f"{self.measure} on its own model's in {inside} of {len(moved)} cells: {_verdict(inside, len(moved))}"
            )
        if not lines and any(cell.own for cell in self.cells):
            return ("Every encoder was trained on the language model evaluated here: nothing is off the diagonal.",)
        return tuple(lines) or (
            "There is no diagonal to compare with: no encoder is known to be trained on one of these language models. "
            "Its manifest would say so, or its place, if there were as many encoders as models.",
        )


def _over(difference: float, by: float) -> float:
    """A difference in units of ``by``: 0 without a difference, infinite if only ``by`` is 0."""
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
        losses: language model -> ``schema.LOSSES``, each with the same encoders.
        own: encoder -> the language model that it was trained on, where that is known.
        scalings: encoder -> its scaling; losses of different scalings cannot be compared.
        notes: for :attr:`Evaluation.notes`.
    """
    measure = "divergence" if len(set(scalings.values())) > 1 else "loss"
    rows = {(name, lm): table.filter(pc.field("encoder") == name) for name in scalings for lm, table in losses.items()}
    columns = {where: _measured(table, measure) for where, table in rows.items()}
    cells = []
    for (encoder, lm), table in rows.items():
        mine = columns[encoder, lm]
        comparison: dict[str, Any] = {}
        owners = [name for name in scalings if own.get(name) == lm]
        diagonal = min(owners, key=lambda name: scalings[name] != scalings[encoder], default=None)
        if diagonal is not None and own.get(encoder) != lm:
            theirs = columns[diagonal, lm]
            difference = _mean(mine) - _mean(theirs)
            comparison = {
                "against": diagonal,
                "deviations": _over(difference, _sd(theirs)),
                "relative": _over(difference, _mean(theirs)),
                "better": _mean(np.where(np.isnan(mine - theirs), np.nan, (theirs < mine) + 0.5 * (theirs == mine))),
            }
        home = columns.get((encoder, own.get(encoder, "")))
        if home is not None and own[encoder] != lm:
            comparison["moved"] = _over(_mean(mine) - _mean(home), _sd(home))
        loss, divergence = _measured(table, "loss"), _measured(table, "divergence")
        cells.append(
            Cell(
                encoder=encoder,
                lm=lm,
                patterns=len(table),
                mean=_mean(loss),
                sd=_sd(loss),
                published=_mean(_measured(table, "published_loss")),
                divergence=_mean(divergence),
                divergence_sd=_sd(divergence),
                uniform=_mean(_measured(table, "uniform_divergence")),
                own=own.get(encoder) == lm,
                **comparison,
            )
        )
    if measure == "divergence":
        pairs = ", ".join(f"{encoder} {scaling}" for encoder, scaling in scalings.items())
        notes = [*notes, f"Losses of different scalings cannot be compared ({pairs}), so divergences are."]
    return Evaluation(cells=tuple(cells), breakdown=_breakdown(losses), measure=measure, notes=tuple(notes))


def _measured(table: pa.Table, column: str) -> np.ndarray:
    """A column as float64; NaN for patterns of which no attention was hidden."""
    return table[column].to_numpy().astype(np.float64)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _sd(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std()) if len(known) else float("nan")


def evaluation_files(evaluation: Evaluation) -> dict[str, bytes]:
    """Tables and picture of an evaluation, by file name."""
    picture = figures.cross_evaluation(*_grids(evaluation), evaluation.encoders, evaluation.lms, evaluation.measure)
    return {
        "cross_evaluation.csv": evaluation.table.csv(),
        "losses_by.csv": evaluation.breakdown.csv(),
        "cross_evaluation.png": figures.png(picture),
    }


def evaluation_counts(evaluation: Evaluation) -> dict[str, Any]:
    """What an evaluation found, for its manifest."""
    cells = [
        {"encoder": c.encoder, "lm": c.lm, "mean": c.mean, "sd": c.sd, "own": c.own}
        | {"divergence": None if np.isnan(c.divergence) else c.divergence}
        for c in evaluation.cells
    ]
    return {"losses": cells, "finding": list(evaluation.finding), "notes": list(evaluation.notes)}


def _grids(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of the measure, and the diagonal: each (encoders, language models)."""
    shape = (len(evaluation.encoders), len(evaluation.lms))
    shown = [cell.shown(evaluation.measure) for cell in evaluation.cells]
    values = ([mean for mean, _ in shown], [sd for _, sd in shown], [cell.own for cell in evaluation.cells])
    mean, sd, own = (np.array(value).reshape(shape) for value in values)
    return mean, sd, own


def _breakdown(losses: Mapping[str, pa.Table]) -> Table:
    """Mean and standard deviation by each of :data:`BREAKDOWNS`, groups in ascending order."""
    rows = []
    for lm, table in losses.items():
        wide = table
        for name in ("loss", "divergence"):
            wide = wide.set_column(wide.column_names.index(name), name, pc.cast(wide[name], pa.float64()))
        wide = wide.combine_chunks()  # and one thread: otherwise the last bits of sums differ between runs
        for by in BREAKDOWNS:
            keys = ["layer", "head"] if by == "head" else [by]
            spread = ("loss", "stddev", pc.VarianceOptions(ddof=0))
            groups = wide.group_by(["encoder", *keys], use_threads=False).aggregate(
                [("loss", "count"), ("loss", "mean"), spread, ("divergence", "mean")]
            )
            for row in groups.sort_by([(key, "ascending") for key in ("encoder", *keys)]).to_pylist():
                known = "unknown" if row.get(by) is None else str(row[by])
                value = head_name(row["layer"], row["head"]) if by == "head" else known
                of = (row["loss_count"], row["loss_mean"], row["loss_stddev"], row["divergence_mean"])
                rows.append((row["encoder"], lm, by, value, *of))
    header = ("encoder", "lm", "by", "value", "patterns", "mean loss", "s.d.", "mean divergence")
    return Table(name="losses_by", header=header, rows=tuple(rows))
