"""The stream pairs -> what filters see, effects of heads and of edges -> Parquet.

A shard is some consecutive pairs and depends only on them, and on which heads of each task are patched; so a killed run
ends with the same bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from numpy import ndarray

from apmae.artifacts import Records, Shard, write_tables
from apmae.config import PatchingConfig
from apmae.lm.language_model import LM
from apmae.lm.pairs import Batch
from apmae.lm.patching import Attributed, Head, attribute, edges_among, patch_each, patch_edges, see_clean
from apmae.lm.restart import Restart
from apmae.progress import Advance
from apmae.prompts.pairs import Pair
from apmae.schema import CIRCUIT_EDGE_EFFECTS, CIRCUIT_EFFECTS, CIRCUIT_PAIRS, CIRCUIT_SCORES

TagChanges = Callable[[Sequence[Pair]], Bool[ndarray, "b h"]]
"""Says which heads are in another cluster on the counterfactual."""


class Clock:
    """How long some kinds of work took in this process, per unit."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._units: dict[str, int] = {}

    @contextmanager
    def running(self, kind: str, units: int) -> Iterator[None]:
        """Count the time of the block.

        Args:
            kind: of work.
            units: how many it does.
        """
        begin = perf_counter()
        yield
        self._seconds[kind] = self._seconds.get(kind, 0.0) + perf_counter() - begin
        self._units[kind] = self._units.get(kind, 0) + units

    @property
    def per_unit(self) -> dict[str, float]:
        """Seconds per unit, by kind of work."""
        return {kind: seconds / self._units[kind] for kind, seconds in self._seconds.items()}


def heads_of(lm: LM) -> list[Head]:
    """All heads by layer and number, as columns of scores are ordered."""
    return [(layer, head) for layer, count in lm.heads.items() for head in range(count)]


def scores_shard(
    shard: Shard,
    *,
    lm: LM,
    pairs: Sequence[Pair],
    config: PatchingConfig,
    root: Path,
    tag_changes: TagChanges | None = None,
    clock: Clock | None = None,
    advance: Advance | None = None,
) -> Records:
    """What every filter sees of every head, on the pairs of one shard.

    Args:
        shard: which pairs; its files are those of ``schema.FILTERED``.
        lm: the language model.
        pairs: all pairs of the stage, in the order that numbers them.
        config: batch, direction, steps.
        root: the folder for the files.
        tag_changes: what tags say; None leaves them out.
        clock: gets the time of each filter per pair.
        advance: called with the pairs of each batch.

    Returns:
        The records of the files.

    Raises:
        CaptureError: if attention scores are not finite, or heads of this family cannot be recorded.
    """
    clock, heads = clock or Clock(), heads_of(lm)
    denoising = config.direction == "denoising"
    parts: list[tuple[pa.Table, ...]] = []
    for first, some in _batches(pairs, shard, config.batch):
        batch = Batch(lm, some)
        with clock.running("flow", len(some)):
            seen = see_clean(batch)
        with clock.running("attribution", len(some)):
            attributed = attribute(batch, denoising=denoising, steps=config.steps)
        tags = None
        if tag_changes is not None:
            with clock.running("tags", len(some)):
                tags = tag_changes(some).astype(np.float32)
        scores = {
            "attribution": attributed.effects.numpy(),
            "flow": seen.flow.numpy(),
            "last_row": seen.last_row.float().numpy(),
        }
        numbers = np.arange(first, first + len(some), dtype=np.int32)
        columns = {
            **_places(numbers, heads),
            **{name: pa.array(values.reshape(-1)) for name, values in scores.items()},
            "tags": pa.nulls(len(some) * len(heads), pa.float32()) if tags is None else pa.array(tags.reshape(-1)),
        }
        parts.append((_pair_rows(numbers, some, attributed), pa.table(columns, CIRCUIT_SCORES)))
        if advance:
            advance(len(some), note=some[0].prompt.task)
    tables = (pa.concat_tables(part) for part in zip(*parts, strict=True))
    return write_tables(root, dict(zip(shard.files, tables, strict=True)))


def effects_shard(
    shard: Shard,
    *,
    lm: LM,
    pairs: Sequence[Pair],
    chosen: Mapping[str, Sequence[Head]],
    config: PatchingConfig,
    root: Path,
    restart: Restart | None = None,
    clock: Clock | None = None,
    advance: Advance | None = None,
) -> Records:
    """The exact effect of some heads, on the pairs of one shard.

    Args:
        shard: which pairs; its files are those of ``schema.PATCHED``.
        lm: the language model.
        pairs: as for :func:`scores_shard`.
        chosen: the heads of each task.
        config: batch, direction.
        root: the folder for the files.
        restart: of the model (:func:`apmae.lm.patching.patch_each`).
        clock: gets the time per pair and head.
        advance: called with the pairs of each batch, for each head.

    Returns:
        The records of the files.

    Raises:
        CaptureError: if heads of this family cannot be edited.
    """
    clock, parts = clock or Clock(), []
    for first, some in _batches(pairs, shard, config.batch):
        task = some[0].prompt.task
        heads = chosen[task]

        def step(count: int = len(some), note: str = task) -> None:
            if advance:
                advance(count, note=note)

        with clock.running("patch", len(some) * len(heads)):
            effects = patch_each(
                Batch(lm, some), heads, denoising=config.direction == "denoising", restart=restart, advance=step
            )
        numbers = np.arange(first, first + len(some), dtype=np.int32)
        columns = {**_places(numbers, heads), "effect": pa.array(effects.numpy().reshape(-1))}
        parts.append(pa.table(columns, CIRCUIT_EFFECTS))
    return write_tables(root, {shard.files[0]: pa.concat_tables(parts)})


def edges_shard(
    shard: Shard,
    *,
    lm: LM,
    pairs: Sequence[Pair],
    chosen: Mapping[str, Sequence[Head]],
    config: PatchingConfig,
    root: Path,
    restart: Restart | None = None,
    advance: Advance | None = None,
) -> Records:
    """The effect of each head through each later one of the same task, on the pairs of one shard.

    Args:
        shard: which pairs; its files are those of ``schema.CONNECTED``.
        lm: the language model.
        pairs: as for :func:`scores_shard`.
        chosen: the heads of each task.
        config: batch, direction.
        root: the folder for the files.
        restart: as for :func:`effects_shard`.
        advance: called with the pairs of each batch.

    Returns:
        The records of the files.
    """
    parts = []
    for first, some in _batches(pairs, shard, config.batch):
        heads = chosen[some[0].prompt.task]
        effects = patch_edges(Batch(lm, some), heads, denoising=config.direction == "denoising", restart=restart)
        edges, many = edges_among(heads), len(some)
        sent, received = (np.array([edge[side] for edge in edges], np.int16).reshape(-1, 2) for side in (0, 1))
        columns = {
            "pair": pa.array(np.repeat(np.arange(first, first + many, dtype=np.int32), len(edges))),
            "layer": pa.array(np.tile(sent[:, 0], many)),
            "head": pa.array(np.tile(sent[:, 1], many)),
            "to_layer": pa.array(np.tile(received[:, 0], many)),
            "to_head": pa.array(np.tile(received[:, 1], many)),
            "effect": pa.array(effects.numpy().reshape(-1)),
        }
        parts.append(pa.table(columns, CIRCUIT_EDGE_EFFECTS))
        if advance:
            advance(many, note=some[0].prompt.task)
    return write_tables(root, {shard.files[0]: pa.concat_tables(parts)})


def _batches(pairs: Sequence[Pair], shard: Shard, size: int) -> Iterator[tuple[int, list[Pair]]]:
    """A shard's pairs in batches of one task each, with the number of the first."""
    first = shard.first
    for _, own in groupby(pairs[shard.first : shard.stop], key=lambda pair: pair.prompt.task):
        alike = list(own)
        for begin in range(0, len(alike), size):
            some = alike[begin : begin + size]
            yield first, some
            first += len(some)


def _places(numbers: ndarray, heads: Sequence[Head]) -> dict[str, pa.Array]:
    places = np.array(heads, np.int16).reshape(-1, 2)
    return {
        "pair": pa.array(np.repeat(numbers, len(heads))),
        "layer": pa.array(np.tile(places[:, 0], len(numbers))),
        "head": pa.array(np.tile(places[:, 1], len(numbers))),
    }


def _pair_rows(numbers: ndarray, pairs: Sequence[Pair], attributed: Attributed) -> pa.Table:
    """``schema.CIRCUIT_PAIRS`` of one batch."""
    columns = {
        "pair": pa.array(numbers),
        "id": [pair.prompt.id for pair in pairs],
        "task": [pair.prompt.task for pair in pairs],
        "group": [pair.group for pair in pairs],
        "tokens": pa.array([len(pair.clean.ids) for pair in pairs], pa.int32()),
        "changed": pa.array([len(pair.changed) for pair in pairs], pa.int32()),
        "clean": pa.array(attributed.clean.numpy()),
        "counterfactual": pa.array(attributed.counterfactual.numpy()),
    }
    return pa.table(columns, CIRCUIT_PAIRS)
