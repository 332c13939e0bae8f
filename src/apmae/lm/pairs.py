"""Pairs of a prompt and its counterfactual as batches that a model runs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from apmae.errors import SourceError
from apmae.lm.language_model import LM
from apmae.lm.outcome import pad, window_of
from apmae.prompts.fim import Window
from apmae.prompts.pairs import REASONS, Pair, pair_of
from apmae.prompts.prompt import Prompt


def pairs_of(lm: LM, prompts: Sequence[Prompt], context: int) -> tuple[list[Pair], Counter[str]]:
    """The prompts whose counterfactual has as many tokens, task by task; and why others are left out.

    Args:
        lm: whose tokens count; a decoder.
        prompts: with counterfactuals, or not.
        context: most tokens of a window.

    Returns:
        The pairs, in the order of the tasks' first prompts; and how many prompts were left out, by reason
        (:data:`apmae.prompts.pairs.REASONS`).

    Raises:
        SourceError: if there is no pair.
        ConfigError: if the window has no room for context.
    """

    def window(prompt: Prompt) -> Window:
        return window_of(lm, prompt, context)

    found: dict[str, list[Pair]] = {}
    left_out: Counter[str] = Counter()
    for prompt in prompts:
        pair = pair_of(window, prompt)
        if isinstance(pair, Pair):
            found.setdefault(prompt.task, []).append(pair)
        else:
            left_out[pair] += 1
    if not found:
        why = "; ".join(f"{count} {REASONS[reason]}" for reason, count in left_out.most_common())
        raise SourceError(
            "expected prompts with counterfactuals of as many tokens for this model, found none "
            f"({why or 'no prompts'}); make some with apmae prompts circuit:NAME --lm of this model"
        )
    return [pair for pairs in found.values() for pair in pairs], left_out


class Batch:
    """Some pairs as a batch: both sides have the same lengths, so one mask and one set of positions serves both."""

    def __init__(self, lm: LM, pairs: Sequence[Pair]) -> None:
        """Pad the pairs' windows.

        Args:
            lm: the model.
            pairs: at least one.
        """
        self.lm = lm
        self.pairs = list(pairs)
        self.clean, mask = pad([pair.clean.ids for pair in pairs], lm.pad_id)
        self.other, _ = pad([pair.other.ids for pair in pairs], lm.pad_id)
        self._mask = mask.to(lm.device)
        self.rows = [pair.clean.position for pair in pairs]
        self._right, self._wrong = ([getattr(pair, name) for pair in pairs] for name in ("right", "wrong"))
        # accelerate moves positions to the first device of a model that is spread, hidden states are on the last
        spread = len(set(getattr(lm.model, "hf_device_map", {}).values())) > 1
        few = lm.keeps_logits and not spread
        self._shown = sorted(set(self.rows)) if few else list(range(self.clean.shape[1]))
        self._few: dict[str, Any] = {"logits_to_keep": torch.tensor(self._shown, device=lm.device)} if few else {}

    def difference(self, ids: Tensor) -> Float[Tensor, " b"]:
        """Run the model on one side, and take the logit of the right answer less that of the wrong one.

        Args:
            ids: :attr:`clean` or :attr:`other`.
        """
        logits = self.lm.model(
            input_ids=ids.to(self.lm.device), attention_mask=self._mask, use_cache=False, **self._few
        ).logits
        places = [self._shown.index(row) for row in self.rows]
        at = logits[torch.arange(len(places)), places].float()
        every = torch.arange(len(places), device=at.device)
        return at[every, self._right] - at[every, self._wrong]
