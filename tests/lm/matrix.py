"""Runs the matrix of model families: small random models, plain, captured, and by their own eager attention."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers as hf
from families import FAMILIES, REFUSED, VOCABULARY, Family, config_of
from transformers.utils import logging

import apmae
from apmae.patterns.patterns import Patterns

PADDINGS = ("none", "right", "left")
BATCH, SIZE = 3, 70
"""Prompts and tokens: more than two patches, and than two sliding windows."""


def random_model(
    config: Any,
    seed: int = 0,
    attention: str = "sdpa",
    sharpen: float = 5.0,
    dtype: torch.dtype = torch.float32,
    square: bool = False,
) -> Any:
    """A random model whose attention is not flat: its matrices are larger than at initialisation."""
    torch.manual_seed(seed)
    factory: Any = hf.AutoModelForMaskedLM if square else hf.AutoModelForCausalLM
    if config.get_text_config() is not config:
        factory = hf.AutoModelForImageTextToText
    model = factory.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(sharpen)
    return model.requires_grad_(False)


@cache
def family_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The small model of a family, as loading it would leave it; made once, to be left as it is."""
    family = FAMILIES[name]
    attention = "sdpa" if family.sdpa else "eager"
    return random_model(
        config_of(family), attention=attention, sharpen=family.sharpen, dtype=dtype, square=family.square
    )


@cache
def eager_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same weights in a model that was built with eager attention: Falcon cannot be switched to it later."""
    family = FAMILIES[name]
    model = random_model(config_of(family), attention="eager", dtype=dtype, square=family.square)
    model.load_state_dict(family_model(name, dtype).state_dict())
    if name == "falcon-alibi":
        for block in model.transformer.h:
            block.self_attention.register_forward_pre_hook(_once, with_kwargs=True)
    return model


def _once(_module: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Falcon's eager attention adds ALiBi to a mask that holds it already; its SDPA, as trained, does not."""
    return arguments, {**keywords, "alibi": torch.zeros_like(keywords["alibi"])}


def refused_model(name: str) -> Any:
    """A small model of a family that cannot be captured."""
    torch.manual_seed(0)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # which kernels some families would rather have
    try:
        return getattr(hf, REFUSED[name].model)(config_of(REFUSED[name])).eval()
    finally:
        logging.set_verbosity(verbosity)


def tokens(
    batch: int = BATCH, size: int = SIZE, padding: str = "none", seed: int = 0, shorter: int = 5
) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` (batch, size) of prompts, each ``shorter`` than the one before."""
    ids = torch.randint(3, VOCABULARY, (batch, size), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        missing = min(shorter * row + 2, size - 1)
        if padding == "left":
            mask[row, :missing] = 0
        if padding == "right":
            mask[row, size - missing :] = 0
    return {"input_ids": ids.where(mask.bool(), 0), "attention_mask": mask}


def visible(family: Family, mask: torch.Tensor) -> np.ndarray:
    """(batch, heads of all layers, size, size) which keys a query may attend to, by the table; none for padding."""
    real = mask.bool().numpy()
    position = np.arange(mask.shape[1])
    ahead = position[:, None] - position  # query_pos - key_pos
    heads = []
    for layer, count in family.counts.items():
        window: Any = family.windows[layer]
        if family.square:
            seen = np.ones_like(ahead, bool) if window is None else abs(ahead) <= window // 2
        else:
            seen = (ahead >= 0) & (window is None or ahead < window)
        heads += [real[:, :, None] & real[:, None, :] & seen] * count
    return np.stack(heads, 1)


def eager_attentions(name: str, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(batch, heads of all layers, size, size) what eager attention says; some models list other layers beside them."""
    found = eager_model(name, dtype)(**inputs, output_attentions=True).attentions
    layers = FAMILIES[name].counts
    return torch.cat([found[layer] for layer in layers] if len(found) > len(layers) else list(found), 1)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cell of the matrix: a plain forward, a captured one, a plain one again, and eager attention."""

    patterns: Patterns
    ours: np.ndarray  # (batch, heads of all layers, size, size) float32
    theirs: np.ndarray  # the same, float64; nothing where a query may not attend
    allowed: np.ndarray  # the same, where it may
    plain: torch.Tensor  # logits
    captured: torch.Tensor
    again: torch.Tensor

    @property
    def difference(self) -> float:
        """The largest in probability."""
        return float(np.abs(self.ours - self.theirs).max())

    @property
    def moved(self) -> np.ndarray:
        """(heads,) share of its attention that a head puts elsewhere than eager's, a mean over real rows."""
        rows = self.allowed.any(-1).sum((0, -1))
        return np.abs(self.ours - self.theirs).sum((0, -2, -1)) / 2 / rows


def from_first_token(array: np.ndarray, mask: torch.Tensor) -> np.ndarray:
    """(batch, ..., size, size) with padding on the left cut off: row and column 0 are a prompt's first real token."""
    starts = mask.argmax(-1).tolist()
    return np.stack([np.roll(own, (-start, -start), (-2, -1)) for own, start in zip(array, starts, strict=True)])


@torch.no_grad()
def run(name: str, padding: str, dtype: torch.dtype = torch.float32) -> Run:
    """One cell of the matrix."""
    family, model = FAMILIES[name], family_model(name, dtype)
    inputs = tokens(padding=padding)
    allowed = visible(family, inputs["attention_mask"])
    if not family.square:
        inputs["use_cache"] = False
    plain = model(**inputs).logits
    with apmae.capture(model) as tap:
        captured = model(**inputs).logits
    again = model(**inputs).logits
    theirs = eager_attentions(name, inputs, dtype).double().numpy()
    theirs = np.where(allowed, theirs, 0)  # eager fills rows of padding with anything
    return Run(
        patterns=tap.patterns,
        ours=tap.patterns.probabilities().reshape(theirs.shape),
        theirs=from_first_token(theirs, inputs["attention_mask"]),
        allowed=from_first_token(allowed, inputs["attention_mask"]),
        plain=plain,
        captured=captured,
        again=again,
    )
