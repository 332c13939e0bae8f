"""What is measured during training: the lines of ``metrics.jsonl``, which a tracker may get too."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from torch import Tensor

from apmae.artifacts import replacing
from apmae.errors import ArtifactError
from apmae.train.processes import gathered

METRICS = "metrics.jsonl"
LOSSES = ("loss", "published_loss", "contrast", "description")
"""The autoencoder's loss, that of the published code, and the two of guided training (``train/objectives.py``)."""


class Metrics:
    """The log of a run, written during training. Every process calls it; only the first one writes.

    Args:
        folder: where ``metrics.jsonl`` goes; its lines of earlier steps stay. None writes no file.
        accelerator: that of the run; its tracker also gets the patterns per second.
        step: the next step.
        run: settings of the run, for the tracker.
    """

    def __init__(self, folder: Path | None, accelerator: Accelerator, step: int, run: Mapping[str, Any]) -> None:
        self._path = None if folder is None else folder / METRICS
        self._accelerator, self._batch = accelerator, run["batch_size"]
        if self._path is not None:
            kept = _lines_until(self._path, step) if step else []
            with replacing(self._path) as file:
                file.write("".join(kept).encode())
        self._last, self._since = step, time.monotonic()
        if accelerator.log_with:
            accelerator.init_trackers("apmae", config={name: str(value) for name, value in run.items()})

    def log(self, step: int, losses: Tensor, lr: float, norm: Tensor, counts: Mapping[str, int]) -> dict[str, Any]:
        """Note a step.

        Args:
            step: counted from 0.
            losses: this process's part of each of :data:`LOSSES`; of the first two only, if training is not guided.
            lr: learning rate.
            norm: norm of the gradient.
            counts: those of this process's source; all but the epoch are added up over the processes.

        Returns:
            The line as a dictionary.
        """
        total = cast(Tensor, self._accelerator.reduce(losses, "sum")).tolist()
        line = {
            "step": step,
            **{name: round(value, 8) for name, value in zip(LOSSES, total, strict=False)},
            "lr": lr,
            "grad_norm": round(norm.item(), 6),
            **summed(gathered(self._accelerator, dict(counts))),
        }
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
        if self._accelerator.log_with:
            now = time.monotonic()
            # Not in the file, so that equal runs give equal bytes.
            rate = (step + 1 - self._last) * self._batch / max(now - self._since, 1e-9)
            self._last, self._since = step + 1, now
            self._accelerator.log({**line, "patterns_per_second": rate}, step=step)
        return line


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of earlier steps, without a last line that a kill cut short."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [line for line in lines if json.loads(line)["step"] < step]
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"expected the log of this run in {path}, found other lines; delete the folder to train from the start"
        ) from None


def summed(counts: list[dict[str, int]]) -> dict[str, int]:
    """The counts of all processes' sources together: the latest epoch, and the sum of everything else."""
    return {name: (max if name == "epoch" else sum)(own[name] for own in counts) for name in counts[0]}
