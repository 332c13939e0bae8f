"""What the model answers at the completion position.

A decoder is asked once, with the completion after the window. One forward gives the first token, and says whether
greedy decoding would write the whole completion: it would if each expected token is the most probable one. The tests
check that against ``generate``. Tokens count, not text: the same text in other tokens is not exact.

An encoder is asked once too, with a mask in place of each token of the completion, so that it knows none of them. The
token at the first mask is its answer. An encoder without a head for masked tokens answers nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from apmae.errors import ModelError
from apmae.lm.declared import expect_window
from apmae.lm.language_model import LM
from apmae.prompts.fim import Window, window
from apmae.prompts.masked import masked_window
from apmae.prompts.prompt import Answer, Prompt, continues, undecided
from apmae.prompts.sentinels import Masks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONGEST_SPAN = 64
"""Tokens of the longest completion that is scored whole. Of 10 462 spans of the bundled sources one is longer."""
_MOST_LOGITS = 2**28
"""Most logits of one forward: 1 GB in fp32. Larger batches are halved."""


@dataclass(frozen=True, slots=True)
class AskLM:
    """Asks a language model (:class:`apmae.prompts.draw.Ask`), and scores whole completions."""

    lm: LM

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's; raises as :attr:`LM.backend_tokenizer` does."""
        return self.lm.backend_tokenizer

    def window(self, prompt: Prompt, length: int) -> Window:
        """As :func:`window_of`."""
        return window_of(self.lm, prompt, length)

    def __call__(self, windows: Sequence[Window]) -> list[Answer]:
        """As :func:`answer`, in one forward."""
        return answer(self.lm, windows, spans=True)


def window_of(lm: LM, prompt: Prompt, length: int) -> Window:
    """What the model sees of a prompt.

    Args:
        lm: decides tokens and sentinels.
        prompt: text around the completion.
        length: most tokens.

    Raises:
        CaptureError: if the model has no positions for ``length`` tokens.
        ModelError: if the model came without a fast tokenizer, or is an encoder whose tokenizer has no mask token.
    """
    expect_window(length, lm.max_length)
    if not lm.causal:
        return masked_window(
            lm.backend_tokenizer,
            prompt.prefix,
            prompt.completion,
            prompt.suffix,
            length=length,
            masks=masks_of(lm),
            accepted=prompt.accepted,
        )
    return window(
        lm.backend_tokenizer,
        prompt.prefix,
        prompt.completion,
        prompt.suffix,
        length=length,
        sentinels=lm.sentinels,
        bos=lm.bos,
        accepted=prompt.accepted,
    )


def masks_of(lm: LM) -> Masks:
    """How an encoder sees a prompt.

    Raises:
        ModelError: if its tokenizer has no mask token, or it came without a fast tokenizer.
    """
    if lm.masks is None:
        raise ModelError(
            f"expected a tokenizer with a mask token for {type(lm.model).__name__}, an encoder, found none: no token "
            "of a prompt can be taken out; look at whole texts with apmae show or apmae.capture"
        )
    return lm.masks


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids as one batch, padded on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 (b, t).
    """
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids, mask


def read(lm: LM, windows: Sequence[Window]) -> list[Answer] | list[None]:
    """Run the model over a batch, each prompt once. An open tap sees these forwards.

    Returns:
        The model's answers as of :func:`answer`; None for each window if the model answers nothing (``LM.answers``), or
        if one of them asks for nothing.
    """
    if lm.answers and all(item.completion for item in windows):
        return answer(lm, windows)
    _forward(lm, [item.ids for item in windows], {"logits_to_keep": 1} if lm.keeps_logits else {})
    return [None] * len(windows)


@torch.no_grad()
def answer(lm: LM, windows: Sequence[Window], *, spans: bool = False) -> list[Answer]:
    """Run the model over a batch, each prompt once. An open tap sees these forwards.

    Args:
        lm: the model.
        windows: what it sees.
        spans: also score whole completions. Their tokens then follow the window, so that one forward shows what greedy
            decoding would write: the completion, as long as each expected token is the most probable one. Without it, a
            first token that is right as far as it goes counts as correct. An encoder's completions are always scored.

    Raises:
        ModelError: if the model is an encoder without a head for masked tokens.
    """
    if not lm.answers:
        raise ModelError(
            f"expected a model that says which tokens are probable, {type(lm.model).__name__} is an encoder without a "
            "head for masked tokens; take outcome 'any'"
        )
    asked = [tokens_asked(lm, item, spans=spans) for item in windows]
    where = [places_of(item, len(want)) for item, want in zip(windows, asked, strict=True)]
    shown = positions_shown(lm, where)
    vocabulary = lm.model.config.get_text_config().vocab_size
    if len(windows) > 1 and len(windows) * len(shown) * vocabulary > _MOST_LOGITS:
        half = len(windows) // 2
        return answer(lm, windows[:half], spans=spans) + answer(lm, windows[half:], spans=spans)
    logits = logits_at(lm, windows, asked, shown)
    return judge(
        lm, windows, asked, logits, shown, spans=spans, follow=lambda _row, others: answer(lm, others, spans=True)
    )


def judge(
    lm: LM,
    windows: Sequence[Window],
    asked: Sequence[tuple[int, ...]],
    logits: Tensor,
    shown: Sequence[int],
    *,
    spans: bool,
    follow: Callable[[int, list[Window]], list[Answer]],
) -> list[Answer]:
    """The answers that the logits of one forward hold.

    Args:
        lm: the model.
        windows: what it saw.
        asked: from :func:`tokens_asked`, for each window.
        logits: from :func:`logits_at`; other positions may be among them.
        shown: the positions that they are of.
        spans: as for :func:`answer`.
        follow: asks the model again, for an accepted completion that its first token leaves open: called with the
            window's place in the batch and the windows to ask.
    """
    places = {position: place for place, position in enumerate(shown)}
    where = [places_of(item, len(want)) for item, want in zip(windows, asked, strict=True)]
    rows = [row for row, positions in enumerate(where) for _ in positions]
    columns = [places[position] for positions in where for position in positions]
    at = logits[rows, columns].float().log_softmax(-1)
    expected = at.gather(1, torch.tensor([[token] for want in asked for token in want], device=at.device))[:, 0]
    first = torch.tensor([0, *(len(want) for want in asked[:-1])]).cumsum(0).to(at.device)
    top = at[first].topk(2)
    (best, second), leading = top.values.exp().T.tolist(), top.indices.tolist()
    entropy = -(at[first].exp() * at[first].clamp(min=-1e4)).sum(-1)
    greedy, log_probability = at.argmax(-1).tolist(), expected.tolist()
    answers = []
    for place, begin in enumerate(first.tolist()):
        item, want = windows[place], asked[place]
        span = slice(begin, begin + len(want))
        whole = (spans or bool(item.masks)) and len(want) == len(item.completion)
        predicted, text_correct, token_correct = _judged(item, greedy[span], lm.special)
        others = [] if text_correct else _accepted_so_far(item, greedy[begin], lm.special)
        if others and item.masks:
            for judged in (_judged(_instead(item, ids), greedy[span], lm.special) for ids in others):
                if judged[1]:
                    predicted, text_correct = judged[:2]
        elif others and not spans:
            text_correct = True  # as far as it was looked at
        elif others:
            for other in follow(place, [_instead(item, ids) for ids in others]):
                if other.text_correct:
                    predicted, text_correct = other.predicted, True
        answers.append(
            Answer(
                predicted=predicted,
                correct=token_correct if lm.config.outcome_rule == "token" else text_correct,
                text_correct=text_correct,
                token_correct=token_correct,
                max_probability=best[place],
                expected_probability=math.exp(log_probability[begin]),
                margin=best[place] - second[place],
                entropy=float(entropy[place]),
                log_probability=sum(log_probability[span]) if whole else None,
                exact=greedy[span] == list(want) if whole else None,
                predicted_id=greedy[begin],
                second_id=next(token for token in leading[place] if token != greedy[begin]),
                expected_id=want[0],
            )
        )
    return answers


@torch.no_grad()
def logits_at(
    lm: LM, windows: Sequence[Window], asked: Sequence[tuple[int, ...]], shown: Sequence[int]
) -> Float[Tensor, "b p v"]:
    """The model's logits at some positions of each window, in one forward.

    Args:
        lm: the model.
        windows: what it sees; a decoder also reads all but the last of the tokens asked for.
        asked: from :func:`tokens_asked`, for each window.
        shown: from :func:`positions_shown`.
    """
    few: dict[str, Any] = {}
    if lm.keeps_logits:  # the logits of other positions are the largest array of the forward
        few["logits_to_keep"] = len(shown) if isinstance(shown, range) else torch.tensor(shown, device=lm.device)
    rows = [item.ids if item.masks else (*item.ids, *want[:-1]) for item, want in zip(windows, asked, strict=True)]
    return _forward(lm, rows, few).logits


@torch.no_grad()
def _forward(lm: LM, rows: Sequence[Sequence[int]], few: dict[str, Any]) -> Any:
    """Run the model over token ids of several lengths; ``few`` says which logits are wanted."""
    ids, mask = pad(rows, lm.pad_id)
    return lm.model(input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False, **few)


def tokens_asked(lm: LM, item: Window, *, spans: bool) -> tuple[int, ...]:
    """The tokens of the completion whose probabilities are wanted."""
    if item.masks:
        return item.completion[: min(len(item.masks), LONGEST_SPAN)]
    return item.completion if spans and _room(lm, item) else item.completion[:1]


def places_of(item: Window, count: int) -> range:
    """Where the logits of the completion's first ``count`` tokens are: at its masks, or one token before each."""
    return item.masks[:count] if item.masks else range(len(item.ids) - 1, len(item.ids) - 1 + count)


def _instead(item: Window, completion: tuple[int, ...]) -> Window:
    """The same window with an accepted completion as the only one."""
    return replace(item, completion=completion, accepted=())


def _judged(item: Window, greedy: Sequence[int], special: frozenset[int]) -> tuple[str, bool, bool]:
    """The predicted text, and whether it is right by its text and by its first token.

    Args:
        item: what was asked.
        greedy: the most probable token at each position that was looked at; of a decoder each given the expected ones
            before it.
        special: ids that stand for no text.
    """
    token_correct = greedy[0] in {ids[0] for ids in (item.completion, *item.accepted)}
    if greedy[0] in special:
        return item.texts(greedy[:1])[0], token_correct, token_correct
    expected = item.right_texts[0]
    count, agrees = 1, greedy[0] == item.completion[0]
    looked = min(len(greedy), len(item.completion))
    while agrees and undecided(item.text_of(greedy[:count]), expected) and count < looked:
        count += 1
        agrees = greedy[count - 1] == item.completion[count - 1]
    predicted = item.text_of(greedy[:count])
    right = any(continues(predicted, text) for text in item.right_texts)
    right |= agrees and undecided(predicted, expected)  # as far as it was looked at
    return predicted, right, token_correct


def _accepted_so_far(item: Window, first: int, special: frozenset[int]) -> list[tuple[int, ...]]:
    """The accepted completions that begin with the most probable token, where it says too little to decide."""
    if first in special:
        return []
    accepted = zip(item.accepted, item.right_texts[1:], strict=True)
    return [ids for ids, text in accepted if ids[0] == first and undecided(item.text_of([first]), text)]


def positions_shown(lm: LM, where: Sequence[Sequence[int]]) -> Sequence[int]:
    """Positions for which the model returns logits: a range if they are the last ones."""
    longest = max(positions[-1] for positions in where) + 1
    if not lm.keeps_logits:
        return range(longest)
    asked = sorted(set().union(*where))
    # if the model is spread over devices, accelerate moves positions to the first, but hidden states are on the last
    spread = len(set(getattr(lm.model, "hf_device_map", {}).values())) > 1
    return range(asked[0], longest) if spread else asked


def _room(lm: LM, item: Window) -> bool:
    """Whether the completion can be scored whole."""
    positions = len(item.ids) + len(item.completion) - 1
    return len(item.completion) <= LONGEST_SPAN and (lm.max_length is None or positions <= lm.max_length)
