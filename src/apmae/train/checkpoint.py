"""Checkpoints: weights, optimizer state, step and sources in one safetensors file, replaced atomically. Never pickled.

The settings of the run are stored with them as JSON, so that a run never resumes from another run's weights.

For each pattern in the buffer a checkpoint stores only its forward and row (16 bytes); resuming captures the patterns
again. Storing the patterns would make a checkpoint 20 times as large, and each would take the time of 1.6 to 1.9 steps.
Capturing again takes the time of 56 to 84 steps, once (174 forwards, because only single patterns are left of old
forwards). Over a recipe's 40 checkpoints that is the same time with one kill, less without, and 0.3 to 1.2 GB less disk
space (``benchmarks/training.py``, small, after 200 steps).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from apmae.artifacts import write_through
from apmae.errors import ArtifactError

NAME = "checkpoint.safetensors"


class State(NamedTuple):
    """Everything that training changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None
    """The running average of the weights, if one is kept."""


def save(
    folder: Path, step: int, state: State, run: Mapping[str, Any], sources: Sequence[Mapping[str, ndarray]] = ()
) -> None:
    """Write the state of a run after ``step`` finished steps.

    Args:
        folder: where to write; created if missing.
        step: how many steps are finished.
        state: model and optimizer.
        run: settings of the run, as JSON values.
        sources: the state of each process's source (``ResumableSource.state``).

    Raises:
        ArtifactError: if it cannot be written, for instance because the disk is full; the previous checkpoint stays.
    """
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    if state.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    for process, source in enumerate(sources):
        tensors |= {f"source.{process}.{name}": torch.from_numpy(array) for name, array in source.items()}
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: safetensors writes several in no fixed order, and equal runs should give equal bytes.
    metadata = {"apmae": json.dumps({"step": step, "run": run, "sources": len(sources)}, sort_keys=True)}
    write_through(folder / NAME, lambda path: save_file(cpu, path, metadata=metadata))


def load(folder: Path, state: State, run: Mapping[str, Any]) -> tuple[int, list[dict[str, ndarray]]]:
    """Restore a run.

    Returns:
        How many steps were finished, 0 if there is no checkpoint, and the state of each process's source.

    Raises:
        ArtifactError: if the checkpoint is damaged or belongs to another run; names what differs.
    """
    path = folder / NAME
    if not path.is_file():
        return 0, []
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads(file.metadata()["apmae"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        found, wanted = head["run"], json.loads(json.dumps(run))
        if found != wanted:
            names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            changes = "; ".join(f"{name}: {found.get(name)!r}, now {wanted.get(name)!r}" for name in names)
            raise ValueError(f"it belongs to another run ({changes})")
        state.model.load_state_dict(_below("model", tensors))
        if state.average is not None:
            state.average.load_state_dict(_below("average", tensors))
        values: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer", tensors).items():
            number, key = name.split(".")
            values.setdefault(int(number), {})[key] = value
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": values, "param_groups": groups})
        sources = [
            {name: value.numpy() for name, value in _below(f"source.{process}", tensors).items()}
            for process in range(head["sources"])
        ]
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:400]
        raise ArtifactError(f"cannot resume from {path}: {reason}; delete it to train from the start") from None
    return head["step"], sources


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
