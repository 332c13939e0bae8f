"""Checkpoints: weights, optimizer state, step and source in one safetensors file, replaced atomically. Never pickled.

What the run was started with is kept beside them as JSON, so that a run never goes on from another one's weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from apmae.artifacts import write_through
from apmae.errors import ArtifactError

NAME = "checkpoint.safetensors"


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: Mapping[str, Any],
    source: Mapping[str, ndarray] | None = None,
) -> None:
    """Write the state after ``step`` finished steps of a run, described by JSON values.

    Args:
        folder: where to; made if missing.
        step: how many steps are finished.
        model: its weights are kept.
        optimizer: and its state.
        run: what the run was started with.
        source: the state of where patterns come from (``ResumableSource.state``).
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {f"source.{name}": torch.from_numpy(array) for name, array in (source or {}).items()}
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: safetensors writes several in no fixed order, and equal runs should be equal bytes.
    metadata = {"apmae": json.dumps({"step": step, "run": run}, sort_keys=True)}
    write_through(folder / NAME, lambda path: save_file(cpu, path, metadata=metadata))


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: Mapping[str, Any]
) -> tuple[int, dict[str, ndarray]]:
    """Restore a run.

    Returns:
        How many steps were finished, 0 if there is no checkpoint; and the state of its source.

    Raises:
        ArtifactError: if the checkpoint is damaged or of another run; names what differs.
    """
    path = folder / NAME
    if not path.is_file():
        return 0, {}
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads(file.metadata()["apmae"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        found, wanted = head["run"], json.loads(json.dumps(run))
        if found != wanted:
            names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            changes = "; ".join(f"{name}: {found.get(name)!r}, now {wanted.get(name)!r}" for name in names)
            raise ValueError(f"it is of another run ({changes})")
        model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:400]
        raise ArtifactError(f"cannot resume from {path}: {reason}; delete it to train from the start") from None
    source = {name[7:]: value.numpy() for name, value in tensors.items() if name.startswith("source.")}
    return head["step"], source
