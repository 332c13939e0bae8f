"""How a circuit is looked for."""

from typing import Literal

from pydantic import Field, NonNegativeInt, field_validator

from apmae.config.base import Config

Filter = Literal["attribution", "flow", "last_row", "tags", "random"]
"""What can choose the heads that are patched one by one (``docs/finding_circuits.md``)."""


class PatchingConfig(Config):
    """How the circuit of each task is looked for, by prompts and their counterfactuals (the circuit stage)."""

    context: int = Field(default=256, ge=8)
    """Tokens of the language model's window. All of it is read, so memory grows with its square and the layers."""

    batch: int = Field(default=8, ge=1)
    """Pairs per forward of the language model, at most."""

    direction: Literal["noising", "denoising"] = "noising"
    """What is put where: heads' outputs on the counterfactual into the run of the prompt ("noising": is the head
    needed?), or those on the prompt into the run of the counterfactual ("denoising": does it suffice?)."""

    filter: Filter = "attribution"
    """What chooses the heads that are patched one by one."""

    share: float = Field(default=0.22, gt=0, le=1)
    """Share of the model's heads that are patched one by one, rounded up. With a fifth, the tenth head was missed now
    and then (``docs/studies/circuits.md``)."""

    exact: Literal["shortlist", "all"] | tuple[tuple[NonNegativeInt, NonNegativeInt], ...] = "shortlist"
    """Which heads are patched one by one: the shortlist; all, which also shows how good each filter is; or those given
    as layer and head."""

    steps: int = Field(default=1, ge=1)
    """Gradients that attribution takes the mean of, between prompt and counterfactual (integrated gradients); 1 takes
    the gradient of the run that is patched."""

    edge_heads: int = Field(default=0, ge=0)
    """Heads among which edges are measured, those with the largest effects; 0 for no edges. Forwards grow with the
    square."""

    shard_pairs: int = Field(default=16, ge=1)
    """Pairs per shard: the most that a killed run has to repeat."""

    resamples: int = Field(default=1000, ge=20)
    """How often groups of prompts are drawn anew for intervals, and split in halves for reliability."""

    seed: int = 0

    @field_validator("exact")
    @classmethod
    def _some_heads(cls, exact: object) -> object:
        if exact == ():
            raise ValueError("expected at least one head, got none: leave the setting out, or name some")
        return exact
