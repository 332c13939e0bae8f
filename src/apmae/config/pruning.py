"""Heads removed for good."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from apmae.config.base import Config
from apmae.config.stages import AblateConfig

HeadRanking = Literal["exact", "gradient", "attribution", "unknown", "flow", "first_token", "weight"]
HEAD_RANKINGS: tuple[HeadRanking, ...] = get_args(HeadRanking)
"""By what heads are put in the order in which they are removed; ``docs/pruning.md`` says what each looks at."""


class PruneConfig(Config):
    """By what heads are ranked, how many are removed together, and how that is measured."""

    mode: Literal["mean", "zero"] = "mean"
    """What stands in place of a removed head's output: its mean over other prompts, or nothing."""

    rankings: tuple[HeadRanking, ...] | None = None
    """By what heads are ranked; by default all that can be told. "exact" removes each head alone on every prompt of the
    ranking half."""

    doses: tuple[int, ...] | None = None
    """How many heads are removed together; by default an eighth, a quarter, three eighths, a half and three quarters of
    all."""

    draws: int = Field(default=4, ge=1)
    """Random sets of each kind and size."""

    context: int | None = Field(default=None, ge=8)
    """Tokens of the language model's window; by default the study's, or 256."""

    batch: int = Field(default=8, ge=1)
    """Prompts per forward of the language model, at most."""

    every: int = Field(default=4, ge=1)
    """Of the other tokens of a prompt every how-many-th is looked at, for perplexity elsewhere; 1: all of them."""

    reference: int = Field(default=64, ge=1)
    """Prompts of the ranking half over which mean outputs are taken, at most."""

    similar: float = Field(default=0.8, gt=0, le=1)
    """Files with windows that share this much stay in one half, as for ``AblateConfig.similar``."""

    shard_prompts: int = Field(default=16, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""

    seed: int = 0
    """Decides the halves, which are those of ``AblateConfig`` with the same seed, the order of equals, and random
    sets."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = self.rankings
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError(f"expected one or more rankings, each once, got {', '.join(names) or 'none'}")
        doses = self.doses
        if doses is not None and (not doses or len(set(doses)) < len(doses) or min(doses) < 1):
            raise ValueError(f"expected doses from 1, each once, got {', '.join(map(str, doses)) or 'none'}")
        return self

    def removing(self) -> AblateConfig:
        """The settings by which the ablate stage removes heads in the same way."""
        return AblateConfig(
            modes=(self.mode,),
            context=self.context,
            batch=self.batch,
            every=self.every,
            reference=self.reference,
            similar=self.similar,
            shard_prompts=self.shard_prompts,
            seed=self.seed,
        )
