"""A float64 numpy transformer written from the paper's description: the oracle of ``model/mae.py``."""

import math

import numpy as np
import torch

from apmae.model.masking import random_masking
from apmae.patterns.patterns import Patterns


def masking_of(model, count, seed=0, masked=None):
    generator = torch.Generator().manual_seed(seed)
    return random_masking(count, model.config.num_patches, masked or model.config.num_masked, generator)


def square_patterns(count, size, patch=8):
    """Patterns of an encoder: each row is even over random keys on both sides."""
    p = np.random.default_rng(0).dirichlet(np.full(size, 0.3), size=(count, size))
    return Patterns.from_probabilities(p, patch=patch, causal=False)


def norm(x, weights, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weights["weight"] + weights["bias"]


def linear(x, weights):
    return x @ weights["weight"].T + weights.get("bias", 0)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def transformer(x, get, layers, heads, eps):
    """x: (s, d) of one pattern."""
    for layer in range(layers):
        normed = norm(x, get(f"attentions.{layer}.norm"), eps)
        query, key, value = np.split(linear(normed, get(f"attentions.{layer}.to_qkv")), 3, axis=1)
        width = query.shape[1] // heads
        mixed = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = query[:, own] @ key[:, own].T / math.sqrt(width)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed.append(weights / weights.sum(1, keepdims=True) @ value[:, own])
        x = x + linear(np.concatenate(mixed, 1), get(f"attentions.{layer}.to_out"))
        hidden = gelu(linear(norm(x, get(f"mlps.{layer}.norm"), eps), get(f"mlps.{layer}.up")))
        x = x + linear(hidden, get(f"mlps.{layer}.down"))
    return norm(x, get("norm"), eps)


class Oracle:
    """One pattern at a time; a patch number becomes a place on the grid by counting."""

    def __init__(self, model):
        self.c = model.config
        self.w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
        grid = self.c.grid_size
        cells = [(row, column) for row in range(grid) for column in range(row + 1 if self.c.causal else grid)]
        square = self.c.grid == "square"
        self.places = [row * grid + column if square else number for number, (row, column) in enumerate(cells)]
        self.slots = grid * grid if square else len(cells)

    def get(self, prefix):
        def get(name):
            start = f"{prefix}{name}."
            return {key[len(start) :]: value for key, value in self.w.items() if key.startswith(start)}

        return get

    def encode(self, patches, places):
        """patches: (v, q) in the order of their places."""
        c, get = self.c, self.get("")
        tokens = [self.w["cls"][0, 0] + self.w["positions"][0, 0]]
        for patch, place in zip(patches, places, strict=True):
            embedded = linear(norm(patch, get("embed.0"), c.layer_norm_eps), get("embed.1"))
            tokens.append(norm(embedded, get("embed.2"), c.layer_norm_eps) + self.w["positions"][0, 1 + place])
        return transformer(np.stack(tokens), self.get("encoder."), c.encoder_layers, c.encoder_heads, c.layer_norm_eps)

    def predict(self, patches, visible, masked):
        """patches: (k, q); returns (m, q)."""
        c, get = self.c, self.get("")
        encoded = linear(self.encode(patches[visible], [self.places[v] for v in visible]), get("to_decoder"))
        seen = {self.places[v]: encoded[1 + i] for i, v in enumerate(visible)}
        tokens = [encoded[0]]
        for place in range(self.slots):
            if c.decoder_input == "visible":
                tokens.append(seen.get(place, self.w["mask_token"]))
            else:
                tokens.append(self.w["mask_token"] if place in seen else np.zeros_like(encoded[0]))
        tokens = np.stack(tokens) + self.w["decoder_positions"][0]
        decoded = transformer(tokens, self.get("decoder."), c.decoder_layers, c.decoder_heads, c.layer_norm_eps)
        return linear(decoded[[1 + self.places[m] for m in masked]], get("to_pixels"))
