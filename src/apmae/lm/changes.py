"""What an edit does with the output of one head: zero, mean, resample, scale, patch.

"zero" needs nothing. The others carry what they need as a small frozen value, one for each head: so an edit shows where
its numbers come from, and a missing mean is noticed before the model runs. ``lm.record`` makes them from prompts.

Prompts differ in length, and so do their padding and their caches: positions are counted from a prompt's first token,
and those "from the end" from the end of the prompt as it was before any token was generated.

Axes: b prompts of a forward, q queries, v width of a head's output, t tokens, n recorded prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apmae.errors import CaptureError
from apmae.lm.where import Follower, Where
from apmae.seeding import subseed


class Change(Protocol):
    """Makes the new output of one head from the old one."""

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """The new output.

        Args:
            output: as the model computed it, padding included.
            follower: knows where the queries are in their prompts.
        """
        ...


@dataclass(frozen=True)
class Zero:
    """Nothing: the effect of zeroing the head's columns of the output projection. "zero" for short."""

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """See :class:`Change`."""
        return torch.zeros_like(output)


@dataclass(frozen=True)
class Scale:
    """The output times a factor."""

    factor: float
    """Any finite number: 0 is "zero", 1 changes nothing, -1 turns the head round."""

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float) or not isfinite(self.factor):
            raise CaptureError(f"expected a finite factor for Scale, got {self.factor!r}; for instance Scale(0.5)")

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """See :class:`Change`."""
        return output * self.factor


@dataclass(frozen=True, eq=False)
class Mean:
    """The head's mean output, at every position.

    One vector per head, over all tokens of all prompts. A mean per position would mean the same only among prompts made
    from one template, and tokens that are generated have no position in it.
    """

    values: Float[Tensor, " v"]

    def __post_init__(self) -> None:
        _expect_axes("Mean", self.values, "v")

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """See :class:`Change`."""
        _expect_width("Mean", self.values, output)
        return self.values.to(output).expand_as(output)


@dataclass(frozen=True, eq=False)
class Resample:
    """The head's output on another prompt.

    The other prompt is drawn from the recorded ones, by the seed and the prompt's number. Heads with the same seed take
    theirs from the same one, so that what they write fits together. The two are aligned at their last token, where the
    model answers. Where the other prompt is shorter, its first token stands for what it lacks; for tokens that are
    generated, its last.
    """

    outputs: Float[Tensor, "n t v"]
    """Row 0 of each is its prompt's first token."""
    lengths: Sequence[int]
    """Tokens of each recorded prompt."""
    seed: int

    def __post_init__(self) -> None:
        _expect_axes("Resample", self.outputs, "n t v")
        count, longest, _ = self.outputs.shape
        if len(self.lengths) != count or not count or any(not 0 < own <= longest for own in self.lengths):
            raise CaptureError(
                f"expected a length from 1 to {longest} for each of the {count} recorded prompts, at least one, got "
                f"{list(self.lengths)[:8]}; apmae.lm.record.sample_outputs makes them"
            )

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """See :class:`Change`."""
        _expect_width("Resample", self.outputs, output)
        where, lengths = follower.where(), tuple(self.lengths)
        device = self.outputs.device
        prompts, place, same = where.once(
            (self.seed, lengths, self.outputs.shape[1], device), lambda: self._drawn(where, len(output))
        )
        found = self.outputs.index_select(0, prompts) if same else self.outputs[prompts[:, None], place]
        return found.to(output)

    def _drawn(self, where: Where, batch: int) -> tuple[Int[Tensor, " b"], Int[Tensor, "b q"], bool]:
        """The recorded prompt for each prompt, its token for each query, and whether these are all in their order."""
        tokens, device = self.outputs.shape[1], self.outputs.device
        chosen = [donor(self.seed, where.first_prompt + row, len(self.lengths)) for row in range(batch)]
        last = torch.tensor([self.lengths[number] - 1 for number in chosen], device=device)[:, None]
        ahead = where.positions.to(device) - (where.ends.to(device)[:, None] - 1)
        place = (last + ahead).clamp(min=0).minimum(last)
        return torch.tensor(chosen, device=device), place, _in_order(place, tokens)


@dataclass(frozen=True, eq=False)
class Patch:
    """The head's output in another run of the same batch: of clean prompts into corrupted ones, or the reverse."""

    outputs: Float[Tensor, "b t v"]
    """Row 0 of each is its prompt's first token. A prompt's tokens past t stay as they are."""
    positions: Sequence[Sequence[int]] | None = None
    """Which positions of each prompt are patched, counted from its first token; None for all."""

    def __post_init__(self) -> None:
        _expect_axes("Patch", self.outputs, "b t v")
        batch, tokens, _ = self.outputs.shape
        if self.positions is None:
            return
        if len(self.positions) != batch or any(not 0 <= own < tokens for row in self.positions for own in row):
            raise CaptureError(
                f"expected positions from 0 to {tokens - 1} for each of the {batch} prompts of Patch, got "
                f"{[list(row) for row in self.positions][:4]}; count from each prompt's first token"
            )

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """See :class:`Change`."""
        _expect_width("Patch", self.outputs, output)
        batch, tokens, _ = self.outputs.shape
        where = follower.where()
        if batch != len(output) or (where.continued is None and tokens > where.past + output.shape[1]):
            raise CaptureError(
                f"expected the batch that Patch was recorded from, {batch} prompts of up to {tokens} tokens, got "
                f"{len(output)} of {where.past + output.shape[1]}; clean and corrupted prompts must have the same "
                "lengths, and each batch a block of its own"
            )
        there, place, covered, same = where.once(
            (tokens, self.outputs.device, output.device),
            lambda: _taken(where, tokens, self.outputs.device, output.device),
        )
        found = self.outputs if same else self.outputs[torch.arange(batch, device=place.device)[:, None], place]
        if self.positions is not None:
            there = there & self._mask().to(output.device).gather(1, place.to(output.device))
        elif covered:
            return found.to(output)
        return torch.where(there[..., None], found.to(output), output)

    def _mask(self) -> Tensor:
        mask = torch.zeros(self.outputs.shape[:2], dtype=torch.bool)
        for row, own in enumerate(self.positions or ()):
            mask[row, list(own)] = True
        return mask


@dataclass(frozen=True)
class Function:
    """What a function of the output returns."""

    function: Callable[[Float[Tensor, "b q v"]], Float[Tensor, "b q v"]]

    def apply(self, output: Float[Tensor, "b q v"], follower: Follower) -> Float[Tensor, "b q v"]:
        """See :class:`Change`."""
        made = self.function(output)
        if not isinstance(made, Tensor) or made.shape != output.shape:
            found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise CaptureError(
                f"expected an edit's function to return a tensor of shape {tuple(output.shape)} (prompt, query, "
                f"width), got {found}"
            )
        return made.to(output)


def _in_order(place: Int[Tensor, "b q"], tokens: int) -> bool:
    return place.shape[1] == tokens and bool((place == torch.arange(tokens, device=place.device)).all())


def _taken(
    where: Where, tokens: int, source: torch.device, target: torch.device
) -> tuple[Bool[Tensor, "b q"], Int[Tensor, "b q"], bool, bool]:
    """Which queries have an output among the recorded tokens, and its place; whether all have, and in order."""
    positions = where.positions
    there, place = (positions >= 0) & (positions < tokens), positions.clamp(0, tokens - 1)
    return there.to(target), place.to(source), bool(there.all()), _in_order(place, tokens)


def donor(seed: int, prompt: int, count: int) -> int:
    """Which of ``count`` recorded prompts :class:`Resample` takes for a prompt."""
    return subseed(seed, "resample", prompt) % count


def _expect_axes(name: str, values: Tensor, axes: str) -> None:
    """Refuse values with other axes, or that are not finite. Waits for their device."""
    if not isinstance(values, Tensor) or values.ndim != len(axes.split()) or not values.is_floating_point():
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise CaptureError(
            f"expected a floating tensor with the axes ({axes.replace(' ', ', ')}) for {name}, got {found}"
        )
    if not bool(values.isfinite().all()):
        raise CaptureError(f"expected finite outputs for {name}, got NaN or infinite ones; record them in float32")


def _expect_width(name: str, values: Tensor, output: Tensor) -> None:
    if values.shape[-1] != output.shape[-1]:
        raise CaptureError(
            f"expected outputs of {output.shape[-1]} numbers for {name}, as this head's, got {values.shape[-1]}; they "
            "belong to another head or model"
        )
