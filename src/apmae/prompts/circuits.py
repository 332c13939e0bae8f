"""Classic circuits as prompts with counterfactuals, made from templates and a tokenizer. Torch-free.

Templates, words, sources and definitions lie in ``circuits/<name>.yaml``; ``docs/circuits.md`` explains each set. A
prompt and its counterfactual have the same number of tokens and differ in stated ones only: the symmetric token
replacement of Zhang and Nanda 2023 (arXiv:2309.16042). What is drawn depends on set, seed and tokenizer alone.

Because the counterfactual holds other tokens of the same kind, the first wrong completion is right for it; the sources'
own corruptions (three unrelated names, random arguments, "That person") take the answer away. All prompts of a set are
kept, not balanced by outcome: sets are compared between models, and a model that cannot do the task has no correct
half.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import yaml

from apmae.config import Circuit
from apmae.errors import ConfigError, ModelError, SourceError
from apmae.prompts.fim import check_plain
from apmae.prompts.prompt import SPLITS, Prompt, split_of
from apmae.seeding import generator, unit_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SCHEME = "circuit:"
"""What a source of prompts begins with that is a circuit, not files; and the path of a circuit's prompt."""

CIRCUITS: tuple[str, ...] = get_args(Circuit)
"""Names of the sets."""

_FEWEST = {
    "names": 8,
    "names of a gender": 4,
    "pronouns": 2,
    "arguments": 8,
    "words": 100,
    "years": 100,
}
"""Fewest that a tokenizer must keep whole (years: split in two): with fewer, prompts would be too much alike."""

_TRIES = 100
"""Drafts tried for one prompt before the words count as used up."""

_WORD = re.compile("[\u0120\u2581][A-Za-z]{3,}")
"""A word with its space, as byte-level and SentencePiece vocabularies spell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """One prompt as text, before its tokens are looked at."""

    template: str | None
    """None where it is random: the prompt is of no group."""
    prefix: str
    counterfactual: str
    completions: tuple[str, ...]
    """What is right; the first is the prompt's completion."""
    wrong: tuple[str, ...]
    """What is wrong; the first is right for the counterfactual where that makes one of them right."""
    changed: int = 1
    """Tokens in which the counterfactual differs."""


class _Words:
    """The words of one set that one tokenizer keeps whole."""

    def __init__(self, name: str, tokenizer: "Tokenizer") -> None:
        self.name = name
        self.data = _data(name)
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """Tokens of a text that begins the model's input."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def whole(self, kind: str, words: Sequence[str]) -> list[str]:
        """Those words that are one token behind another word.

        Raises:
            ModelError: if there are too few.
        """
        before = self.ids("The")
        texts = [f"The {word}" for word in words]
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        kept = [
            word
            for word, item in zip(words, encoded, strict=True)
            if len(item.ids) == len(before) + 1 and item.ids[:-1] == before
        ]
        if len(kept) < _FEWEST[kind]:
            raise ModelError(
                f"circuit:{self.name} expected a tokenizer that keeps at least {_FEWEST[kind]} {kind} whole, this one "
                f"keeps {len(kept)} of {len(words)}: take a model with a larger vocabulary, or another circuit"
            )
        return kept

    @cached_property
    def names(self) -> list[str]:
        genders = _data("names")
        return self.whole("names", [*genders["female"], *genders["male"]])

    @cached_property
    def gendered(self) -> tuple[list[str], list[str]]:
        """Female names, male names."""
        genders = _data("names")
        self.whole("pronouns", ["she", "he"])
        return self.whole("names of a gender", genders["female"]), self.whole("names of a gender", genders["male"])

    @cached_property
    def arguments(self) -> list[str]:
        return self.whole("arguments", self.data["words"]["argument"])

    @cached_property
    def random(self) -> list[str]:
        """Words of the vocabulary, in the order of their tokens."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=False)
        found = [text[1:] for text in sorted(vocabulary, key=vocabulary.__getitem__) if _WORD.fullmatch(text)]
        return self.whole("words", found)

    @cached_property
    def lead(self) -> str:
        """What to put before a text so that its first word is the token that it would be further on."""
        word = self.random[0]
        first, again = self.ids(f"{word} {word}")[0], self.ids(f"{word} {word}")[-1]
        return "" if first == again else " "

    @cached_property
    def years(self) -> dict[str, list[str]]:
        """First years from 1100 to 1799, as endings by what stands before them, where the tokenizer splits them.

        Endings have two digits, as in the source, or one where the tokenizer makes a token of the last digit. Those
        that nothing is later than are left out, and so are 00 and 01 (0 and 1): the counterfactual ends in 01 (1).
        """
        found = 0
        for width in (2, 1):
            _, low, *endings, _ = _endings(width)
            stems = [str(stem) for stem in range(1100 // 10**width, 1800 // 10**width)]
            years = {
                stem: [end for end in endings if self.splits(stem, end)] for stem in stems if self.splits(stem, low)
            }
            found = sum(map(len, years.values()))
            if found >= _FEWEST["years"]:
                return {stem: kept for stem, kept in years.items() if kept}
        raise ModelError(
            f"circuit:{self.name} expected a tokenizer that makes the end of at least {_FEWEST['years']} of the years "
            f"1100 to 1799 a token of its own, this one does for {found}: take another model, or another circuit"
        )

    def splits(self, stem: str, end: str) -> bool:
        """Whether the end of a year is a token of its own behind the rest, which keeps its own tokens."""
        before = f"the year {stem}"
        return self.ids(before + end) == [*self.ids(before), self.tokenizer.token_to_id(end)]


@cache
def _data(name: str) -> dict[str, Any]:
    return yaml.safe_load(resources.files("apmae.prompts").joinpath("circuits", f"{name}.yaml").read_text("utf-8"))


def _ioi(words: _Words, draw: np.random.Generator, number: int) -> _Draft:
    first, second = _pick(draw, words.names, 2)
    # either order as often: the subject was named first (BABA) or second (ABBA)
    subject, other = (first, second) if number % 2 else (second, first)
    template, text = _template(words, draw)
    places = {slot: _pick(draw, choices, 1)[0] for slot, choices in words.data["words"].items()}
    slots = {"first": first, "second": second, **places}
    return _Draft(
        template=template,
        prefix=text.format(subject=subject, **slots),
        counterfactual=text.format(subject=other, **slots),
        completions=(f" {other}",),
        wrong=(f" {subject}",),
    )


def _endings(width: int) -> list[str]:
    return [f"{number:0{width}}" for number in range(10**width)]


def _greater_than(words: _Words, draw: np.random.Generator, number: int) -> _Draft:
    stem = _pick(draw, sorted(words.years), 1)[0]
    width = 4 - len(stem)
    end = _pick(draw, words.years[stem], 1)[0]
    # an ending that is no token would stand for its first digit
    endings = [ending for ending in _endings(width) if words.tokenizer.token_to_id(ending) is not None]
    later = _pick(draw, [ending for ending in endings if ending > end], None)
    template, text = _template(words, draw)
    slots = {"event": _pick(draw, words.data["words"]["event"], 1)[0], "stem": stem}
    return _Draft(
        template=template,
        prefix=text.format(start=stem + end, **slots),
        counterfactual=text.format(start=stem + _endings(width)[1], **slots),
        completions=(later[0], *sorted(later[1:])),
        wrong=tuple(ending for ending in reversed(endings) if ending <= end),
    )


def _docstring(words: _Words, draw: np.random.Generator, number: int) -> _Draft:
    first, second, third, fourth = _pick(draw, words.arguments, 4)
    described = _pick(draw, words.data["words"]["description"], 7)
    template, text = _template(words, draw)
    slots = {
        "function": _pick(draw, words.data["words"]["function"], 1)[0],
        "first": first,
        "second": second,
        **{f"w{index}": word for index, word in enumerate(described)},
    }
    return _Draft(
        template=template,
        prefix=text.format(third=third, fourth=fourth, **slots),
        counterfactual=text.format(third=fourth, fourth=third, **slots),
        completions=(f" {third}",),
        wrong=(f" {fourth}", f" {first}", f" {second}"),
        changed=2,
    )


def _induction(words: _Words, draw: np.random.Generator, number: int) -> _Draft:
    # the length varies, so that a head that looks a fixed way back does not do the task
    length = int(draw.integers(16, 33))
    *block, other = _pick(draw, words.random, length + 1)
    again = int(draw.integers(length // 2, length))
    changed = [*block[:again], other, *block[again + 1 :]]
    return _Draft(
        template=None,
        prefix=words.lead + " ".join([*block, *block[:again]]),
        counterfactual=words.lead + " ".join([*changed, *block[:again]]),
        completions=(f" {block[again]}",),
        wrong=(f" {other}",),
    )


def _gendered_pronouns(words: _Words, draw: np.random.Generator, number: int) -> _Draft:
    names = [_pick(draw, gender, 1)[0] for gender in words.gendered]
    pronouns = (" she", " he")
    mine = number % 2
    template, text = _template(words, draw)
    trait = _pick(draw, words.data["words"]["trait"], 1)[0]
    return _Draft(
        template=template,
        prefix=text.format(name=names[mine], trait=trait),
        counterfactual=text.format(name=names[1 - mine], trait=trait),
        completions=(pronouns[mine],),
        wrong=(pronouns[1 - mine],),
    )


_DRAFTS: dict[str, Callable[[_Words, np.random.Generator, int], _Draft]] = {
    "ioi": _ioi,
    "greater_than": _greater_than,
    "docstring": _docstring,
    "induction": _induction,
    "gendered_pronouns": _gendered_pronouns,
}


def circuit_prompts(name: str, tokenizer: "Tokenizer", *, count: int, seed: int = 0, length: int = 256) -> list[Prompt]:
    """Prompts of a classic circuit, each with its counterfactual, in the order drawn; all of them differ.

    A prompt's ``completion`` and the first of its ``wrong`` completions are one token each behind the prompt and behind
    the counterfactual, and no token crosses into them. ``task`` is the circuit's name, ``group`` the template (None for
    random words), and a template lies in one ``split``, as a source file does: a fifth of them are held out.

    Args:
        name: one of :data:`CIRCUITS`.
        tokenizer: of the model under study, since a counterfactual has as many tokens as its prompt.
        count: how many prompts; more of them leave the first ones as they were.
        seed: which words and templates.
        length: most tokens of a prompt; longer ones are left out, for a window would cut them.

    Raises:
        ConfigError: if there is no such circuit, or the tokenizer truncates or pads.
        ModelError: if the tokenizer splits too many of the words that the circuit needs whole.
        SourceError: if the words do not give so many prompts that differ.
    """
    if name not in _DRAFTS:
        raise ConfigError(f"expected a circuit, one of {', '.join(CIRCUITS)}, got {name!r}; name one of them")
    check_plain(tokenizer)
    words = _Words(name, tokenizer)
    prompts: dict[str, Prompt] = {}
    rejected: Counter[str] = Counter()
    for number in range(count):
        for attempt in range(_TRIES):
            draft = _DRAFTS[name](words, generator(seed, "circuit", name, number, attempt), number)
            reason = "repeated" if draft.prefix in prompts else _misfit(words, draft, length)
            if reason is None:
                prompts[draft.prefix] = _prompt(words, draft, number, seed)
                break
            rejected[reason] += 1
        else:
            why = ", ".join(f"{reason} {times}" for reason, times in sorted(rejected.items()))
            raise SourceError(
                f"expected {count} different prompts of circuit:{name}, found {len(prompts)} with this tokenizer "
                f"(drafts not used: {why}); ask for fewer"
            )
    return list(prompts.values())


def _misfit(words: _Words, draft: _Draft, length: int) -> str | None:
    """Why the tokens of a draft are no minimal pair; None where they are."""
    clean, other = words.ids(draft.prefix), words.ids(draft.counterfactual)
    if len(clean) > length:
        return "too_long"
    if len(clean) != len(other) or sum(a != b for a, b in zip(clean, other, strict=True)) != draft.changed:
        return "tokens_differ"
    for answer in (draft.completions[0], draft.wrong[0]):
        behind, behind_other = words.ids(draft.prefix + answer), words.ids(draft.counterfactual + answer)
        if behind[:-1] != clean or behind_other[:-1] != other:
            return "answer_merges"
    return None


def _prompt(words: _Words, draft: _Draft, number: int, seed: int) -> Prompt:
    name = words.name
    path = f"{SCHEME}{name}/{draft.template or f'random-{number}'}"
    return Prompt(
        id=hashlib.sha256(f"{path}\x1f{draft.prefix}".encode()).hexdigest()[:16],
        task=name,
        language=words.data["language"],
        path=path,
        split=split_of(path) if draft.template is None else _split(draft.template, words),
        line=draft.prefix.count("\n") + 1,
        start=len(draft.prefix),
        prefix=draft.prefix,
        completion=draft.completions[0],
        suffix=None,
        group=None if draft.template is None else f"{name}/{draft.template}",
        counterfactual=draft.counterfactual,
        accepted=draft.completions[1:],
        wrong=draft.wrong,
    )


def _split(template: str, words: _Words) -> str:
    """As ``split_of``, but of so few templates one at least is held out."""
    numbers = [str(index + 1) for index in range(len(words.data["templates"]))]
    order = sorted(numbers, key=lambda number: unit_hash(0, "split", words.name, number))
    return "held_out" if template in order[: max(round(SPLITS["held_out"] * len(order)), 1)] else "train"


def _template(words: _Words, draw: np.random.Generator) -> tuple[str, str]:
    """A template and what to call it: its number in the file, from 1."""
    templates = words.data["templates"]
    index = int(draw.integers(len(templates)))
    return str(index + 1), templates[index]


def _pick(draw: np.random.Generator, choices: list[str], count: int | None) -> list[str]:
    """So many different ones; None: all of them, in another order."""
    return [choices[index] for index in draw.permutation(len(choices))[:count]]
