"""From texts to rows of token ids: the byte-level BPE, plain rows and infilling rows."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lm_families import END, MIDDLE, PAD, PREFIX, SUFFIX, Part, Settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from apmae.seeding import generator

# A token's role decides its weight in the loss. Sentinels are UNSCORED: their places are drawn, not to be learnt.
UNSCORED, CONTEXT, INFILLED, FIRST = range(4)

Row = list[tuple[int, int]]
"""Token id and role of each place."""


def train_tokenizer(texts: list[str], settings: Settings) -> Tokenizer:
    """Byte-level BPE with single digits, on 20 MB of the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=settings.special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    order = generator(settings.seed, "tokenizer").permutation(len(texts))
    before = np.cumsum([0, *(len(texts[index]) for index in order)])
    tokenizer.train_from_iterator([texts[i] for i, start in zip(order, before, strict=False) if start < 2e7], trainer)
    return tokenizer


def load_tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a model folder, which must have the settings' vocabulary size and special tokens
    in their places.

    Raises:
        ValueError: ``tokenizer.json`` is no tokenizer, or a different one.
        OSError: there is no such file.
    """
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as problem:  # the library raises nothing narrower
        raise ValueError(f"expected a tokenizer, got {file} ({problem}): take the tokenizer of the family") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = [tokenizer.id_to_token(index) for index in range(len(settings.special))]
    if tokenizer.get_vocab_size() != settings.vocab_size or special != settings.special:
        raise ValueError(
            f"expected {settings.vocab_size} tokens of which the first are {', '.join(settings.special)}; {file} has "
            f"{tokenizer.get_vocab_size()}, first {', '.join(map(str, special))}: take the tokenizer of the family"
        )
    return tokenizer


LEXEME = re.compile(
    r"""
      (?P<comment> //[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string> \"{3}.*?\"{3} | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
    | (?P<number> \b(?: 0[xXbB][\da-fA-F_]+ | \d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)? )[lLfFdD]? )
    | (?P<boolean> \b(?:true|false)\b )
    | (?P<line_end> [;{,](?=[ \t]*\n) )
    | (?P<closing> [)\]}] )
    | (?P<comparison> [=!<>]= | (?<=\s)[<>](?=\s) )
    | (?P<logical> && | \|\| | ! )
    | (?P<assignment> (?: << | >>>? | [-+*/%&|^] )?= )
    | (?P<math> \+\+ | -- | [-+*/%](?!>) )
    | (?P<word> [A-Za-z_$][\w$]* )
    | (?P<other> \S )
    """,
    re.VERBOSE | re.DOTALL,
)
BALANCED = ("string", "number", "boolean", "line_end", "closing", "comparison", "logical", "assignment", "math", "word")


class Texts:
    """Texts laid end to end, so that one number draws a file, in proportion to its size, and a place in it."""

    def __init__(self, texts: list[str], tokenizer: Tokenizer) -> None:
        self.texts = texts
        self.ends = np.cumsum([len(text) for text in texts])
        self.encode: Callable[[str], list[int]] = lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    def draw(self, rng: np.random.Generator) -> tuple[str, int]:
        """A text and the start of one of its lines."""
        place = int(rng.integers(self.ends[-1]))
        index = int(np.searchsorted(self.ends, place, side="right"))
        text = self.texts[index]
        return text, text.rfind("\n", 0, place - int(self.ends[index]) + len(text)) + 1


def draw_middle(texts: Texts, moved_space: float, rng: np.random.Generator) -> tuple[str, int, int]:
    """A text and where its middle starts and ends: from a lexeme's start over one lexeme, a few, or the line's rest.

    Half of the cuts choose the kind of lexeme first, because brackets and words would otherwise drown the other kinds.
    """
    kind = str(rng.choice(BALANCED)) if rng.random() < 0.5 else None
    for attempt in range(1000):
        text, line = texts.draw(rng)
        if text.rfind("/*", 0, line) > text.rfind("*/", 0, line):
            continue  # inside a comment
        found = [m for m in LEXEME.finditer(text, line, min(len(text), line + 1000)) if m.lastgroup != "comment"]
        fitting = [i for i, m in enumerate(found) if m.lastgroup == kind or kind is None or attempt > 20]
        if fitting:
            break
    else:
        raise ValueError("expected Java code in the archive, found no lexeme in 1000 places")
    at = int(rng.choice(fitting))
    start, line_end = found[at].start(), text.find("\n", found[at].end())
    count = (1, int(rng.integers(2, 5)), int(rng.integers(5, 16)), 0)[rng.integers(4)]
    end = found[min(at + count, len(found)) - 1].end() if count else line_end if line_end >= 0 else len(text)
    lone_space = re.fullmatch(r"\S ", text[max(0, start - 2) : start])
    return text, start - (lone_space is not None and rng.random() < moved_space), end


def infilling_sample(texts: Texts, budget: int, moved_space: float, rng: np.random.Generator) -> Row:
    """``<fim_prefix> p <fim_suffix> s <fim_middle> m <|endoftext|>`` in at most ``budget`` tokens.

    Source: the prefix-suffix-middle order of Bavarian et al. 2022, section 3, with StarCoder2's sentinels. The three
    pieces are encoded separately, as they are when a prompt is made.
    """
    text, start, end = draw_middle(texts, moved_space, rng)
    middle = [*texts.encode(text[start:end]), END][: budget // 3]  # a longer middle loses its end
    room = budget - 3 - len(middle)
    # Eight characters per token are twice the mean: enough for either side to fill the room alone.
    prefix = texts.encode(text[max(0, start - 8 * room) : start])
    suffix = texts.encode(text[end : end + 8 * room])
    right = min(len(suffix), max(room - int(room * rng.uniform(0.25, 0.75)), room - len(prefix)))
    left = min(len(prefix), room - right)
    row = [(PREFIX, UNSCORED), *((token, CONTEXT) for token in prefix[len(prefix) - left :])]
    row += [(SUFFIX, UNSCORED), *((token, CONTEXT) for token in suffix[:right])]
    return [*row, (MIDDLE, UNSCORED), (middle[0], FIRST), *((token, INFILLED) for token in middle[1:])]


def plain_row(texts: Texts, context: int, opened: bool, rng: np.random.Generator) -> Row:
    """Text from some line on, after ``<|endoftext|>`` if opened; where a file ends, that and another follow."""
    row: Row = []
    skipped = 0 if opened else 1
    while len(row) < skipped + context:
        text, start = texts.draw(rng)
        tokens = texts.encode(text[start : start + 8 * context])
        row += [(END, CONTEXT if row else UNSCORED), *((token, CONTEXT) for token in tokens)]
    return row[skipped : skipped + context]


def draw_rows(
    texts: Texts, part: Part, context: int, opened: bool, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Token ids and roles, each ``[count, context]``; what an infilling row's samples leave empty is padding."""
    rows: list[Row] = []
    for _ in range(count):
        row: Row = []
        if rng.random() < part.infilling:
            samples = 1 + int(rng.choice(len(part.samples), p=part.samples))
            for _ in range(samples):
                row += infilling_sample(texts, context // samples, part.moved_space, rng)
        else:
            row = plain_row(texts, context, opened, rng)
            if part.repeated and rng.random() < part.repeated:
                said = int(rng.integers(context // 8, context // 2))
                row = (row[:said] + row)[:context]
        rows.append(row + [(PAD, UNSCORED)] * (context - len(row)))
    both = torch.tensor(rows)
    return both[..., 0], both[..., 1]
