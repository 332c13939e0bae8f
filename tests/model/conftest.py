"""A small AP-MAE, and patterns for it."""

import numpy as np
import pytest
import torch

from apmae.config import APMAEConfig
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns


@pytest.fixture(scope="session")
def tiny_config():
    """A configuration of a few thousand parameters; keywords change fields."""

    def make(**fields):
        values = {"pattern_size": 40, "patch_size": 8, "layer_norm_eps": 1e-6}
        for part in ("encoder", "decoder"):
            sizes = {"layers": 2, "dim": 12, "heads": 2, "head_dim": 5, "mlp_dim": 16}
            values |= {f"{part}_{name}": size for name, size in sizes.items()}
        return APMAEConfig(**{**values, "decoder_dim": 10, **fields})

    return make


@pytest.fixture(scope="session")
def tiny(tiny_config):
    """An untrained AP-MAE in which every parameter is random, biases and norms too."""

    def make(seed=0, **fields):
        model = APMAE(tiny_config(**fields)).eval()
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
        return model

    return make


@pytest.fixture(scope="session")
def random_patterns():
    """Causal softmax of random scores."""

    def make(count, size, seed=0, patch=8):
        scores = np.random.default_rng(seed).normal(0, 2, (count, size, size))
        weights = np.tril(np.exp(scores))
        return Patterns.from_probabilities(weights / weights.sum(-1, keepdims=True), patch=patch)

    return make
