"""Do incorrect prompts look like another task? The paper's conjecture (section 6.2), against chance.

To the task of a prompt, a location is another's own if it occurs in that one's correct prompts and in no third task's,
and in at least twice as large a share of that one's prompts as of the own task's. That is read from half of the files
and looked for in the prompts of the other half; then the halves swap. So neither a prompt nor the outcomes of its task,
which are permuted, help to say what is own.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.database import columns_of
from apmae.analyze.occurrence import Prompts
from apmae.analyze.resampling import null_of, permuted_outcomes
from apmae.seeding import generator

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Foreign(NamedTuple):
    """How much of a task's prompts is another task's own."""

    task: str
    correct: int
    """Correct prompts with a location."""
    incorrect: int
    share_correct: float
    """Mean share of a correct prompt's locations that are another task's own."""
    share_incorrect: float
    null: float
    """Mean of the difference, incorrect less correct, with outcomes permuted within the task."""
    null_sd: float
    p: float
    """How often the difference is as far from that there."""


def halves(prompts: Prompts, seed: int) -> Int[ndarray, " p"]:
    """The half, 0 or 1, of each prompt; prompts of one file are in the same."""
    files = int(prompts.file.max(initial=-1)) + 1
    return (generator(seed, "halves").permutation(files) % 2)[prompts.file]


def foreign_shares(found: "DuckDBPyConnection", prompts: Prompts, half: Int[ndarray, " p"]) -> Float[ndarray, " p"]:
    """Share of each prompt's locations that are another task's own; NaN for a prompt without locations.

    Args:
        found: ``occurrence.opened``.
        prompts: task, file and outcome of each.
        half: of each, from :func:`halves`.
    """
    table = pa.table({"prompt": prompts.number, "half": half, "right_": prompts.correct, "number": prompts.task})
    found.register("halved", table)
    rows = columns_of(
        found,
        """WITH seen AS (SELECT prompt, number, half, right_, location FROM known JOIN halved USING (prompt)),
                asked AS (SELECT half, number, count(*) AS prompts FROM halved GROUP BY half, number),
                rates AS (SELECT half, location, number, count(*) / any_value(prompts) AS rate,
                                 bool_or(right_) AS right_
                          FROM seen JOIN asked USING (half, number) GROUP BY half, location, number),
                own AS (SELECT half, location, count(*) AS tasks, sum(rate) AS rate FROM rates WHERE right_
                        GROUP BY half, location)
           SELECT seen.prompt AS prompt, count(*) AS locations, count(*) FILTER (
                      CASE WHEN coalesce(mine.right_, false) THEN own.tasks = 2 AND own.rate >= 3 * mine.rate
                           ELSE own.tasks = 1 AND own.rate >= 2 * coalesce(mine.rate, 0) END) AS other
           FROM seen LEFT JOIN own ON own.location = seen.location AND own.half <> seen.half
                LEFT JOIN rates AS mine ON mine.location = seen.location AND mine.half <> seen.half
                    AND mine.number = seen.number
           GROUP BY seen.prompt""",
    )
    shares = np.full(len(prompts.number), np.nan)
    shares[np.searchsorted(prompts.number, rows["prompt"])] = rows["other"] / rows["locations"]
    found.unregister("halved")
    return shares


def foreign_of(
    shares: Float[ndarray, " p"],
    prompts: Prompts,
    half: Int[ndarray, " p"],
    permutations: int,
    seed: int,
    *,
    strata: Int[ndarray, " p"] | None = None,
) -> list[Foreign]:
    """The conjecture for each task with both outcomes.

    Args:
        shares: from :func:`foreign_shares`.
        prompts: task, file and outcome of each.
        half: of each. Outcomes are swapped within a half, because what is own was read from the other one's.
        permutations: how many.
        seed: for the permutations.
        strata: numbers; outcomes are swapped within each. None: within each task.
    """
    known, tasks = ~np.isnan(shares), len(prompts.tasks)
    counted = np.where(known, shares, 0.0)

    def difference(right: Bool[ndarray, "p r"]) -> Float[ndarray, "t r"]:
        found = []
        for of in (~right & known[:, None], right & known[:, None]):
            weights = [(of[prompts.task == task], counted[prompts.task == task]) for task in range(tasks)]
            found.append([own.T @ values / np.maximum(own.sum(0), 1) for own, values in weights])
        return np.array(found[0]) - np.array(found[1])

    within = prompts._replace(task=2 * (prompts.task if strata is None else strata) + half)
    null = np.concatenate([difference(right) for right in permuted_outcomes(within, permutations, seed)], axis=1)
    rows = []
    for task, name in enumerate(prompts.tasks):
        right, wrong = (known & (prompts.task == task) & (prompts.correct == outcome) for outcome in (True, False))
        if right.any() and wrong.any():
            shown = float(shares[right].mean()), float(shares[wrong].mean())
            rows.append(
                Foreign(name, int(right.sum()), int(wrong.sum()), *shown, *null_of(shown[1] - shown[0], null[task]))
            )
    return rows
