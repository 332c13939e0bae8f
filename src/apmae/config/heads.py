"""Looking things up over finished studies: top prompts per head, and similar patterns."""

from typing import Literal

from pydantic import Field

from apmae.config.base import Config


class TopConfig(Config):
    """Which prompts are shown of a head: those with the largest value, and some of each tenth of the others."""

    by: str = "strength"
    """What orders a head's prompts: a score of docs/scores.md, strength (how near the pattern is to the centre of its
    cluster), or a column of the table given as values."""

    heads: tuple[tuple[int, int], ...] | Literal["all"] = "all"
    """Pairs of layer and head, or all heads of the study."""

    count: int = Field(default=10, ge=1)
    """Prompts of each head with the largest value."""

    per_decile: int = Field(default=2, ge=0)
    """Prompts drawn from each tenth of a head's prompts, ordered by value."""

    pairs: int = Field(default=8, ge=1)
    """Pairs of a query and a key kept per pattern, those with the most attention; as many again away from sinks."""

    batch: int = Field(default=8, ge=1)
    """Prompts per forward of the language model, at most."""

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""

    seed: int = 0
    """Decides which prompts of each tenth are drawn."""


class SimilarConfig(Config):
    """How patterns are compared with those of studies."""

    count: int = Field(default=10, ge=1)
    """Heads shown that have the nearest patterns."""

    queries: int = Field(default=200, ge=1)
    """Most patterns asked for; of more, so many are drawn."""

    controls: int = Field(default=200, ge=20)
    """Patterns drawn from the studies and asked for in the same way: they say what distances are usual."""

    seed: int = 0
    """Decides which patterns are drawn."""
