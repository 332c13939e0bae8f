"""How often intervals of heads that tell nothing exclude 0.5, and why: several corrections, on the same noise.

python experiments/null_heads.py [--runs 200] [--trees] [--signal 0.5]

Each run draws prompts of files, outcomes and columns of noise. They are predicted as `apmae predict` does, setting and
columns chosen within the fitting files. Beside the plain interval over files stand: that of one fold
alone, whose models have seen none of the outcomes it is judged on and judge none of the others; the corrected resampled
variance (Nadeau and Bengio 2003), which widens the interval by sqrt(1 + k * tested / fitted) for k folds; and the mean
of several ways to divide files into folds. With a signal, one column tells the outcome, and the truth is what
models fitted on as many files say of 4 000 other prompts, on average.
"""

import argparse

import numpy as np
from numpy import ndarray

from apmae.analyze.columns import Columns
from apmae.analyze.fitting import LOGISTIC, TREES, choose, fit_at, stronger
from apmae.analyze.folds import folds_of
from apmae.analyze.judging import file_weights, interval, refitting, stratified_auroc, widened
from apmae.analyze.sparse_logistic import sigmoid
from apmae.seeding import generator

FILES, EACH, COLUMNS, MOST, FOLDS, PARTS, RESAMPLES, FRESH, DIVISIONS = 40, 5, 240, 60, 5, 3, 300, 4000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--trees", action="store_true")
    parser.add_argument("--signal", type=float, default=0.0)
    asked = parser.parse_args()
    models = (LOGISTIC, TREES["histogram"]) if asked.trees else (LOGISTIC,)
    found = [_run(seed, models, asked.signal) for seed in range(asked.runs)]
    truth = 0.5 if not asked.signal else float(np.mean([one["fresh"][0] for one in found]))
    print(f"truth {truth:.4f}")
    for name in found[0]:
        own = np.array([one[name] for one in found])
        if name == "fresh":
            continue
        outside = np.mean((own[:, 1] > truth) | (own[:, 2] < truth))
        above, width = np.mean(own[:, 1] > truth), np.mean(own[:, 2] - own[:, 1])
        print(
            f"{name:28} outside {outside:.3f}  above {above:.3f}  mean {own[:, 0].mean():.4f}  "
            f"s.d. {own[:, 0].std(ddof=1):.4f}  half width / 1.96 {width / 2 / 1.96:.4f}"
        )


def _run(seed: int, models: tuple[str, ...], signal: float) -> dict[str, tuple[float, float, float]]:
    """AUROC with its interval, by how that is made."""
    draw, count = generator(seed, "null heads"), FILES * EACH
    group = np.repeat(np.arange(FILES), EACH)
    more = FRESH if signal else 0
    heads = draw.normal(size=(count + more, COLUMNS))
    correct = draw.random(count + more) < sigmoid(signal * heads[:, 0])
    weights = np.column_stack([np.ones(count), file_weights(group, RESAMPLES, seed)])
    each, fresh = [], np.nan
    for division in range(DIVISIONS):
        fold = folds_of(group, np.zeros(count, np.int64), FOLDS, seed, "division", division)
        decision = np.zeros(count)
        others = []
        for number in range(FOLDS):
            fit = np.append(fold != number, np.zeros(more, bool))
            said = _decisions(heads, correct, fit, group, models, seed)
            decision[fold == number] = said[:count][fold == number]
            if signal:
                new = np.zeros(more, np.int64)
                others.append(stratified_auroc(said[count:], correct[count:], new)[0])
        each.append((stratified_auroc(decision, correct[:count], fold, weights), decision, fold))
        fresh = float(np.mean(others)) if division == 0 and signal else fresh
    pooled, decision, fold = each[0]
    one = fold == 0
    alone = stratified_auroc(decision[one], correct[:count][one], fold[one], weights[one])
    divided = np.mean([values for values, *_ in each], axis=0)
    return {
        "files drawn anew": (pooled[0], *interval(pooled[1:])),
        "one fold alone": (alone[0], *interval(alone[1:])),
        f"mean of {DIVISIONS} divisions": (divided[0], *interval(divided[1:])),
        "corrected resampled": (pooled[0], *widened(pooled, refitting(FOLDS))),
        "fresh": (fresh, fresh, fresh),
    }


def _decisions(
    heads: ndarray, correct: ndarray, fit: ndarray, group: ndarray, models: tuple[str, ...], seed: int
) -> ndarray:
    part = np.full(len(fit), -1)
    part[fit] = folds_of(group[fit[: len(group)]], np.zeros(fit.sum(), np.int64), PARTS, seed, "choice")
    columns = Columns(None, heads)
    choice = stronger(choose(models, lambda _: columns, correct, fit, part, MOST, "platt"))
    return fit_at(choice, lambda _: columns, correct, fit, MOST)


if __name__ == "__main__":
    main()
