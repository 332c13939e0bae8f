"""Shards: the parts of a stage, each made as a whole or not at all.

A shard is a pure function of its description. A worker writes its files and returns their records; only the driver
writes the journal. So workers may run anywhere that sees the folder, in any order.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from apmae.artifacts.manifest import Records, shard_file
from apmae.artifacts.stage import Stage


class Shard(NamedTuple):
    """Some consecutive items of a stage, for instance prompts, and the files made from them."""

    number: int
    first: int
    """Number of its first item."""
    stop: int
    """Number after that of its last item."""
    files: tuple[str, ...]
    """File names, one per table that the stage writes."""

    def __len__(self) -> int:
        """How many items it has."""
        return self.stop - self.first


Work = Callable[[Shard], Records]
"""Writes the files of one shard and returns their records (:func:`apmae.artifacts.write_tables`)."""


def cut(items: int, size: int, tables: Sequence[str]) -> list[Shard]:
    """Cut a stage's items into shards.

    Args:
        items: how many there are.
        size: the most items in a shard.
        tables: the tables that the stage writes, each in a separate file.
    """
    firsts = range(0, items, size)
    return [
        Shard(number, first, min(first + size, items), tuple(shard_file(table, number) for table in tables))
        for number, first in enumerate(firsts)
    ]


def missing(stage: Stage, shards: Iterable[Shard]) -> list[Shard]:
    """The shards that were not written whole, now or by an interrupted run."""
    return [shard for shard in shards if not stage.has(*shard.files)]


def add_shard(stage: Stage, shard: Shard, records: Records) -> None:
    """Note in the journal that a shard was made whole. Drivers call it as records come back, in any order.

    Args:
        stage: the shard's stage.
        shard: the shard.
        records: what its worker returned.
    """
    assert records.keys() == set(shard.files), f"shard {shard.number} has {shard.files}, got {sorted(records)}"
    stage.add(records)


def run_shards(stage: Stage, shards: Iterable[Shard], work: Work) -> None:
    """Make the missing shards of a stage one after another, in this process.

    Args:
        stage: the stage that gets their records.
        shards: all shards of the stage, in any order.
        work: makes one shard.
    """
    for shard in missing(stage, shards):
        add_shard(stage, shard, work(shard))
