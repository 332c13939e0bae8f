"""``show``: a model's heads on one prompt as a picture or a page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from apmae.artifacts import replacing
from apmae.atlas.names import measured_names
from apmae.config import LMConfig
from apmae.errors import ConfigError, SourceError
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.lm.selection import existing_heads
from apmae.lm.tap import capture
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import score
from apmae.prompts.fim import window
from apmae.prompts.line import line_prompt, read_source
from apmae.report.figures import png
from apmae.report.heads import expect_scale, head_figure, sheet_figure
from apmae.report.sheet import HeadPattern, Sheet
from apmae.report.sheet_page import sheet_page

SUFFIXES = (".png", ".html")
SIDE = 256
"""Rows of the largest pattern shown; the paper's pattern size."""
LONG = ("pool", "crop")


class Shown(NamedTuple):
    """What :func:`show` wrote."""

    path: Path
    heads: int
    left_out: int
    """Heads whose numbers did not fit the page: it has their small picture only."""
    sheet: Sheet
    positions: int | None
    """Tokens that the model was made for, where its config says."""

    @property
    def summary(self) -> str:
        """One line for a terminal."""
        heads = f"{self.heads} head{'' if self.heads == 1 else 's'}"
        less = f"; of {self.left_out} the small picture only, name them with --head" if self.left_out else ""
        over = self.positions is not None and (self.sheet.length or 0) > self.positions
        beyond = f"; beyond the {self.positions} tokens that the model was made for" if over else ""
        return f"{heads} on {self.sheet.size} in {self.path}{less}{beyond}"


def show(
    lm: LM,
    prompt: str,
    out: str | Path,
    *,
    suffix: str | None = None,
    heads: str | Sequence[tuple[int, int]] = "all",
    scale: str = "log",
    long: str = "pool",
) -> Shown:
    """Run a model on one prompt and draw its heads.

    Args:
        lm: the language model, a decoder or an encoder.
        prompt: what it reads, or what stands before the completion position.
        out: ``.png`` for a picture, ``.html`` for a page with the numbers under the pointer.
        suffix: text behind the completion position, for models that infill.
        heads: ``(layer, head)`` pairs, each drawn large; "all" draws a contact sheet.
        scale: "log" or "linear" colours.
        long: what becomes of a prompt of more than :data:`SIDE` tokens: "pool" joins tokens to blocks, "crop" shows the
            last ones.

    Raises:
        ConfigError: if ``out`` is neither kind of file, an option has no such value, or the model cannot infill.
        CaptureError: if the prompt is longer than the model's positions, or the model has no such head.
        SourceError: if the prompt has no token.
    """
    path = Path(out)
    expect_options(path, scale, long)
    ids = _token_ids(lm, prompt, suffix)
    wanted = heads if isinstance(heads, str) else list(dict.fromkeys(heads))
    inputs = torch.tensor([ids], device=lm.device)
    kept = {"logits_to_keep": 1} if lm.keeps_logits else {}  # all logits of a long prompt can outweigh the model
    reach: dict[str, Any] = {long: SIDE}
    with torch.no_grad(), capture(lm.model, heads=wanted, tokenizer=lm.tokenizer, **reach) as tap:
        lm.model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False, **kept)
    order = None if isinstance(wanted, str) else wanted
    sheet = sheet_of(tap.patterns, model=lm.name, ids=ids, order=order)
    if order is None:
        sheet = sheet._replace(heads_by_layer=lm.heads_by_layer)
    if path.suffix.lower() == ".html":
        content, left_out = sheet_page(sheet, scale)
    else:
        content, left_out = png((sheet_figure if order is None else head_figure)(sheet, scale), cropped=True), 0
    with replacing(path) as file:
        file.write(content)
    return Shown(path, len(sheet.heads), left_out, sheet, lm.max_length)


def show_heads(
    lm: LMConfig, prompt: str, out: Path, *, suffix: str | None, heads: Sequence[str], scale: str, long: str
) -> Shown:
    """As :func:`show`, of a language model that is not loaded yet, and with heads written as ``3.5``.

    Args:
        lm: the language model.
        prompt: as for :func:`show`, and so are the others.
        out: the file.
        suffix: text behind the completion position.
        heads: none draws a contact sheet.
        scale: of the colours.
        long: what becomes of a long prompt.
    """
    model = load(lm)
    chosen = parse_heads(heads, model) if heads else "all"
    return show(model, prompt, out, suffix=suffix, heads=chosen, scale=scale, long=long)


def expect_options(out: Path, scale: str, long: str) -> None:
    """Check what needs no model, before one is loaded.

    Raises:
        ConfigError: as :func:`show`.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"expected a file that ends in {' or '.join(SUFFIXES)}, got {out}; give --out another name")
    expect_scale(scale)
    if long not in LONG:
        raise ConfigError(f"expected a way to show long prompts, one of {', '.join(LONG)}, got {long!r}")


def sheet_of(
    patterns: Patterns,
    *,
    model: str,
    prompt: int = 0,
    ids: Sequence[int] | None = None,
    order: Sequence[tuple[int, int]] | None = None,
) -> Sheet:
    """The patterns of one prompt as pictures take them.

    Args:
        patterns: with ``tokens`` for labels of words; without, rows are numbered.
        model: what to call the model.
        prompt: which of the patterns' prompts.
        ids: its tokens, for the names that need to know which are equal.
        order: ``(layer, head)`` pairs, in the order wanted; by default as captured.
    """
    labels = patterns.labels(prompt)
    own = patterns[patterns.prompt == prompt]
    probabilities = own.probabilities()[:, : len(labels), : len(labels)]
    length = (patterns.lengths or {}).get(prompt, len(labels))
    names = [""] * len(own)
    if patterns.causal and length == len(labels):  # scores are of causal patterns, with a row a token
        scores = score(own, None if ids is None else [ids], [labels] if patterns.tokens else None)
        names = measured_names(scores.values, scores.key_kinds)
    places = list(zip(own.layer.tolist(), own.head.tolist(), strict=True))
    found = {place: HeadPattern(*place, names[i], probabilities[i]) for i, place in enumerate(places)}
    heads = tuple(found[place] for place in order or places)
    return Sheet(model, tuple(labels), heads, patterns.causal, patterns.reach, length)


def parse_heads(texts: Sequence[str], lm: LM) -> list[tuple[int, int]]:
    """Heads written as ``3.5``.

    Raises:
        ConfigError: if one is written otherwise, or the model has none such.
    """
    heads = []
    for text in texts:
        match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text, re.ASCII)
        if not match or int(match[2]) >= lm.heads.get(int(match[1]), 0):
            raise ConfigError(f"expected LAYER.HEAD like 3.5 with {existing_heads(lm.heads)}, got {text!r}")
        heads.append((int(match[1]), int(match[2])))
    return heads


def prompt_text(text: str | None, file: Path | None, line: int | None, suffix: str | None) -> tuple[str, str | None]:
    """What the options of the command line say to read: the text, and what stands behind the completion position.

    Raises:
        ConfigError: if the text is given twice, not at all, or ``line`` without a file.
        SourceError: if the file cannot be read.
    """
    if (text is None) == (file is None):
        raise ConfigError("expected one of --prompt and --file, got " + ("both" if file else "neither"))
    if line is not None:
        if file is None or suffix is not None:
            raise ConfigError("expected --line with --file and without --suffix: the lines below it are the suffix")
        prompt = line_prompt(file, line)
        return prompt.prefix, prompt.suffix
    return (text if file is None else read_source(file)) or "", suffix


def _token_ids(lm: LM, prompt: str, suffix: str | None) -> list[int]:
    """Tokens as the model reads a text: its own special tokens around it, or its sentinels around a hole, cut to the
    model's positions as every window is.
    """
    if suffix is None:
        ids = lm.tokenizer(prompt, truncation=False, verbose=False).input_ids if lm.backend_tokenizer else []
    elif lm.sentinels is None:
        raise ConfigError(
            f"expected a model with fill-in-the-middle tokens for a suffix, {lm.name} has none; leave the suffix out"
        )
    else:
        length = len((prompt + suffix).encode("utf-8", "replace")) + 8  # a token has at least a byte
        length = min(length, lm.max_length or length)
        parts = window(lm.backend_tokenizer, prompt, "\n", suffix, length=length, sentinels=lm.sentinels, bos=lm.bos)
        ids = list(parts.ids)
    if not ids:
        raise SourceError("expected a prompt of at least one token, got none; give text")
    return ids
