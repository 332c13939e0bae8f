"""Named sub-seeds: every random choice draws from a generator made here, never from global state.

A sub-seed is a hash of the seed and a name for its purpose, so adding a consumer changes no other draw.
"""

import hashlib

import numpy as np


def subseed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose.

    Args:
        seed: the seed that the user gave.
        names: the purpose, for instance ``("mask", step)``; each part counts as its ``str``.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator seeded by :func:`subseed`."""
    return np.random.default_rng(subseed(seed, *names))


def unit_hash(seed: int, *names: object) -> float:
    """A number in [0, 1) that depends only on its arguments, not on what was drawn before.

    Used for choices that must be the same in whichever shard they are made.
    """
    return (subseed(seed, *names) >> 10) / 2**53  # 53 bits: more would round up to 1
