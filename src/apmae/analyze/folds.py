"""Parts of the prompts that share no file, alike in task.

Axes: n prompts.
"""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.seeding import generator


def folds_of(
    group: Int[ndarray, " n"], stratum: Int[ndarray, " n"], count: int, seed: int, *names: object
) -> Int[ndarray, " n"]:
    """The fold of each prompt, from 0. Prompts of one group are in one fold.

    Groups go one at a time, the largest first and those of equal size at random, to the fold that has fewest prompts of
    the group's strata. Outcomes should not be strata: folds that are alike in outcome give away each other's shares.

    Args:
        group: what stays together.
        stratum: what folds should have alike, such as the task.
        count: folds; fewer come out if there are fewer groups.
        seed: for the order.
        names: the purpose of the draw.
    """
    found, own = np.unique(group, return_inverse=True)
    _, kind = np.unique(stratum, return_inverse=True)
    counts = np.zeros((len(found), int(kind.max(initial=-1)) + 1))
    np.add.at(counts, (own, kind), 1)
    order = generator(seed, "folds", *names).permutation(len(found))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    count = min(count, len(found))
    held, fold = np.zeros((count, counts.shape[1])), np.zeros(len(found), np.int64)
    for number in order:
        # the rise of the sum of squares if the group came to a fold: 2 held . counts, and the same for all sizes
        rise = held @ counts[number] + 1e-3 * held.sum(1)
        fold[number] = int(np.argmin(rise))
        held[fold[number]] += counts[number]
    return fold[own]
