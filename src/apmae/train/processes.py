"""The processes of a run: one, or as many as ``torchrun`` started, on one machine or several (Accelerate).

Of Accelerate we use starting processes, parallel wrapping, ``no_sync``, reducing, gathering and trackers. Not its mixed
precision, which patches the model's forward for good and is fixed for the whole process by the first call; autocast is
one line. Its state is reset only where a run is on another kind of device than the one before. One process wraps
nothing. What crosses between processes is pickled by torch among themselves; nothing on disk is.
"""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed

from apmae.config import device_kind
from apmae.errors import ConfigError, TrainingError
from apmae.train.launch import expect_tracker, process_count

T = TypeVar("T")

_DRAWING = timedelta(days=1)
"""How long the others wait while the first process reads a corpus; for all else torch's own limits hold."""


def start(device: str = "cpu", *, track: str | None = None, folder: Path | None = None) -> Accelerator:
    """Join the processes of this run. Whoever starts them ends them, by ``end_training()``.

    Args:
        device: where to train; "cuda" is each process's own GPU, "auto" a GPU if there is one.
        track: what else gets the metrics: "trackio", "wandb", or another tracker that Accelerate knows.
        folder: where trackers that write files put them.

    Raises:
        ConfigError: if there is no such device, or that tracker is unknown or not installed.
    """
    cpu = _is_cpu(device)
    expect_tracker(track)
    if process_count() > 1:
        if ":" in device:
            raise ConfigError(f"expected cpu, cuda or auto with several processes, each its own GPU, got {device!r}")
    elif AcceleratorState._shared_state and (AcceleratorState().device.type == "cpu") != cpu:
        # Accelerate keeps the first run's device for the whole process: this run is on another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=cpu,
        # Precision is the loop's own business: Accelerate would patch the model's forward for good.
        mixed_precision=None if AcceleratorState._shared_state else "no",
        log_with=track,
        project_dir=folder,
    )


def waited_for(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Let the first process do something long, for the others too.

    Returns:
        Its value, in every process.
    """
    if accelerator.num_processes == 1:
        return work()
    patient = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=_DRAWING))
    values = [work() if accelerator.is_main_process else None]
    distributed.broadcast_object_list(values, src=0, group=patient)
    distributed.destroy_process_group(patient)
    return cast(T, values[0])


def device_of(accelerator: Accelerator, device: str) -> str:
    """Where this process computes: the device asked for, of several processes each its own GPU."""
    return str(accelerator.device) if accelerator.num_processes > 1 or device == "auto" else device


def _is_cpu(device: str) -> bool:
    kind = device_kind(device)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"expected a device that this machine has, got {device!r} and no GPU; take --device cpu")
    return kind == "cpu"


def told(accelerator: Accelerator, value: T | None) -> T:
    """The first process's value, in every process; the others pass None."""
    return cast(T, value if accelerator.num_processes == 1 else broadcast_object_list([value])[0])


def gathered(accelerator: Accelerator, value: T) -> list[T]:
    """Every process's value, in order, in every process."""
    return [value] if accelerator.num_processes == 1 else gather_object([value])


def expect_agreement(accelerator: Accelerator, run: Mapping[str, Any]) -> None:
    """Stop if processes were started with different things: each would train on and none would say why.

    Raises:
        TrainingError: names the first process that differs, and in what.
    """
    every = [json.loads(text) for text in gathered(accelerator, json.dumps(run))]
    for number, other in enumerate(every):
        differing = sorted(name for name in {*every[0], *other} if every[0].get(name) != other.get(name))
        if differing:
            name = differing[0]
            raise TrainingError(
                f"expected the same run in every process, process {number} has {name} {other.get(name)!r} where "
                f"process 0 has {every[0].get(name)!r}; start all with the same command, files and versions, and a "
                "folder that all of them see"
            )
