"""What the model answers at the completion position.

The model is asked once, with the completion after the window. One forward gives the first token, and says whether
greedy decoding would write the whole completion: it would if each expected token is the most probable one. The tests
check that against ``generate``. Tokens count, not text: the same text in other tokens is not exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apmae.errors import ModelError
from apmae.lm.declared import expect_window
from apmae.lm.language_model import LM
from apmae.prompts.fim import Window, window
from apmae.prompts.prompt import Answer, Prompt, continues, undecided

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
        ModelError: if the model came without a fast tokenizer, or is an encoder, which completes nothing.
    """
    if not lm.causal:
        raise ModelError(
            f"expected a decoder, which can complete a prompt, {type(lm.model).__name__} is an encoder; look at it "
            "with apmae show or apmae.capture"
        )
    expect_window(length, lm.max_length)
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


@torch.no_grad()
def answer(lm: LM, windows: Sequence[Window], *, spans: bool = False) -> list[Answer]:
    """Run the model over a batch, each prompt once. An open tap sees these forwards.

    Args:
        lm: the model.
        windows: what it sees.
        spans: also score whole completions. Their tokens then follow the window, so that one forward shows what greedy
            decoding would write: the completion, as long as each expected token is the most probable one. Without it, a
            first token that is right as far as it goes counts as correct.
    """
    # the tokens asked for; all but the last are also read
    asked = [item.completion if spans and _room(lm, item) else item.completion[:1] for item in windows]
    where = [range(len(item.ids) - 1, len(item.ids) - 1 + len(want)) for item, want in zip(windows, asked, strict=True)]
    shown = _shown(lm, where)
    vocabulary = lm.model.config.get_text_config().vocab_size
    if len(windows) > 1 and len(windows) * len(shown) * vocabulary > _MOST_LOGITS:
        half = len(windows) // 2
        return answer(lm, windows[:half], spans=spans) + answer(lm, windows[half:], spans=spans)
    ids, mask = pad([(*item.ids, *want[:-1]) for item, want in zip(windows, asked, strict=True)], lm.pad_id)
    inputs: dict[str, Any] = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device), "use_cache": False}
    if lm.keeps_logits:  # the logits of other positions are the largest array of the forward
        inputs["logits_to_keep"] = len(shown) if isinstance(shown, range) else torch.tensor(shown, device=lm.device)
    logits = lm.model(**inputs).logits
    places = {position: place for place, position in enumerate(shown)}
    rows = [row for row, positions in enumerate(where) for _ in positions]
    columns = [places[position] for positions in where for position in positions]
    at = logits[rows, columns].float().log_softmax(-1)
    expected = at.gather(1, torch.tensor([[token] for want in asked for token in want], device=at.device))[:, 0]
    first = torch.tensor([0, *(len(want) for want in asked[:-1])]).cumsum(0).to(at.device)
    best, second = at[first].topk(2).values.exp().T.tolist()
    entropy = -(at[first].exp() * at[first].clamp(min=-1e4)).sum(-1)
    greedy, log_probability = at.argmax(-1).tolist(), expected.tolist()
    answers = []
    for place, begin in enumerate(first.tolist()):
        item, want = windows[place], asked[place]
        span = slice(begin, begin + len(want))
        whole = spans and len(want) == len(item.completion)
        predicted, text_correct, token_correct = _judged(item, greedy[span], lm.special)
        others = [] if text_correct else _accepted_so_far(item, greedy[begin], lm.special)
        if others and not spans:
            text_correct = True  # as far as it was looked at
        elif others:
            followed = answer(lm, [replace(item, completion=ids, accepted=()) for ids in others], spans=True)
            for other in followed:
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
            )
        )
    return answers


def _judged(item: Window, greedy: Sequence[int], special: frozenset[int]) -> tuple[str, bool, bool]:
    """The predicted text, and whether it is right by its text and by its first token.

    Args:
        item: what was asked.
        greedy: the most probable token at each position that was looked at, each given the expected ones before it.
        special: ids that stand for no text.
    """
    token_correct = greedy[0] in {ids[0] for ids in (item.completion, *item.accepted)}
    if greedy[0] in special:
        return item.texts(greedy[:1])[0], token_correct, token_correct
    expected = item.right_texts[0]
    count, agrees = 1, greedy[0] == item.completion[0]
    while agrees and undecided(item.text_of(greedy[:count]), expected) and count < len(greedy):
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


def _shown(lm: LM, where: Sequence[range]) -> Sequence[int]:
    """Positions for which the model returns logits: a range if they are the last ones."""
    longest = max(positions.stop for positions in where)
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
