"""A tiny training configuration and patterns for it."""

import pytest

from apmae.config import APMAEConfig, TrainConfig
from apmae.patterns.planted import planted

MODEL = {"pattern_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6}
for _part in ("encoder", "decoder"):
    _sizes = {"layers": 1, "dim": 16, "heads": 2, "head_dim": 8, "mlp_dim": 32}
    MODEL |= {f"{_part}_{name}": size for name, size in _sizes.items()}


@pytest.fixture(scope="session")
def tiny_train():
    """A configuration that takes milliseconds per step; keywords change its fields, ``model`` those of the model."""

    def make(model=None, **fields):
        values = {"steps": 12, "batch_size": 10, "base_lr": 2e-3, "checkpoint_every": 5, "log_every": 1, "seed": 3}
        return TrainConfig(model=APMAEConfig(**{**MODEL, **(model or {})}), **{**values, **fields})

    return make


@pytest.fixture(scope="session")
def small_patterns():
    """Planted patterns of 32 tokens in patches of 8, float32, numbered by prompt; tests must not change them."""
    patterns, _ = planted(4, size=32)
    return patterns.repacked(8)
