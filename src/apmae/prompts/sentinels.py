"""Which special tokens a model sees around the two contexts of a prompt, and in what order. Torch-free.

Decoders have fill-in-the-middle sentinels, encoders masks.

An arrangement is written as a template, the text that a model was trained to see in front of the completion, such as
``<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>``.

One template says sentinels and order, as completion tools write it; three strings and an order could not say
Codestral's, which has no sentinel before the completion. Sentinels are found by name, not by training: a tokenizer may
have them though its model was never trained to infill (Qwen2.5, Mistral), for which there is ``none``. Ids past the
model's embeddings are no sentinels (CodeLlama 34B). ``▁<PRE>`` is a sentinel; the ``<PRE>`` of Javadoc is none.

CodeLlama's suffix has no space before it, as in its authors' code; transformers 5's own tokenizer class puts one there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apmae.errors import ConfigError
from apmae.prompts.misspelled import meant

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FAMILIES = {
    # StarCoder, StarCoder2, Granite Code, Stable Code (arXiv 2305.06161, 2402.19173, 2405.04324; bigcode/starcoder and
    # stabilityai/stable-code-3b model cards)
    "starcoder": "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
    # arXiv 2301.03988; bigcode/santacoder model card
    "santacoder": "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",
    # arXiv 2308.12950; transformers' CodeLlamaTokenizer
    "codellama": "\u2581<PRE>{prefix}\u2581<SUF>{suffix}\u2581<MID>",
    # Qwen2.5-Coder (arXiv 2409.12186) and CodeGemma (arXiv 2406.11409), Granite 4: the same tokens in the same order
    "qwen": "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
    # DeepSeek-Coder, -V2, V3 (arXiv 2401.14196, 2406.11931; deepseek-ai/DeepSeek-Coder README)
    "deepseek": "<\uff5cfim\u2581begin\uff5c>{prefix}<\uff5cfim\u2581hole\uff5c>{suffix}<\uff5cfim\u2581end\uff5c>",
    # Codestral 22B; mistral-common's encode_fim: the middle follows the prefix without a separate token
    "codestral": "[SUFFIX]{suffix}[PREFIX]{prefix}",
    # Seed-Coder (arXiv 2506.03524)
    "seedcoder": "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>",
    # arXiv 2204.05999; dpfried/incoder example_usage.py, with its extra sentinel after the suffix
    "incoder": "{prefix}<|mask:0|>{suffix}<|mask:1|><|mask:0|>",
    # CodeGen2, CodeGen2.5 (arXiv 2305.02309; Salesforce/codegen2 model card)
    "codegen2": "{prefix}<mask_1>{suffix}<|endoftext|><sep><mask_1>",
}
"""How each family arranges a prompt; where one was trained on two orders, that of its own examples."""


_SENTINEL = re.compile(r"\u2581?<[^<>{}]+>|\[[A-Z]+\]")
"""A sentinel of :data:`FAMILIES`."""

_ANY = "a"
"""A text that every tokenizer has tokens for."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Sentinel tokens in the places where the model was trained to see them."""

    template: str
    before: tuple[int, ...]
    """Ids before both contexts."""
    between: tuple[int, ...]
    after: tuple[int, ...]
    """Ids after both contexts, before the completion."""
    suffix_first: bool

    def __len__(self) -> int:
        """Tokens of a window that are sentinels."""
        return len(self.before) + len(self.between) + len(self.after)

    def arrange(self, left: list[int], right: list[int]) -> list[int]:
        """The tokens of a left and a right context with the sentinels around them."""
        contexts = (right, left) if self.suffix_first else (left, right)
        return [*self.before, *contexts[0], *self.between, *contexts[1], *self.after]

    def places(self, left: int, right: int, first: int) -> tuple[range, range]:
        """Where :meth:`arrange` puts the two contexts.

        Args:
            left: tokens of the left context.
            right: tokens of the right context.
            first: tokens in front of all that is arranged.
        """
        opener = first + len(self.before)
        middle = opener + (right if self.suffix_first else left) + len(self.between)
        if self.suffix_first:
            return range(middle, middle + left), range(opener, opener + right)
        return range(opener, opener + left), range(middle, middle + right)


@dataclass(frozen=True, slots=True)
class Masks:
    """How an encoder sees a prompt: special tokens around the text, and masks in place of the completion."""

    template: str
    """For instance ``[CLS]{prefix}[MASK]{suffix}[SEP]``."""
    before: tuple[int, ...]
    """Ids before the text."""
    mask: int
    """Id of the mask: there is one for each token of the completion."""
    text: str
    """The mask as it is written in a text."""
    after: tuple[int, ...]
    """Ids after the text."""

    def __len__(self) -> int:
        """Tokens of a window that are neither text nor masks."""
        return len(self.before) + len(self.after)

    def arrange(self, left: Sequence[int], hidden: int, right: Sequence[int]) -> list[int]:
        """The tokens of a window.

        Args:
            left: of the left context.
            hidden: number of masks.
            right: of the right context.
        """
        return [*self.before, *left, *[self.mask] * hidden, *right, *self.after]


def find_masks(tokenizer: "Tokenizer", mask: str) -> Masks:
    """The special tokens that an encoder's tokenizer puts around every text, and its mask.

    Args:
        tokenizer: one that neither truncates nor pads.
        mask: the mask token's text.

    Raises:
        ConfigError: if the tokenizer has no such token.
    """
    token = tokenizer.token_to_id(mask)
    if token is None:
        raise ConfigError(f"expected the mask token {mask!r} in the tokenizer, it has none; correct its mask_token")
    whole = tokenizer.encode(_ANY)
    own = [place for place, special in enumerate(whole.special_tokens_mask) if not special]
    before, after = whole.ids[: own[0]], whole.ids[own[-1] + 1 :]
    names = ["".join(tokenizer.id_to_token(number) or "" for number in ids) for ids in (before, after)]
    template = f"{names[0]}{{prefix}}{mask}{{suffix}}{names[1]}"
    return Masks(template, tuple(before), token, mask, tuple(after))


def find_sentinels(tokenizer: "Tokenizer", infill: str = "auto", vocabulary: int | None = None) -> Sentinels | None:
    """The sentinels of a model.

    Args:
        tokenizer: the model's.
        infill: "auto" for the first of :data:`FAMILIES` whose tokens the tokenizer has; "none" for left context only;
            the name of a family; or a template.
        vocabulary: ids that the model has embeddings for; sentinels past them, which a tokenizer shared by several
            models may have, are none. None: whatever the tokenizer has.

    Returns:
        None where there is left context only: for "none", and for "auto" without known sentinels.

    Raises:
        ConfigError: if ``infill`` is no such thing, or what it asks for is not there.
    """
    split_template(infill)
    if infill == "none":
        return None
    for template in FAMILIES.values() if infill == "auto" else [FAMILIES.get(infill, infill)]:
        parts, suffix_first = split_template(template)
        ids = [_ids(tokenizer, part, vocabulary) for part in parts]
        missing = [part for part, found in zip(parts, ids, strict=True) if found is None]
        if not missing:
            before, between, after = (tuple(found or ()) for found in ids)
            return Sentinels(template, before, between, after, suffix_first)
        if infill != "auto":
            raise ConfigError(_refusal(tokenizer, infill, vocabulary, parts, missing, suffix_first))
    return None


def split_template(infill: str) -> tuple[tuple[str, str, str], bool]:
    """The sentinels of a template before, between and after its contexts, and whether the suffix comes first.

    Raises:
        ConfigError: if it is neither "auto", "none", a family nor a template with each context once.
    """
    if infill in ("auto", "none"):
        return ("", "", ""), False
    pieces = re.split(r"\{(prefix|suffix)\}", FAMILIES.get(infill, infill))
    if len(pieces) != 5 or pieces[1] == pieces[3] or not pieces[2]:
        raise ConfigError(
            f"expected infill to be auto, none, a family ({', '.join(FAMILIES)}) or a template with {{prefix}} and "
            f"{{suffix}} once each and a sentinel between them, got {infill!r}; for instance {FAMILIES['starcoder']}"
        )
    return (pieces[0], pieces[2], pieces[4]), pieces[1] == "suffix"


def spelled(tokenizer: "Tokenizer | None" = None) -> re.Pattern[str]:
    """Finds sentinels that a text spells out, of every family, whatever the model; and a tokenizer's special tokens.

    They would be tokenised as what they spell: a source file that handles them cannot be told from an arranged prompt.
    """
    names = {name for template in FAMILIES.values() for name in _SENTINEL.findall(template)}
    if tokenizer is not None:
        tokens = tokenizer.get_added_tokens_decoder().values()
        names |= {token.content for token in tokens if token.special and token.content.strip()}
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


def _ids(tokenizer: "Tokenizer", text: str, vocabulary: int | None) -> list[int] | None:
    """Ids of a run of sentinels, or None if it is not made of tokens that stand for themselves."""
    if not text:
        return []
    known = tokenizer.token_to_id(text)
    names = [text] if known is not None else sorted(_names(tokenizer), key=len, reverse=True)
    ids: list[int] = []
    while text:
        name = next((name for name in names if text.startswith(name)), None)
        token = None if name is None else tokenizer.token_to_id(name)
        if name is None or token is None or (vocabulary is not None and token >= vocabulary):
            return None
        ids.append(token)
        text = text[len(name) :]
    return ids


def _refusal(
    tokenizer: "Tokenizer",
    infill: str,
    vocabulary: int | None,
    parts: Sequence[str],
    missing: Sequence[str],
    suffix_first: bool,
) -> str:
    """What is wrong with the sentinels asked for, and which were probably meant."""
    known = {name for template in FAMILIES.values() for name in _SENTINEL.findall(template)}
    names = [*_names(tokenizer), *(name for name in sorted(known) if tokenizer.token_to_id(name) is not None)]
    absent = " and ".join(f"{part!r}" if part.strip() != part else part for part in missing)
    refusal = f"expected sentinels of infill {infill!r} among the model's special tokens, {absent} not found"
    nearest = {part: meant(part, names) for part in missing}
    if all(found not in (None, part) for part, found in nearest.items()):
        before, between, after = (nearest.get(part) or part for part in parts)
        contexts = ("{suffix}", "{prefix}") if suffix_first else ("{prefix}", "{suffix}")
        return f"{refusal}; is it infill {f'{before}{contexts[0]}{between}{contexts[1]}{after}'!r}?"
    own = find_sentinels(tokenizer, vocabulary=vocabulary)
    family = next((name for name, template in FAMILIES.items() if own and own.template == template), None)
    advice = f"infill {family!r}, which it has" if family else "these"
    return f"{refusal}; its special tokens are {_some_names(tokenizer)}; take {advice}, or infill 'none'"


def _names(tokenizer: "Tokenizer") -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.content]


def _some_names(tokenizer: "Tokenizer") -> str:
    names = _names(tokenizer)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{', '.join(names[:12]) or 'none'}{more}"
