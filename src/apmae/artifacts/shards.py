"""Shards: the parts of a stage that are made, lost and resumed whole.

A shard is a pure function of its description. A worker writes its files and returns their records; the driver alone
writes the journal. So workers may run anywhere that sees the folder, and in any order.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from apmae.artifacts.manifest import Records, shard_file
from apmae.artifacts.stage import Stage


class Shard(NamedTuple):
    """Some of a stage's items in a row, for instance prompts, and the files that are made of them."""

    number: int
    first: int
    """Number of its first item."""
    stop: int
    """Number behind its last item."""
    files: tuple[str, ...]
    """Names, one for each table that the stage writes."""

    def __len__(self) -> int:
        """How many items it has."""
        return self.stop - self.first


Work = Callable[[Shard], Records]
"""Writes the files of one shard and returns what a manifest says of them (:func:`apmae.artifacts.write_tables`)."""


def cut(items: int, size: int, tables: Sequence[str]) -> list[Shard]:
    """Cut a stage's items into shards.

    Args:
        items: how many there are.
        size: of a shard, at most.
        tables: that the stage writes, each in a file of its own.
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
        stage: whose shard.
        shard: which one.
        records: what its worker returned.
    """
    assert records.keys() == set(shard.files), f"shard {shard.number} is {shard.files}, made {sorted(records)}"
    stage.add(records)


def run_shards(stage: Stage, shards: Iterable[Shard], work: Work) -> None:
    """Make the missing shards of a stage, one after another, here.

    Args:
        stage: where their records go.
        shards: all of the stage's, in any order.
        work: makes one.
    """
    for shard in missing(stage, shards):
        add_shard(stage, shard, work(shard))
