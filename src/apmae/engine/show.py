"""``show``: a model's heads on one prompt, as a picture or a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from apmae.artifacts import replacing
from apmae.atlas.kinds import measured_names
from apmae.config import LMConfig
from apmae.engine.checks import expect_options, heads_written
from apmae.errors import ConfigError, SourceError
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.lm.outcome import masks_of
from apmae.lm.selection import existing_heads
from apmae.lm.tap import capture
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import score
from apmae.prompts.fim import window
from apmae.prompts.masked import masked_window
from apmae.report.display import with_place
from apmae.report.figures import png
from apmae.report.heads import head_figure, sheet_figure
from apmae.report.sheet import HeadPattern, Sheet
from apmae.report.sheet_page import sheet_page

SIDE = 256
"""Rows of the largest pattern shown; the paper's pattern size."""


class Shown(NamedTuple):
    """What :func:`show` wrote."""

    path: Path
    heads: int
    left_out: int
    """Heads whose numbers did not fit the page, which has only their small pictures."""
    sheet: Sheet
    positions: int | None
    """Tokens that the model was made for; None if its config does not say."""

    @property
    def summary(self) -> str:
        """One line for a terminal."""
        heads = f"{self.heads} head{'' if self.heads == 1 else 's'}"
        less = f"; {self.left_out} of them as small pictures only, name them with --head" if self.left_out else ""
        over = self.positions is not None and (self.sheet.length or 0) > self.positions
        beyond = f"; more than the {self.positions} tokens that the model was made for" if over else ""
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
        prompt: the text that it reads, or the text before the completion position.
        out: ``.png`` for a picture, ``.html`` for a page with the numbers under the pointer.
        suffix: text after the completion position, for models that infill and for encoders, which see a mask there.
        heads: ``(layer, head)`` pairs, each drawn large; "all" draws a contact sheet.
        scale: "log" or "linear" colours.
        long: how to show a prompt of more than :data:`SIDE` tokens: "pool" joins tokens to blocks, "crop" shows the
            last ones.

    Raises:
        ConfigError: if ``out`` is another kind of file, an option has no such value, or the model cannot infill.
        CaptureError: if the prompt is longer than the model's positions, or the model has no such head.
        SourceError: if the prompt has no token.
    """
    path = Path(out)
    expect_options(path, scale, long, 0 if isinstance(heads, str) else len(set(heads)))
    ids = _token_ids(lm, prompt, suffix)
    wanted = heads if isinstance(heads, str) else list(dict.fromkeys(heads))
    inputs = torch.tensor([ids], device=lm.device)
    few = {"logits_to_keep": 1} if lm.keeps_logits else {}  # all logits of a long prompt can be larger than the model
    reach: dict[str, Any] = {long: SIDE}
    with torch.no_grad(), capture(lm.model, heads=wanted, tokenizer=lm.tokenizer, **reach) as tap:
        lm.model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False, **few)
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
    """As :func:`show`, for a language model that is not loaded yet, and with heads written as ``3.5``.

    Args:
        lm: the language model.
        prompt: as for :func:`show`.
        out: the file.
        suffix: text after the completion position.
        heads: none draws a contact sheet.
        scale: of the colours.
        long: how to show a long prompt.
    """
    model = load(lm)
    chosen = parse_heads(heads, model) if heads else "all"
    return show(model, prompt, out, suffix=suffix, heads=chosen, scale=scale, long=long)


def sheet_of(
    patterns: Patterns,
    *,
    model: str,
    prompt: int = 0,
    ids: Sequence[int] | None = None,
    order: Sequence[tuple[int, int]] | None = None,
) -> Sheet:
    """The patterns of one prompt, ready for pictures.

    Args:
        patterns: with ``tokens``, labels are words; without, rows are numbered.
        model: what to call the model.
        prompt: which of the patterns' prompts.
        ids: its tokens, for names that depend on which tokens are equal.
        order: ``(layer, head)`` pairs, in the order wanted; by default as captured.
    """
    labels = patterns.labels(prompt)
    own = patterns[patterns.prompt == prompt]
    probabilities = own.probabilities()[:, : len(labels), : len(labels)]
    length = (patterns.lengths or {}).get(prompt, len(labels))
    names = [""] * len(own)
    if length == len(labels):  # scores need one row per token
        scores = score(own, None if ids is None else [ids], [labels] if patterns.tokens else None)
        called = zip(measured_names(scores.values, scores.key_kinds), scores.sinks, strict=True)
        names = [with_place(name, sinks, [labels[position] for position in sinks]) for name, sinks in called]
    places = list(zip(own.layer.tolist(), own.head.tolist(), strict=True))
    by_place = {place: HeadPattern(*place, names[i], probabilities[i]) for i, place in enumerate(places)}
    heads = tuple(by_place[place] for place in order or places)
    return Sheet(model, tuple(labels), heads, patterns.causal, patterns.reach, length)


def parse_heads(texts: Sequence[str], lm: LM) -> list[tuple[int, int]]:
    """Heads of a model, written as ``3.5``.

    Raises:
        ConfigError: if one is written otherwise, or the model does not have it.
    """
    heads = heads_written(texts)
    for layer, head in heads:
        if head >= lm.heads.get(layer, 0):
            raise ConfigError(f"expected LAYER.HEAD like 3.5 with {existing_heads(lm.heads)}, got '{layer}.{head}'")
    return heads


def _token_ids(lm: LM, prompt: str, suffix: str | None) -> list[int]:
    """The tokens of a text as the model reads it: with its special tokens, or with its sentinels around the hole, then
    cut to the model's positions like every window.
    """
    if suffix is None:
        ids = lm.tokenizer(prompt, truncation=False, verbose=False).input_ids if lm.backend_tokenizer else []
    elif not lm.causal:
        length = len((prompt + suffix).encode("utf-8", "replace")) + 8
        masks, length = masks_of(lm), min(length, lm.max_length or length)
        parts = masked_window(lm.backend_tokenizer, prompt, masks.text, suffix, length=length, masks=masks)
        ids = list(parts.ids)
    elif lm.sentinels is None:
        raise ConfigError(
            f"expected a model with fill-in-the-middle tokens for a suffix, {lm.name} has none; leave the suffix out"
        )
    else:
        length = len((prompt + suffix).encode("utf-8", "replace")) + 8  # a token has at least one byte
        length = min(length, lm.max_length or length)
        parts = window(lm.backend_tokenizer, prompt, "\n", suffix, length=length, sentinels=lm.sentinels, bos=lm.bos)
        ids = list(parts.ids)
    if not ids:
        raise SourceError("expected a prompt of at least one token, got none; give text")
    return ids
