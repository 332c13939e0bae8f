"""The published claim: accuracy rises if heads that are important for incorrect answers are removed selectively.

    python experiments/ablation.py PROMPTS ANSWERS

ANSWERS is what ``apmae answers`` read of the prompts. On the half of the files that ranks heads in ``apmae ablate`` (of
the same prompts, window and seed) a sparse logistic regression predicts incorrect answers from the entropy
of each head's row at the completion position; a head's importance is its coefficient. The heads most important for
incorrect answers are then removed on the measuring half, zeroed as in the published notebook, beside random heads, and
random heads of the same layers. Prints a line per set.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from apmae.ablation import Windows, removals_of, removed_shard
from apmae.analyze.effects import halve
from apmae.analyze.jackknife import weighted, with_draws
from apmae.analyze.rankings import sets_of
from apmae.artifacts import cut, read_manifest, read_table, read_tables
from apmae.config import AblateConfig
from apmae.engine.prompts import load_prompts
from apmae.lm.load import load_lm
from apmae.lm.outcome import window_of

DOSES, MODES = (4, 8), ("zero",)


def importance_of(answers: Path, correct: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Coefficient of each head for incorrect answers, fitted on the ranking half."""
    heads = read_tables(answers, "answers", "heads", ["prompt", "row_entropy"])
    entropy = heads["row_entropy"].to_numpy().reshape(len(correct), -1)
    scaled = StandardScaler().fit(entropy[ranks]).transform(entropy)
    fitted = LogisticRegression(l1_ratio=1, solver="liblinear", C=0.1, random_state=0).fit(
        scaled[ranks], ~correct[ranks]
    )
    score = roc_auc_score(~correct[~ranks], fitted.decision_function(scaled[~ranks]))
    kept = int((fitted.coef_ != 0).sum())
    print(f"{kept} heads have a coefficient, {int((fitted.coef_ > 0).sum())} of them for incorrect; AUROC {score:.3f}")
    return fitted.coef_[0]


@torch.no_grad()
def main(path: Path, answers: Path) -> None:
    """See the module."""
    config = AblateConfig(modes=MODES, context=read_manifest(answers, "answers").counts["context"])
    lm, prompts = load_lm(), load_prompts(path)
    texts = ["".join(window_of(lm, prompt, config.context or 256).tokens) for prompt in prompts]
    tasks, paths = [prompt.task for prompt in prompts], [prompt.path for prompt in prompts]
    split = halve(tasks, paths, texts, config.similar, config.seed)
    windows = Windows(lm, prompts, split.group.tolist(), config.context or 256)
    outcomes = read_tables(answers, "answers", "prompts", ["outcome"])["outcome"].to_pylist()
    correct = np.array([outcome == "correct" for outcome in outcomes])
    importance = importance_of(answers, correct, split.ranks)
    places = [(layer, head) for layer, count in lm.heads.items() for head in range(count)]
    layer = np.array([one for one, _ in places])
    order = np.argsort(-importance, kind="stable")
    chosen = [one for one in sets_of(order, importance, layer, DOSES, 3, config.seed, "incorrect")]
    chosen = [one for one in chosen if one.control != "effect"]
    sets = [(mode, [places[place] for place in one.heads]) for mode in MODES for one in chosen]
    measuring = split.measuring.tolist()
    removals = removals_of(windows, np.flatnonzero(split.ranks).tolist(), config)
    with tempfile.TemporaryDirectory() as made:
        shards = cut(len(measuring), 16, ("removed",))
        for shard in shards:
            removed_shard(
                shard,
                windows=windows,
                measuring=measuring,
                removals=removals,
                sets=sets,
                config=config,
                root=Path(made),
            )
            print(f"{shard.stop} of {len(measuring)} prompts", file=sys.stderr)
        removed = pa.concat_tables([read_table(Path(made) / shard.files[0]) for shard in shards])
    change = np.zeros((len(measuring), len(sets)))
    change[np.searchsorted(measuring, removed["prompt"].to_numpy()), removed["set"].to_numpy()] = removed["correct"]
    change -= correct[measuring][:, None]
    group = split.group[measuring]
    print(f"accuracy with all heads: {correct[measuring].mean():.3f} of {len(measuring)} prompts")
    for number, mode in enumerate(MODES):
        for dose in DOSES:
            for control in ("", "size", "layers"):
                columns = [
                    number * len(chosen) + place
                    for place, one in enumerate(chosen)
                    if one.dose == dose and one.control == control
                ]
                values = change[:, columns]
                found = with_draws(weighted(values.mean(1, keepdims=True), group), values.mean(0)[:, None])
                low, high = found.bounds()
                name = f"{mode:5} {dose:3} {control or 'important for incorrect':24}"
                print(f"{name} {found.value[0]:+.3f} [{low[0]:+.3f}, {high[0]:+.3f}]")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
