"""The table and the figures of the decoder study, from the lines that ``experiments/study.py train`` wrote.

    python experiments/study_figures.py WORK/results.jsonl [--out docs/images]

Prints Markdown: one row per variant, means over seeds, and the same for mean-pooled embeddings. Draws held-out loss
against compute (``study-loss.png``) and every measure of every run (``study-measures.png``).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from apmae.report.palette import cluster_color

Line = dict[str, Any]
MEASURES = {
    "layer": "layer",
    "head": "head within layer",
    "class": "pattern class",
    "rand": "planted, ARI",
    "coverage": "planted, coverage",
    "outcome": "outcome, AUROC",
}
_INK, _MEAN = cluster_color(0), cluster_color(1)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, for several values, s.d. over seeds."""
    text = f"{np.mean(values):.{digits}f}"
    return text + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def table(runs: dict[str, list[Line]], way: str) -> str:
    """One row per variant; ``way`` is "cls" or "mean"."""
    rows = [
        f"| variant | seeds | steps | loss x 1000 | {' | '.join(MEASURES.values())} |",
        f"|---|---|---|---|{'---|' * len(MEASURES)}",
    ]
    for name, lines in runs.items():
        if way not in lines[0]:
            continue
        shown = [str(len(lines)), str(lines[0].get("steps", "-")), spread([1000 * line["loss"] for line in lines], 2)]
        shown += [spread([line[way][measure] for line in lines]) for measure in MEASURES]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(rows)


def known(lines: Sequence[Line]) -> str:
    """What needs no encoder."""
    found = next(line["known"] for line in lines if "known" in line)
    most = f"the most frequent of {found['classes']} classes {found['class']:.3f}"
    sure = f"maximal probability {found['outcome_max_probability']:.3f}, entropy {found['outcome_entropy']:.3f}"
    return (
        f"{found['patterns']} patterns of {found['prompts']} held-out prompts. Without an encoder: layer "
        f"{found['layer']:.3f}, head {found['head']:.3f}, {most}; outcome from the model's {sure}."
    )


def draw_loss(runs: dict[str, list[Line]], path: Path) -> None:
    """Held-out loss during training against compute; each line is one seed."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    trained = {name: lines for name, lines in runs.items() if "curve" in lines[0]}
    for number, (name, lines) in enumerate(trained.items()):
        for i, line in enumerate(lines):
            spent, loss = zip(*line["curve"], strict=True)
            label = name if i == 0 else None
            axes.plot(spent, loss, color=cluster_color(number), lw=1.4, ls="-" if number < 7 else "--", label=label)
    axes.set(yscale="log", xlabel="compute, TFLOP", ylabel="held-out loss, half hidden")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_measures(runs: dict[str, list[Line]], path: Path) -> None:
    """Every measure of every run, for CLS and for mean-pooled embeddings."""
    figure, panels = plt.subplots(
        1, 1 + len(MEASURES), figsize=(13, 0.6 + 0.3 * len(runs)), sharey=True, layout="constrained"
    )
    for place, lines in enumerate(runs.values()):
        trained = "curve" in lines[0]
        if trained:
            panels[0].plot([1000 * line["loss"] for line in lines], [place] * len(lines), "o", color=_INK, ms=5)
        for panel, measure in zip(panels[1:], MEASURES, strict=True):
            for way, color, shift in (("cls", _INK, -0.13), ("mean", _MEAN, 0.13)):
                values = [line[way][measure] for line in lines if way in line]
                panel.plot(values, [place + shift] * len(values), "o", color=color, ms=5)
    for panel, title in zip(panels, ("loss x 1000", *MEASURES.values()), strict=True):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", color="#eeeeee")
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(runs)), list(runs))
    panels[0].set_ylim(len(runs) - 0.5, -0.5)
    for way, color in (("CLS", _INK), ("mean of the patches' tokens", _MEAN)):
        panels[-1].plot([], [], "o", color=color, ms=5, label=way)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    matplotlib.use("agg")
    lines: list[Line] = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    runs: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: (line["variant"] in ("untrained", "pixels"), line["seed"])):
        runs.setdefault(line["variant"], []).append(line)
    print(known(lines), table(runs, "cls"), "Mean-pooled:", table(runs, "mean"), sep="\n\n")
    draw_loss(runs, arguments.out / "study-loss.png")
    draw_measures(runs, arguments.out / "study-measures.png")


if __name__ == "__main__":
    main()
