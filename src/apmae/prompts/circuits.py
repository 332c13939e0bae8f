"""Classic circuits as prompts with counterfactuals, made from templates and a tokenizer. Torch-free.

Templates, words, sources and definitions are in ``circuits/<name>.yaml``; ``docs/circuits.md`` explains each set. A
prompt and its counterfactual have the same number of tokens and differ only in those that matter: the symmetric token
replacement of Zhang and Nanda 2023 (arXiv:2309.16042). What is drawn depends only on set, seed and tokenizer.

The counterfactual holds other tokens of the same kind, so the first wrong completion is right for it. The corruptions
in the original papers (three unrelated names, random arguments, "That person") leave no right answer instead. All
prompts of a set are kept, not balanced by outcome: sets are compared between models, and a model that cannot do the
task has no correct half.
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
"""How a source of prompts begins if it is a circuit, not files; the path of a circuit's prompt begins with it too."""

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
"""Fewest that must be one token each (years: two). With fewer, prompts would be too similar."""

_TRIES = 100
"""Drafts tried for one prompt before giving up: the words are then used up."""

_WORD = re.compile("[\u0120\u2581][A-Za-z]{3,}")
"""A word with the space before it, as byte-level and SentencePiece vocabularies spell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """One prompt as text, before its tokens are looked at."""

    template: str | None
    """None for random words: the prompt then has no group."""
    prefix: str
    counterfactual: str
    completions: tuple[str, ...]
    """Right completions; the first is the prompt's ``completion``."""
    wrong: tuple[str, ...]
    """Wrong completions; the first is right for the counterfactual."""
    changed: int = 1
    """In how many tokens the counterfactual differs."""


class _Words:
    """The words of one set that are one token each for one tokenizer."""

    def __init__(self, name: str, tokenizer: "Tokenizer") -> None:
        self.name = name
        self.data = _data(name)
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """Tokens of a text that begins the model's input."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def whole(self, kind: str, words: Sequence[str]) -> list[str]:
        """The words that are one token after another word.

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
        """What to put before a text so that its first word has the token that it would have later in the text."""
        word = self.random[0]
        first, again = self.ids(f"{word} {word}")[0], self.ids(f"{word} {word}")[-1]
        return "" if first == again else " "

    @cached_property
    def years(self) -> dict[str, list[str]]:
        """First years from 1100 to 1799 that the tokenizer splits in two: endings by the digits before them.

        Endings have two digits, as in the paper, or one if the tokenizer splits off the last digit alone. Left out are
        the last ending, because no year is later, and 00 and 01 (or 0 and 1), because the counterfactual ends in 01
        (or 1).
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
            f"1100 to 1799 a separate token, this one does for {found}: take another model, or another circuit"
        )

    def splits(self, stem: str, end: str) -> bool:
        """Whether the end of a year is a separate token, and the digits before it keep their tokens."""
        before = f"the year {stem}"
        return self.ids(before + end) == [*self.ids(before), self.tokenizer.token_to_id(end)]


@cache
def _data(name: str) -> dict[str, Any]:
    return yaml.safe_load(resources.files("apmae.prompts").joinpath("circuits", f"{name}.yaml").read_text("utf-8"))


def _ioi(words: _Words, draw: np.random.Generator, number: int) -> _Draft:
    first, second = _pick(draw, words.names, 2)
    # both orders equally often: the subject was named first (BABA) or second (ABBA)
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
    # an ending of several tokens would be judged by its first digit
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
    # the length varies, so that a head that looks back by a fixed distance cannot do the task
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
    names = [_pick(draw, choices, 1)[0] for choices in words.gendered]
    pronouns = (" she", " he")
    gender = number % 2
    template, text = _template(words, draw)
    trait = _pick(draw, words.data["words"]["trait"], 1)[0]
    return _Draft(
        template=template,
        prefix=text.format(name=names[gender], trait=trait),
        counterfactual=text.format(name=names[1 - gender], trait=trait),
        completions=(pronouns[gender],),
        wrong=(pronouns[1 - gender],),
    )


_DRAFTS: dict[str, Callable[[_Words, np.random.Generator, int], _Draft]] = {
    "ioi": _ioi,
    "greater_than": _greater_than,
    "docstring": _docstring,
    "induction": _induction,
    "gendered_pronouns": _gendered_pronouns,
}


def circuit_prompts(name: str, tokenizer: "Tokenizer", *, count: int, seed: int = 0, length: int = 256) -> list[Prompt]:
    """Prompts of a classic circuit, each with its counterfactual, in the order drawn; no two are the same.

    After the prompt and after the counterfactual, ``completion`` and the first of the ``wrong`` completions are one
    token each, and no token crosses into them. ``task`` is the circuit's name and ``group`` the template (None for
    random words). A template is in one ``split``, as a source file is: a fifth of them is held out.

    Args:
        name: one of :data:`CIRCUITS`.
        tokenizer: of the model under study, since a counterfactual has as many tokens as its prompt.
        count: how many prompts; a larger count does not change the first ones.
        seed: decides which words and templates are drawn.
        length: most tokens in a prompt; longer ones are left out, because a window would cut them.

    Raises:
        ConfigError: if there is no such circuit, or the tokenizer truncates or pads.
        ModelError: if the tokenizer splits too many of the words that the circuit needs whole.
        SourceError: if the words do not give that many different prompts.
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
                f"(drafts rejected: {why}); ask for fewer"
            )
    return list(prompts.values())


def _misfit(words: _Words, draft: _Draft, length: int) -> str | None:
    """Why the tokens of a draft are not a minimal pair; None if they are."""
    clean, other = words.ids(draft.prefix), words.ids(draft.counterfactual)
    if len(clean) > length:
        return "too_long"
    if len(clean) != len(other) or sum(a != b for a, b in zip(clean, other, strict=True)) != draft.changed:
        return "tokens_differ"
    for answer in (draft.completions[0], draft.wrong[0]):
        answered, other_answered = words.ids(draft.prefix + answer), words.ids(draft.counterfactual + answer)
        if answered[:-1] != clean or other_answered[:-1] != other:
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
    """Like ``split_of``, but at least one template is held out, however few there are."""
    numbers = [str(index + 1) for index in range(len(words.data["templates"]))]
    order = sorted(numbers, key=lambda number: unit_hash(0, "split", words.name, number))
    return "held_out" if template in order[: max(round(SPLITS["held_out"] * len(order)), 1)] else "train"


def _template(words: _Words, draw: np.random.Generator) -> tuple[str, str]:
    """A template and what to call it: its number in the file, from 1."""
    templates = words.data["templates"]
    index = int(draw.integers(len(templates)))
    return str(index + 1), templates[index]


def _pick(draw: np.random.Generator, choices: list[str], count: int | None) -> list[str]:
    """``count`` different choices in random order; None: all of them."""
    return [choices[index] for index in draw.permutation(len(choices))[:count]]
