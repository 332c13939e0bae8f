"""What chance alone would give: outcomes permuted within tasks, files drawn again, fewer prompts.

Axes: p prompts, f files, k pairs of a task and a location, r permutations or resamples.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import gammaln

from apmae.analyze.occurrence import Occurrences, Prompts
from apmae.seeding import generator

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
    found: Occurrences,
    files: Int[ndarray, " m"],
    pairs: Int[ndarray, " m"],
    many: int,
    resamples: int,
    seed: int,
) -> Float[ndarray, "t 2"]:
    """Standard errors of the numbers of locations and of unique ones, of each task: files drawn anew with replacement.

    Resamples see fewer files, so their counts are too low; their spread is what is of use.

    Args:
        found: counted locations.
        files: file of each occurrence of a pair in a file.
        pairs: number of the pair.
        many: files of the study, those without any location too.
        resamples: how many.
        seed: for the draws.
    """
    from scipy.sparse import csr_matrix

    seen = csr_matrix((np.ones(len(files), np.float32), (pairs, files)), (len(found.task), many))
    where = csr_matrix(
        (np.ones(len(found.task), np.float32), (found.location, np.arange(len(found.task)))),
        (len(found.places), len(found.task)),
    )
    tasks = len(found.tasks)
    of_task = csr_matrix(
        (np.ones(len(found.task), np.float32), (found.task, np.arange(len(found.task)))), (tasks, len(found.task))
    )
    counts = []
    for begin in range(0, resamples, _BLOCK):
        drawn = [generator(seed, "files", number) for number in range(begin, min(begin + _BLOCK, resamples))]
        weights = np.stack([np.bincount(draw.integers(many, size=many), minlength=many) for draw in drawn], axis=1)
        there = np.asarray(seen @ weights.astype(np.float32)) > 0
        alone = np.asarray(where @ there.astype(np.float32))[found.location] == 1
        counts.append(np.stack([of_task @ there.astype(np.float32), of_task @ (there & alone).astype(np.float32)], -1))
    return np.concatenate(counts, axis=1).std(axis=1)
