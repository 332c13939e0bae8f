"""The stream LM -> heads removed -> Parquet: each head alone on all prompts, then sets of heads on the measuring half.

A shard is some consecutive prompts and depends only on them and on what stands in place of heads, so a killed run ends
with the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from apmae.artifacts import Records, Shard, write_tables
from apmae.config import AblateConfig
from apmae.encode import prompt_rows
from apmae.lm.changes import Mean
from apmae.lm.language_model import LM
from apmae.lm.outcome import window_of
from apmae.lm.record import Place, mean_outputs, sample_outputs
from apmae.lm.removal import EditsOf, Removal, Reply, replies_under
from apmae.lm.restart import Restart
from apmae.progress import Advance
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Prompt
from apmae.schema import EFFECTS, REMOVED, UNEDITED
from apmae.seeding import generator


class Batch(NamedTuple):
    """Prompts that go through the model together."""

    numbers: list[int]
    windows: list[Window]
    groups: list[int]

    def removing(self, removal: Removal, heads: Sequence[Place]) -> EditsOf:
        """Edits that remove heads together."""
        return removal.edits(heads, self.windows, self.numbers, self.groups)


class Windows:
    """The windows of a stage's prompts, and the group of files of each."""

    def __init__(self, lm: LM, prompts: Sequence[Prompt], groups: Sequence[int], context: int) -> None:
        self.lm, self.prompts, self.groups, self.context = lm, prompts, groups, context
        self.restart = Restart(lm)
        """Heads are removed from the middle of a forward: layers below the first of them are not computed again."""

    def of(self, numbers: Sequence[int]) -> list[Window]:
        """What the model sees of some prompts."""
        return [window_of(self.lm, self.prompts[number], self.context) for number in numbers]

    def ask(self, batch: Batch, edits: EditsOf | None, every: int) -> list[Reply]:
        """What the model says under edits, or of a new batch first without any."""
        return replies_under(self.lm, batch.windows, edits, every=every, restart=self.restart)


def removals_of(
    windows: Windows, ranking: Sequence[int], config: AblateConfig, means: Mapping[Place, Mean] | None = None
) -> dict[str, Removal]:
    """What stands in place of heads, by mode: made from prompts of the ranking half alone.

    Args:
        windows: of all prompts.
        ranking: numbers of the prompts of the ranking half.
        config: modes, how many prompts, batch, seed.
        means: if they are known already.

    Raises:
        CaptureError: if the model's heads cannot be recorded.
    """
    found = {}
    for mode in config.modes:
        match mode:
            case "zero":
                found[mode] = Removal(mode)
            case "mean":
                drawn = _draw(ranking, config.reference, config.seed, "reference")
                known = means or mean_outputs(windows.lm, windows.of(drawn), batch=config.batch)
                found[mode] = Removal(mode, means=known)
            case "resample":
                drawn = _of_different_files(_draw(ranking, len(ranking), config.seed, "donors"), windows.groups)
                drawn = drawn[: config.donors]
                seen = windows.of(drawn)
                found[mode] = Removal(
                    mode,
                    donors=sample_outputs(windows.lm, seen, count=len(seen), seed=config.seed, batch=config.batch),
                    positions=[window.position for window in seen],
                    groups=[windows.groups[number] for number in drawn],
                    seed=config.seed,
                )
    return found


def unedited_shard(
    shard: Shard, *, windows: Windows, config: AblateConfig, root: Path, advance: Advance | None = None
) -> Records:
    """Ask the model as it is, on the prompts of one shard.

    Args:
        shard: which prompts; its files are those of ``schema.ABLATED``.
        windows: of all prompts, in the order that numbers them.
        config: batch, how many tokens elsewhere.
        root: the folder for the files.
        advance: called with the prompts of each batch.
    """
    unedited, asked = [], []
    for batch in batches(windows, range(shard.first, shard.stop), config.batch):
        plain = windows.ask(batch, None, config.every)
        unedited.append(_measured(plain, UNEDITED, batch.numbers, {}))
        prompts = [windows.prompts[number] for number in batch.numbers]
        asked.append(prompt_rows(batch.numbers[0], prompts, batch.windows, [reply.answer for reply in plain]))
        if advance:
            advance(len(plain))
    tables = (pa.concat_tables(parts) for parts in (unedited, asked))
    return write_tables(root, dict(zip(shard.files, tables, strict=True)))


def effects_shard(
    shard: Shard,
    *,
    windows: Windows,
    removals: Mapping[str, Removal],
    heads: Sequence[Place],
    config: AblateConfig,
    root: Path,
    advance: Advance | None = None,
) -> Records:
    """Remove each head alone, on the prompts of one shard.

    Args:
        shard: which prompts; its file is that of ``schema.HEADS_REMOVED``.
        windows: of all prompts, in the order that numbers them.
        removals: by mode.
        heads: (layer, head) of those to remove.
        config: batch, how many tokens elsewhere.
        root: the folder for the file.
        advance: called with the prompts' forwards.
    """
    found = []
    for batch in batches(windows, range(shard.first, shard.stop), config.batch):
        windows.ask(batch, None, config.every)  # recorded, so that heads are removed from the middle of a forward
        for mode, removal in removals.items():
            for layer, head in heads:
                said = windows.ask(batch, batch.removing(removal, [(layer, head)]), config.every)
                where = {"mode": mode, "layer": layer, "head": head}
                found.append(_measured(said, EFFECTS, batch.numbers, where))
                if advance:
                    advance(len(said), note=f"head {layer}.{head}, {mode}")
    return write_tables(root, {shard.files[0]: pa.concat_tables(found)})


def removed_shard(
    shard: Shard,
    *,
    windows: Windows,
    measuring: Sequence[int],
    removals: Mapping[str, Removal],
    sets: Sequence[tuple[str, Sequence[Place]]],
    config: AblateConfig,
    root: Path,
    advance: Advance | None = None,
) -> Records:
    """Remove sets of heads, on some prompts of the measuring half.

    Args:
        shard: which places of ``measuring``; its file is that of ``schema.SETS_REMOVED``.
        windows: of all prompts.
        measuring: numbers of the prompts that are measured.
        removals: by mode.
        sets: mode and heads of each, in the order that numbers them.
        config: batch, how many tokens elsewhere.
        root: the folder for the file.
        advance: called with the prompts' forwards.
    """
    found = [REMOVED.empty_table()]
    for batch in batches(windows, measuring[shard.first : shard.stop], config.batch) if sets else ():
        windows.ask(batch, None, config.every)  # recorded, so that sets start at their first layer
        for number, (mode, heads) in enumerate(sets):
            said = windows.ask(batch, batch.removing(removals[mode], heads), config.every)
            found.append(_measured(said, REMOVED, batch.numbers, {"set": number}))
            if advance:
                advance(len(said), note=f"{len(heads)} heads, {mode}")
    return write_tables(root, {shard.files[0]: pa.concat_tables(found)})


def batches(windows: Windows, numbers: Sequence[int], size: int) -> Iterator[Batch]:
    """Prompts in batches of at most ``size``."""
    for first in range(0, len(numbers), size):
        own = list(numbers[first : first + size])
        yield Batch(own, windows.of(own), [int(windows.groups[number]) for number in own])


def _measured(
    replies: Sequence[Reply], schema: pa.Schema, prompts: Sequence[int], where: Mapping[str, str | int]
) -> pa.Table:
    """Replies as a table; ``where`` are columns with one value each."""
    columns = {
        "prompt": pa.array(prompts, pa.int32()),
        **{name: pa.array([value] * len(replies), schema.field(name).type) for name, value in where.items()},
        "log_probability": pa.array([reply.log_probability for reply in replies], pa.float32()),
        "correct": pa.array([reply.answer.correct for reply in replies]),
        "elsewhere": pa.array([reply.elsewhere for reply in replies], pa.float32(), from_pandas=True),
    }
    return pa.table(columns, schema=schema)


def _draw(numbers: Sequence[int], count: int, seed: int, name: str) -> list[int]:
    """Some of the numbers, in random order."""
    return [numbers[place] for place in generator(seed, "ablation", name).permutation(len(numbers))[:count]]


def _of_different_files(numbers: Sequence[int], groups: Sequence[int]) -> list[int]:
    """The first of each group."""
    return list({groups[number]: number for number in reversed(numbers)}.values())[::-1]
