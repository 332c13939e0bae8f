"""The processes of a run: one, or as many as ``torchrun`` started, on one machine or several (Accelerate).

We use Accelerate to start processes, wrap the model, ``no_sync``, reduce, gather and track. We do not use its mixed
precision, which patches the model's forward for good, and which the first call fixes for the whole process; autocast is
one line. Its state is reset only if a run uses another kind of device than the previous one. With one process nothing
is wrapped. torch pickles what processes send each other; nothing on disk is pickled.
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

_LONGEST_WAIT = timedelta(days=1)
"""How long other processes wait while the first one reads a corpus; otherwise torch's own limits hold."""


def start(device: str = "cpu", *, track: str | None = None, folder: Path | None = None) -> Accelerator:
    """Join the processes of this run. The caller ends them with :func:`end`.

    Args:
        device: where to train; "cuda" is a separate GPU for each process, "auto" a GPU if there is one.
        track: a tracker that gets the metrics too: "trackio", "wandb", or another tracker that Accelerate knows.
        folder: where trackers put their files.

    Raises:
        ConfigError: if there is no such device, or that tracker is unknown or not installed.
    """
    cpu = _is_cpu(device)
    expect_tracker(track)
    if process_count() > 1:
        if ":" in device:
            raise ConfigError(f"expected cpu, cuda or auto with several processes, each its own GPU, got {device!r}")
    elif AcceleratorState._shared_state and (AcceleratorState().device.type == "cpu") != cpu:
        # Accelerate keeps the first run's device for the whole process, but this run uses another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=cpu,
        # The loop sets precision itself: Accelerate would patch the model's forward for good.
        mixed_precision=None if AcceleratorState._shared_state else "no",
        log_with=track,
        project_dir=folder,
    )


def end(accelerator: Accelerator) -> None:
    """Leave the processes of this run, all at once: one that left early while another still wrote sometimes aborted in
    gloo, and torchrun then stopped the others.
    """
    accelerator.wait_for_everyone()
    accelerator.end_training()


def run_on_first_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Let the first process do some long work, while the others wait.

    Returns:
        The result, in every process.
    """
    if accelerator.num_processes == 1:
        return work()
    patient = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT))
    values = [work() if accelerator.is_main_process else None]
    distributed.broadcast_object_list(values, src=0, group=patient)
    distributed.destroy_process_group(patient)
    return cast(T, values[0])


def device_of(accelerator: Accelerator, device: str) -> str:
    """The device of this process: the one asked for, or its own GPU if there are several processes."""
    return str(accelerator.device) if accelerator.num_processes > 1 or device == "auto" else device


def _is_cpu(device: str) -> bool:
    kind = device_kind(device)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"expected a device that this machine has, got {device!r} and no GPU; take --device cpu")
    return kind == "cpu"


def from_first_process(accelerator: Accelerator, value: T | None) -> T:
    """The first process's value, in every process; the others pass None."""
    return cast(T, value if accelerator.num_processes == 1 else broadcast_object_list([value])[0])


def gathered(accelerator: Accelerator, value: T) -> list[T]:
    """The values of all processes, in order, in every process."""
    return [value] if accelerator.num_processes == 1 else gather_object([value])


def expect_agreement(accelerator: Accelerator, run: Mapping[str, Any]) -> None:
    """Stop if the processes were started differently: they would train on without a word.

    Raises:
        TrainingError: names the first process that differs, and what differs.
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
