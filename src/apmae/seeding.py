"""Named sub-seeds: every random choice draws from a generator made here, never from a global state.

A sub-seed is a hash of the seed and of the name of what it is for, so that adding a consumer changes no other draw.
"""

import hashlib

import numpy as np


def subseed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose.

    Args:
        seed: the seed that the user gave.
        names: what the seed is for, for instance ``("mask", step)``; each is taken by its ``str``.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator seeded by :func:`subseed`."""
    return np.random.default_rng(subseed(seed, *names))


def unit_hash(seed: int, *names: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments: a draw that needs no order.

    Used where a choice must come out the same whichever shard makes it first.
    """
    return (subseed(seed, *names) >> 10) / 2**53  # 53 bits: more would round up to 1
