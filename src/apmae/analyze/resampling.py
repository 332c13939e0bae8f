"""What chance alone would give: outcomes permuted within tasks, other files, fewer prompts, tasks that say nothing.

Axes: p prompts, f files, k pairs of a task and a location, r permutations.
"""

from collections.abc import Iterator
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import gammaln

from apmae.analyze.occurrence import Occurrences, Prompts
from apmae.seeding import generator

LEVEL = 0.05
"""What is said to differ from chance does so at this level, Holm's correction over all tests of its kind."""
_BLOCK = 50
"""Permutations at a time."""


def permuted_outcomes(prompts: Prompts, count: int, seed: int) -> Iterator[Bool[ndarray, "p r"]]:
    """Outcomes shuffled within each task, files kept together, a block of permutations at a time.

    A task's files with equally many prompts swap all their outcomes, so prompts of one file stay as alike as they are.
    A file whose number of prompts no other file has keeps its own: then chance looks more like what was found.

    Args:
        prompts: task, file and outcome of each.
        count: permutations in all.
        seed: for the draws.
    """
    classes = _exchangeable(prompts)
    for begin in range(0, count, _BLOCK):
        found = np.repeat(prompts.correct[:, None], min(_BLOCK, count - begin), axis=1)
        for number in range(found.shape[1]):
            draw = generator(seed, "outcomes", begin + number)
            for rows in classes:
                found[rows, number] = prompts.correct[rows[draw.permutation(len(rows))]]
        yield found


def movable(prompts: Prompts) -> Float[ndarray, " t"]:
    """Share of each task's prompts whose outcomes can be swapped with another file's."""
    moved = np.zeros(len(prompts.task), bool)
    for rows in _exchangeable(prompts):
        moved[rows.ravel()] = True
    tasks = len(prompts.tasks)
    return np.bincount(prompts.task, moved, tasks) / np.maximum(np.bincount(prompts.task, minlength=tasks), 1)


def _exchangeable(prompts: Prompts) -> list[Int[ndarray, "f m"]]:
    """Prompts by task and by how many of the task's are of the same file: one row for each file, at least two."""
    order = np.lexsort((prompts.number, prompts.file, prompts.task))
    pairs = np.stack([prompts.task[order], prompts.file[order]], axis=1)
    begins = np.flatnonzero(np.r_[True, (np.diff(pairs, axis=0) != 0).any(1)]) if len(order) else np.zeros(0, int)
    sizes = np.diff(np.r_[begins, len(order)])
    found = []
    for task, size in sorted({*zip(pairs[begins, 0].tolist(), sizes.tolist(), strict=True)}):
        own = begins[(pairs[begins, 0] == task) & (sizes == size)]
        if len(own) > 1:
            found.append(order[own[:, None] + np.arange(size)])
    return found


def enough(permutations: int, tests: int) -> int:
    """Permutations with which each of some tests can stand after Holm's correction, at least the given number."""
    return max(permutations, ceil(tests / LEVEL))


def null_of(observed: float, permuted: Float[ndarray, " r"]) -> tuple[float, float, float]:
    """Mean and s.d. of a figure under the null, and how often it is as far from the mean there as it was found (p)."""
    mean = float(permuted.mean())
    as_far = np.abs(permuted - mean) >= abs(observed - mean) - 1e-9
    return mean, float(permuted.std()), float((1 + as_far.sum()) / (1 + len(permuted)))


def rarefied(found: Occurrences, prompts: Int[ndarray, " t"], drawn: Int[ndarray, " t"]) -> Float[ndarray, "t 2"]:
    """Locations of each task, and unique ones, to be expected if fewer prompts of each task had been seen.

    Each task's prompts are drawn without replacement (Hurlbert 1971, equation for the expected number of species; here
    prompts are the samples, Colwell et al. 2012). Tasks are drawn apart, so the chances that a location is in one and
    in none of the others multiply.

    Args:
        found: counted locations.
        prompts: of each task.
        drawn: how many of them are seen.
    """
    total, seen = prompts[found.task], drawn[found.task]
    left = total - found.seen  # prompts of the task without the location
    absent = np.where(left >= seen, np.exp(_log_choose(left, seen) - _log_choose(total, seen)), 0.0)
    nowhere = np.zeros(len(found.places))  # log of the chance that it is in no task
    never = np.bincount(found.location, absent == 0, len(found.places))  # tasks that surely have it
    np.add.at(nowhere, found.location, np.log(np.where(absent > 0, absent, 1.0)))
    others = np.exp(nowhere[found.location] - np.log(np.where(absent > 0, absent, 1.0)))
    others[never[found.location] - (absent == 0) > 0] = 0.0
    tasks = len(prompts)
    return np.stack(
        [np.bincount(found.task, 1 - absent, tasks), np.bincount(found.task, (1 - absent) * others, tasks)], axis=1
    )


def _log_choose(n: Int[ndarray, " k"], m: Int[ndarray, " k"]) -> Float[ndarray, " k"]:
    n = np.maximum(n, m)
    return gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)


def errors_by_file(
    found: Occurrences, prompts: Prompts, files: Int[ndarray, " m"], pairs: Int[ndarray, " m"]
) -> Float[ndarray, "t 2"]:
    """Standard errors of the numbers of locations and of unique ones, of each task, if other files had been drawn.

    A jackknife over files inside each task, because how many prompts a task has is fixed (Efron and Stein 1981;
    stratified as in Jones 1974). Leaving out a file's prompts of a task takes from it the locations that are nowhere
    else in the task, and gives to another task those that only these two had. A file that several tasks have counts as
    one in each, so that what it does in them is taken to be independent.

    Args:
        found: counted locations.
        prompts: task and file of each.
        files: file of each occurrence of a pair in a file.
        pairs: number of the pair.

    Returns:
        NaN for a task of one file, and for unique ones if any task that matters to them has one.
    """
    tasks, many = len(found.tasks), int(prompts.file.max(initial=-1)) + 1
    units = np.unique(prompts.task * many + prompts.file)  # a file's prompts of a task
    stratum, sizes = units // many, np.bincount(units // many, minlength=tasks)
    alone = np.flatnonzero(np.bincount(pairs, minlength=len(found.task)) == 1)  # pairs that one file has
    of = np.full(len(found.task), -1)
    of[pairs] = files
    unit = np.searchsorted(units, found.task[alone] * many + of[alone])
    unique = found.unique
    lost = np.zeros((2, len(units), tasks))
    np.add.at(lost[0], (unit, found.task[alone]), -1.0)
    np.add.at(lost[1], (unit, found.task[alone]), -unique[alone].astype(float))
    # a location of two tasks becomes unique to the other one
    total = np.bincount(found.location, found.task, len(found.places))
    shared = np.bincount(found.location, minlength=len(found.places))[found.location[alone]] == 2
    other = (total[found.location[alone]] - found.task[alone]).astype(np.int64)
    np.add.at(lost[1], (unit[shared], other[shared]), 1.0)
    variance = np.zeros((tasks, 2))
    for task, size in enumerate(sizes):
        own = lost[:, stratum == task]
        spread = (own - own.mean(1, keepdims=True)) ** 2
        if size == 1:
            spread = np.where(own != 0, np.nan, 0.0)
        variance += ((size - 1) / max(size, 1) if size > 1 else 1.0) * spread.sum(1).T
    return np.sqrt(variance)


def unique_by_chance(
    found: Occurrences, prompts: Prompts, files: Int[ndarray, " m"], pairs: Int[ndarray, " m"]
) -> Float[ndarray, " t"]:
    """How many locations would be unique to each task if files were given tasks at random.

    What is shuffled are units, a file's prompts of one task, and each task keeps its number of units. A location that
    f of u units have is in the u_t units of a task alone with a chance of C(u_t, f) / C(u, f). Exact, no draws.

    Args:
        found: counted locations.
        prompts: task and file of each.
        files: file of each occurrence of a pair in a file.
        pairs: number of the pair.
    """
    many = int(prompts.file.max(initial=-1)) + 1
    sizes = np.bincount(np.unique(prompts.task * many + prompts.file) // max(many, 1), minlength=len(found.tasks))
    seen, often = np.unique(np.bincount(found.location[pairs], minlength=len(found.places)), return_counts=True)
    total = np.full(len(seen), sizes.sum())
    chances = [
        np.where(seen <= size, np.exp(_log_choose(np.full(len(seen), size), seen) - _log_choose(total, seen)), 0.0)
        for size in sizes
    ]
    return np.array([(often * own).sum() for own in chances])
