"""Tagging: what every head of a model does on one prompt, in one forward pass (paper section 1, DESIGN section 1)."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from apmae.atlas.atlas import Atlas
from apmae.atlas.names import kind_word, name_of
from apmae.encode import score_batch
from apmae.lm.load import LM
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.patterns.scores import Scores
from apmae.prompts.fim import Window
from apmae.prompts.line import text_prompt
from apmae.prompts.prompt import Answer, Prompt
from apmae.schema import KINDS, SCORES, TAGS


class Tagged(NamedTuple):
    """A prompt with its tags."""

    tags: pa.Table
    """``schema.TAGS``: one row a head, ordered by layer, head."""
    window: Window
    """What the model saw."""
    answer: Answer
    """What it answered; ``correct`` means nothing where no completion was given."""


def tag(
    lm: LM, prompt: str, *, suffix: str | None = None, mae: APMAE | None = None, atlas: Atlas | None = None
) -> pa.Table:
    """Tag every head of a model on one prompt, with one forward of the model.

    Args:
        lm: the language model.
        prompt: text before the completion position.
        suffix: text after it, for models that infill.
        mae: the encoder; by default the bundled one.
        atlas: fitted with the same encoder; by default the bundled one.

    Returns:
        ``schema.TAGS``: one row a head with layer, head, cluster (-1: not known), name, strength in [0, 1], the name
        that its own scores give, coordinates and scores.
    """
    mae = mae or APMAE.from_pretrained()
    atlas = atlas or Atlas.load()
    # Without an expected completion any token does: only the answer's outcome depends on it.
    return tag_prompt(lm, text_prompt(prompt, "\n", suffix), mae=mae, atlas=atlas).tags


def tag_prompt(lm: LM, prompt: Prompt, *, mae: APMAE, atlas: Atlas) -> Tagged:
    """As :func:`tag`, for a prompt with its completion, keeping what the model saw and answered."""
    length = min(mae.config.pattern_size, lm.max_length or mae.config.pattern_size)
    captured = next(capture_prompts(lm, [prompt], length=length, batch=1))
    patterns = captured.patterns
    placed = atlas.place(mae.encode(patterns))
    scores = score_batch(captured)
    names, measured = atlas.names, measured_names(scores)
    rows = []
    for i in range(len(patterns)):
        rows.append(
            {
                "layer": int(patterns.layer[i]),
                "head": int(patterns.head[i]),
                "cluster": int(placed.cluster[i]),
                "name": names[int(placed.cluster[i])],
                "strength": float(placed.strength[i]),
                "measured": measured[i],
                "coordinates": placed.coordinates[i].tolist(),
                **{f"score_{name}": float(scores[name][i]) for name in SCORES},
            }
        )
    return Tagged(pa.Table.from_pylist(rows, schema=TAGS), captured.windows[0], captured.answers[0])


def measured_names(scores: Scores) -> list[str]:
    """The name that each pattern's own scores give, by the rules that name clusters (``atlas/names.py``)."""
    names = []
    for values, kinds in zip(scores.values.tolist(), scores.key_kinds.tolist(), strict=True):
        looks_at = kind_word(dict(zip(KINDS, kinds, strict=True)))
        names.append(name_of(dict(zip(SCORES, values, strict=True)), looks_at))
    return names


def strongest(tags: pa.Table) -> list[dict[str, object]]:
    """Rows of the heads that the atlas knows, strongest first."""
    order = np.argsort(-tags["strength"].to_numpy(), kind="stable")
    return [row for row in tags.take(order).to_pylist() if row["cluster"] >= 0]
