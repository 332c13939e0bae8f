"""What an atlas reads of a model's heads on some prompts, without the patterns themselves. Used by ``atlas.py``.

Axes: n patterns, d width of the representation.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from embedding import drawn_prompts
from numpy import ndarray

from apmae.atlas.names import Measured
from apmae.config import CaptureConfig
from apmae.encode import score_batch
from apmae.lm.load import load_lm
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.model.represent import represented
from apmae.patterns.gate import has_structure


class Seen(NamedTuple):
    """Rows of an atlas, in the order of the prompts."""

    z: ndarray
    """(n, d) joint representation."""
    structure: ndarray
    """(n) the gate's statistic."""
    head: ndarray
    """(n) number of the head in the model."""
    prompt: ndarray
    """(n) number of the prompt."""
    values: ndarray
    key_kinds: ndarray
    query_kinds: ndarray

    @property
    def structured(self) -> ndarray:
        """(n) whether the pattern passes the gate."""
        return has_structure(self.structure)

    @property
    def scores(self) -> Measured:
        """Scores of the patterns, and what tokens they are about."""
        return Measured(self.values, self.key_kinds, self.query_kinds)

    def part(self, number: int, count: int) -> ndarray:
        """Rows of one of ``count`` parts of the prompts that pass the gate."""
        part = self.prompt * count // (self.prompt.max() + 1)
        return np.flatnonzero((part == number) & self.structured)


def seen(arguments: argparse.Namespace, mae: APMAE) -> Seen:
    """Run the model on the prompts; with ``--keep FILE.npz`` only if the file is not there yet."""
    kept: Path | None = arguments.keep
    if kept is not None and kept.exists():
        with np.load(kept) as arrays:
            return Seen(**arrays)
    lm = load_lm(arguments.model)
    parts = []
    for captured in capture_prompts(lm, drawn_prompts(arguments, lm), CaptureConfig(batch=4), size=256):
        patterns = captured.patterns
        read, scores = represented(patterns, mae), score_batch(captured)
        head = patterns.layer * lm.num_heads + patterns.head
        parts.append(
            (read.z, read.structure, head, patterns.prompt, scores.values, scores.key_kinds, scores.query_kinds)
        )
    found = Seen(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    print(f"{lm.name}: {found.prompt.max() + 1} prompts, {len(np.unique(found.head))} heads", flush=True)
    if kept is not None:
        np.savez(kept, **found._asdict())
    return found
