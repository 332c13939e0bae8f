"""Heads removed: what stands in place of their output, and what the model then answers.

Three modes. "zero" takes the output away; its bias and scale are then unlike anything that later layers have seen.
"mean" puts the head's mean over other prompts there, so that what is lost is what the head says of this prompt (Wang et
al. 2023). "resample" puts its output on another prompt there, which keeps its spread (Chan et al. 2022).

Axes: b prompts, q queries, v width of a head's output.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apmae.errors import CaptureError
from apmae.lm.changes import Mean, Resample
from apmae.lm.edit import Edit, edit
from apmae.lm.language_model import LM
from apmae.lm.outcome import answer, judge, logits_at, places_of, positions_shown, tokens_asked
from apmae.lm.record import Place
from apmae.lm.restart import Restart
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer
from apmae.seeding import subseed

EditsOf = Callable[[Sequence[int]], Mapping[Place, Edit]]
"""Makes the edits for some rows of a batch, given their places in it."""


class Reply(NamedTuple):
    """What a model says of one prompt."""

    answer: Answer
    elsewhere: float
    """Mean negative log-probability of the prompt's other tokens, in nats; NaN where none was looked at."""

    @property
    def log_probability(self) -> float:
        """Of the completion's first token, in nats; -708 or more."""
        return math.log(max(self.answer.expected_probability, sys.float_info.min))


@torch.no_grad()
def replies_under(
    lm: LM,
    windows: Sequence[Window],
    edits: EditsOf | None = None,
    *,
    every: int | None = None,
    restart: Restart | None = None,
) -> list[Reply]:
    """What a model answers while heads are edited, in one forward per batch.

    Answers are those of :func:`apmae.lm.outcome.answer` with whole completions scored: where an accepted completion is
    left open by its first token, the model is asked again under the same edits.

    Args:
        lm: a model that answers.
        windows: what it sees.
        edits: for rows of this batch, as :func:`apmae.edit` takes them; None leaves the model as it is.
        every: of the tokens of the context after the first, those at every so many places are looked at for
            :attr:`Reply.elsewhere`, each given what comes before it; None: none of them. Sentinels do not count, nor do
            the tokens of an encoder, which sees them.
        restart: of this model. It records the batch where nothing is edited; with edits, which must follow for the same
            batch, the forward starts at the first layer that is edited.

    Raises:
        CaptureError: as for :func:`apmae.edit`, or if logits are not finite.
    """
    asked = [tokens_asked(lm, item, spans=True) for item in windows]
    where = [places_of(item, len(want)) for item, want in zip(windows, asked, strict=True)]
    others = [elsewhere_places(item, every) for item in windows]
    shown = positions_shown(lm, [[*more, *own] for own, more in zip(where, others, strict=True)])

    def applied(chosen: Mapping[Place, Edit]) -> AbstractContextManager[None]:
        return edit(lm.model, chosen) if chosen else nullcontext()

    def follow(row: int, again: list[Window]) -> list[Answer]:
        found: list[Answer] = []
        for item in again:
            with applied({} if edits is None else edits([row])):
                found += answer(lm, [item], spans=True)
        return found

    chosen = {} if edits is None else edits(range(len(windows)))
    with _begun(restart, chosen), applied(chosen):
        logits = logits_at(lm, windows, asked, shown)
    answers = judge(lm, windows, asked, logits, shown, spans=True, follow=follow)
    place = {position: number for number, position in enumerate(shown)}
    found = []
    for row, (item, said, positions) in enumerate(zip(windows, answers, others, strict=True)):
        if not math.isfinite(said.expected_probability):
            raise CaptureError(
                "expected finite logits, got NaN or infinite ones; check the model's weights, and use bfloat16 or "
                "float32 if float16 overflows"
            )
        elsewhere = math.nan
        if positions:
            at = logits[row, [place[position] for position in positions]].float()
            targets = torch.tensor([item.ids[position + 1] for position in positions], device=at.device)
            elsewhere = float((at.logsumexp(-1) - at.gather(1, targets[:, None])[:, 0]).mean())
        found.append(Reply(said, elsewhere))
    return found


def _begun(restart: Restart | None, chosen: Mapping[Place, Edit]) -> AbstractContextManager[None]:
    if restart is None:
        return nullcontext()
    return restart.at(min(layer for layer, _ in chosen)) if chosen else restart.recording()


def elsewhere_places(item: Window, every: int | None) -> list[int]:
    """Positions whose next token is looked at for perplexity elsewhere; see :func:`replies_under`."""
    if every is None or item.masks:
        return []
    context = {*item.prefix, *item.suffix}
    return [place for place in range(0, len(item.ids) - 1, every) if place + 1 in context]


@dataclass(frozen=True)
class Removal:
    """How heads are removed in one mode."""

    mode: str
    means: Mapping[Place, Mean] = field(default_factory=dict)
    """For "mean", from :func:`apmae.lm.record.mean_outputs`."""
    donors: Mapping[Place, Resample] = field(default_factory=dict)
    """For "resample", from :func:`apmae.lm.record.sample_outputs`: every prompt that it was given."""
    positions: Sequence[int] = ()
    """Where the model answers, in each donor."""
    groups: Sequence[int] = ()
    """Group of files of each donor: a prompt takes nothing from its own."""
    seed: int = 0
    """Decides who takes from whom."""

    def edits(
        self, heads: Iterable[Place], windows: Sequence[Window], numbers: Sequence[int], groups: Sequence[int]
    ) -> EditsOf:
        """Edits that remove heads together, for a batch.

        Args:
            heads: (layer, head) of each.
            windows: of the batch.
            numbers: of its prompts; with the seed they decide the donors. One prompt has the same donor for all heads.
            groups: of its prompts.
        """
        wanted = list(heads)
        if self.mode == "zero":
            return lambda _rows: dict.fromkeys(wanted, "zero")
        if self.mode == "mean":
            return lambda _rows: {head: self.means[head] for head in wanted}
        chosen = [self.donor(number, group) for number, group in zip(numbers, groups, strict=True)]

        def resampled(rows: Sequence[int]) -> Mapping[Place, Edit]:
            own, last = [chosen[row] for row in rows], [windows[row].position for row in rows]
            return {head: _resampling(self.donors[head], self.positions, own, last) for head in wanted}

        return resampled

    def donor(self, number: int, group: int) -> int:
        """Which recorded prompt a prompt takes outputs from: one of another file.

        Args:
            number: of the prompt.
            group: of its file.

        Raises:
            CaptureError: if all recorded prompts are of its file.
        """
        other = [place for place, own in enumerate(self.groups) if own != group]
        if not other:
            raise CaptureError(
                "expected a prompt of another file to resample from, got none; take prompts of more files"
            )
        return other[subseed(self.seed, "donor", number) % len(other)]


def _resampling(
    donors: Resample, positions: Sequence[int], chosen: Sequence[int], last: Sequence[int]
) -> Callable[[Tensor], Tensor]:
    """Puts a donor's output in place of a head's; the two are aligned where the model answers.

    What a donor lacks on either side is its nearest token.

    Args:
        donors: of one head.
        positions: at which the model answers, of each donor.
        chosen: the donor of each prompt.
        last: the position at which the model answers, of each prompt.
    """
    answers_at, lengths = (torch.tensor(values)[list(chosen)][:, None] for values in (positions, donors.lengths))

    def change(output: Float[Tensor, "b q v"]) -> Float[Tensor, "b q v"]:
        ahead = torch.arange(output.shape[1]) - torch.tensor(last)[:, None]
        place = (answers_at + ahead).clamp(min=0).minimum(lengths - 1).to(donors.outputs.device)
        return donors.outputs[torch.tensor(chosen, device=place.device)[:, None], place].to(output)

    return change
