"""Model cards: what a hub's page says about an AP-MAE, filled in from the manifest and the log of its training.

A manifest may come from a stranger. Nothing of it enters the YAML header. In the Markdown it only fills table cells, as
text that cannot become a link, an image, HTML or another cell.

A card is written when it is needed: by a push, and by ``save_pretrained`` of an encoder that was loaded from a training
folder, because the manifest is not copied. The training folder itself has the manifest and gets no card. The card of a
checkpoint in the published layout is not kept, because it says to load the weights with other code. Manifests contain
no languages, paths or sources.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from apmae.config import APMAEConfig
from apmae.model.files import Files
from apmae.model.folder import CARD
from apmae.model.hub import expect_license

_LONGEST = 200
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_LABELS = {"lm": "language model"}
_LOSSES = ("loss", "published_loss", "held_out_loss")

_TEXT = """\
---
library_name: apmae
{license}
tags:
- apmae
- attention
- interpretability
- masked-autoencoder
---

# AP-MAE

An attention pattern masked autoencoder. It turns a pattern, the post-softmax attention of one head of a language model
on one prompt, into an embedding of {dim} numbers. Embeddings are clustered into an atlas of named patterns, by which
every head of a model is tagged in one forward pass. The method is that of "Automated Attention Pattern Discovery at
Scale in Large Language Models" (Katzy et al.), as the Python package `apmae` implements it.

## How to load it

```python
import apmae

mae = apmae.APMAE.from_pretrained("{source}")
lm = apmae.load_lm("folder-or-hub-id")
inputs = lm.tokenizer("int x = ", return_tensors="pt")
with apmae.capture(lm.model, heads="all") as tap:
    lm.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
z = mae.encode(tap.patterns)  # float32 (heads, {dim})
```

On the command line: `apmae encode --lm MODEL --encoder {source} --prompts prompts.parquet --out embeddings/`

## Model

{model}{training}
## Limits

- It reads {kind} patterns of at most {size} tokens. Patterns of longer prompts are first pooled or cropped.
- Embeddings can be compared with those of this encoder only. An atlas belongs to the encoder that it was fitted with.
- It is trained on patterns of one language model. `apmae evaluate` measures how well it does on another's.
- It describes patterns. It does not say what a head is for, or whether a pattern causes an answer.
"""
_PUBLISHED = """
## Training

Imported from a checkpoint in the layout that the paper's authors published. How it was trained is not recorded there.
"""


class Origin(NamedTuple):
    """What the folder of an AP-MAE says about its training."""

    card: str | None
    """The card beside the weights."""
    manifest: Mapping[str, Any] | None
    """Of the training (``artifacts.Stage``)."""
    metrics: Mapping[str, Any]
    """The last value of each loss in the log."""
    published: bool
    """Whether the weights are in the published layout."""


def read_origin(files: Files) -> Origin | None:
    """What is known of a checkpoint's training; None if nothing.

    Damaged files count as missing: the model can be used without them.
    """
    card, manifest, log = (_read(files.folder / name) for name in (CARD, "manifest.json", "metrics.jsonl"))
    record = _json(manifest)
    record = record if record and record.get("stage") == "train" else None
    metrics: dict[str, Any] = {}
    for line in log.splitlines() if record else ():
        metrics |= {name: value for name, value in (_json(line) or {}).items() if name in _LOSSES}
    if files.published:  # its own card describes another library
        return Origin(None, None, {}, True)
    return Origin(card or None, record, metrics, False) if card or record else None


def model_card(
    config: APMAEConfig,
    weights: Mapping[str, Tensor],
    origin: Origin | None,
    *,
    repo_id: str | None = None,
    license: str | None = None,
) -> str:
    """See :meth:`apmae.APMAE.model_card`."""
    expect_license(license, card=bool(origin and origin.card))
    if origin and origin.card:
        return origin.card
    training = ""
    if origin and origin.published:
        training = _PUBLISHED
    elif origin and origin.manifest:
        training = f"\n## Training\n\n{_table(_training(origin.manifest, origin.metrics))}"
    return _TEXT.format(
        license=f"license: {license}" if license else "# license: left to whoever publishes this",
        dim=config.encoder_dim,
        kind="causal" if config.causal else "square",
        size=config.pattern_size,
        source=repo_id if repo_id and _REPOSITORY.fullmatch(repo_id) else "folder-or-hub-id",
        model=_table(_model(config, weights)),
        training=training,
    )


def _model(config: APMAEConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    c = config
    parts = {"encoder": 0, "decoder": 0}
    for name, tensor in weights.items():
        parts["decoder" if name.startswith(("decoder", "to_", "mask_token")) else "encoder"] += tensor.numel()
    for part, layers, dim, heads, mlp in (
        ("encoder", c.encoder_layers, c.encoder_dim, c.encoder_heads, c.encoder_mlp_dim),
        ("decoder", c.decoder_layers, c.decoder_dim, c.decoder_heads, c.decoder_mlp_dim),
    ):
        size = f"{layers} layers x {dim}, {heads} heads, MLP {mlp}, {parts[part] / 1e6:.1f} M parameters"
        yield part, size
    yield "pattern", f"{c.pattern_size} x {c.pattern_size} tokens in patches of {c.patch_size} x {c.patch_size}"
    yield "scaling", c.scaling
    yield "hidden in training", f"{c.num_masked} of {c.num_patches} patches"
    yield "decoder sees", "the visible patches" if c.decoder_input == "visible" else "CLS alone"
    yield "positions", "of the patches on or below the diagonal" if c.grid == "triangle" else "of the whole grid"


def _training(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a manifest says, as flat rows; the model's own settings are in the other table."""
    counts, config = _mapping(manifest, "counts"), _mapping(manifest, "config")
    yield from ((_LABELS.get(name, name), value) for name, value in counts.items())
    yield from ((f"last {name}", value) for name, value in metrics.items())
    yield from (
        (f"SHA-256 of {_LABELS.get(name, name)}", value) for name, value in _mapping(manifest, "inputs").items()
    )
    flat = {name: value for name, value in config.items() if name not in ("model", "steps", "capture")}
    flat |= _mapping(config, "capture")
    yield from ((name, value) for name, value in flat.items() if value is not None)
    yield from ((f"version of {name}", value) for name, value in _mapping(manifest, "versions").items())


def _mapping(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = manifest.get(key)
    return value if isinstance(value, dict) else {}


def _table(rows: Iterator[tuple[str, Any]]) -> str:
    lines = [f"| {cell(name)} | {cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def cell(value: Any) -> str:
    """A value as the text of one Markdown table cell; characters that could be markup become character references."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    safe = re.sub(r"[^\w /.,=+()%-]|(?<![^\W_])_|_(?![^\W_])", lambda match: f"&#{ord(match[0])};", text)
    return re.sub(r"(?i)www\.", "www&#46;", safe)  # some renderers make it a link


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _json(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
