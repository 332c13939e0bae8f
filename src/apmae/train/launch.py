"""How a run is started: number of processes, share of the batch, tracker. Checked before torch is imported."""

import os
from importlib.util import find_spec

from apmae.config import TrainConfig
from apmae.errors import ConfigError

TRACKERS = {
    "aim": ("aim",),
    "clearml": ("clearml",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""The trackers that Accelerate knows; each needs one of its modules."""


def process_count() -> int:
    """The number of processes in this run: one, or as many as torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share_of(config: TrainConfig, processes: int) -> int:
    """Patterns per step that each process contributes.

    Raises:
        ConfigError: if the batch cannot be divided among processes and forwards.
    """
    share, rest = divmod(config.batch_size, processes * config.accumulate)
    if rest:
        raise ConfigError(
            f"expected a batch_size divisible by {processes} processes times accumulate {config.accumulate}, got "
            f"{config.batch_size}; take {max(share, 1) * processes * config.accumulate}"
        )
    return share * config.accumulate


def drawn_share(config: TrainConfig, processes: int) -> int:
    """Patterns per step that each process takes from its source, at least one; the rest of a guided batch is the
    grammar's.

    Raises:
        ConfigError: as :func:`share_of`.
    """
    share = share_of(config, processes)
    return max(share - round(share * config.grammar_share), 1) if config.objective == "guided" else share


def expect_tracker(name: str | None) -> None:
    """Check that a tracker exists and is installed; None means no tracker.

    Raises:
        ConfigError: if it does not exist or is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise ConfigError(f"expected a tracker, one of {', '.join(TRACKERS)}, got {name!r}")
    if not any(find_spec(module) for module in TRACKERS[name]):
        raise ConfigError(f"expected the tracker {name!r} to be installed, it is not: pip install {name}")
