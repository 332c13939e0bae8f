"""Which prompts a head does something on most, and some of each tenth of all its prompts.

Prompts are ordered by a value per pattern: a hand-made score, how near the pattern is to the centre of its cluster, or
a column of any table with a value per prompt, layer and head. Counting is done by DuckDB on disk. What comes into
memory is one row per head and per chosen pattern.

The strongest of many prompts are strong by selection. So beside them stand the distribution of the value in the head
and over all heads, and a sample of each tenth of the head's prompts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.analyze.database import columns_of, over
from apmae.config import TopConfig
from apmae.errors import ConfigError
from apmae.schema import SCORES, TOP, TOP_HEADS
from apmae.seeding import generator
from apmae.study.placed import Placed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

STRENGTH = "strength"
DECILES = 10
_QUANTILES = {"smallest": 0.0, "q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9, "largest": 1.0}
_MEASURED = "isfinite(value)"  # not of nulls, nor of NaN
_EXACT = "DECIMAL(18, 6)"
"""Sums of decimals do not depend on the order of the rows, which differs from run to run."""


class Values(NamedTuple):
    """A value per pattern, on disk or in a table."""

    rows: Sequence[Path] | pa.Table
    """What has the values: columns prompt, layer, head and those that the query needs."""
    query: str
    """Gives prompt, layer, head and value of ``rows``."""


class Chosen(NamedTuple):
    """The prompts chosen for each head."""

    rows: pa.Table
    """``schema.TOP``."""
    heads: pa.Table
    """``schema.TOP_HEADS``."""


def values_of(placed: Placed, by: str, table: Path | pa.Table | None = None) -> Values:
    """The values that patterns are ordered by.

    Strength is m / (m + d), where d is the distance of a pattern from the mean of its cluster in reduced coordinates
    and m the mean of these distances in the cluster: 1 at the centre, 0.5 for a pattern as far from it as the mean
    member. A pattern in no cluster has none. (``Placement.strength`` is a vote, in which a fitted pattern would take
    part itself, and 1 for nearly all others.)

    Args:
        placed: a study or tags, opened.
        by: a name of ``schema.SCORES``, "strength", or a column of ``table``.
        table: values from elsewhere, such as the effects of an intervention, a Parquet file or a table.

    Raises:
        ConfigError: if there is no such score, or the table does not have the columns, or has one twice for a pattern.
        ArtifactError: if tags were made without scores.
    """
    if table is not None:
        return _of_table(placed, by, table)
    if by == STRENGTH:
        return Values(placed.point_files, _strength(placed.point_files))
    if by not in SCORES:
        raise ConfigError(
            f"expected strength or a score, one of {', '.join(SCORES)}, got {by!r}; for a column of your own give its "
            "table too (--values)"
        )
    return Values(placed.embedding_files, f"SELECT prompt, layer, head, score_{by} AS value FROM rows")


def top_prompts(placed: Placed, config: TopConfig, table: Path | pa.Table | None = None) -> Chosen:
    """Choose the prompts of each head with the largest values, and some of each tenth.

    Args:
        placed: a study or tags, opened.
        config: by what, which heads, how many.
        table: as for :func:`values_of`.

    Returns:
        The prompts and the distributions of the value. A head without a value on any prompt has no prompts.

    Raises:
        ConfigError: as for :func:`values_of`, if there is no such head, or no pattern asked for has a value.
        ArtifactError: as for :func:`values_of`.
    """
    values = values_of(placed, config.by, table)
    with over(rows=values.rows) as found:
        found.execute(f"CREATE TEMP TABLE given AS {values.query}")
        heads, counts = _distributions(found)
        _expect_heads(config, counts)
        rows = _ranked(found, _wanted(config, counts))
        share = _as_large(found, rows["value"], np.unique(counts[:, 0]).tolist())
    with over(own=placed.point_files) as found:
        task, outcome, cluster = zip(*_of_chosen(found, rows, "task, outcome, cluster"), strict=True)
    with over(own=placed.embedding_files) as found:
        sinks = [keys for (keys,) in _of_chosen(found, rows, "sinks")]
    columns: dict[str, Any] = {name: rows[name] for name in ("layer", "head", "prompt", "rank", "decile", "value")}
    columns |= {"top": rows["rank"] <= config.count, "drawn": rows["drawn"].astype(bool), "share": share}
    columns |= {"task": task, "outcome": outcome, "cluster": cluster, "sinks": sinks}
    made = [pa.array(columns[field.name]).cast(field.type) for field in TOP]
    return Chosen(pa.Table.from_arrays(made, schema=TOP), heads)


def _of_table(placed: Placed, by: str, table: Path | pa.Table) -> Values:
    rows = table if isinstance(table, pa.Table) else [table]
    if isinstance(table, Path) and not table.is_file():
        raise ConfigError(f"expected a Parquet table of values at {table}, found none; check the path")
    import duckdb

    what = "the table of values" if isinstance(table, pa.Table) else str(table)
    try:
        with over(rows=rows, points=placed.point_files) as found:
            columns = {name: kind for name, kind, *_ in found.execute("DESCRIBE rows").fetchall()}
            absent = [name for name in ("prompt", "layer", "head", by) if name not in columns]
            if absent:
                raise ConfigError(f"expected columns prompt, layer, head and {by} in {what}, {absent[0]} is missing")
            name = '"' + by.replace('"', '""') + '"'
            given = f"SELECT prompt, layer, head, {name}::FLOAT AS value FROM rows"
            ((twice,),) = found.execute(
                "SELECT count(*) FROM (SELECT 1 FROM rows GROUP BY prompt, layer, head HAVING count(*) > 1)"
            ).fetchall()
            ((foreign,),) = found.execute(
                "SELECT count(*) FROM rows ANTI JOIN points USING (prompt, layer, head)"
            ).fetchall()
            found.execute(f"SELECT max(value) FROM ({given})")  # refuses what is no number
    except duckdb.Error as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"expected a Parquet table with numbers in column {by}, {what} has none ({reason})") from None
    if twice or foreign:
        why = f"{twice} patterns have several" if twice else f"{foreign} rows are of no pattern of {placed.folder}"
        raise ConfigError(f"expected one value per prompt, layer and head in {what}, {why}; make the table again")
    return Values(rows, given)


def _strength(files: Sequence[Path]) -> str:
    with over(rows=files) as found:
        first = found.execute("SELECT len(coordinates) FROM rows LIMIT 1").fetchall()
    axes = range(1, int(first[0][0]) + 1 if first else 1)
    means = ", ".join(f"(avg(coordinates[{axis}]::{_EXACT}))::DOUBLE AS c{axis}" for axis in axes)
    squares = " + ".join(f"(coordinates[{axis}] - c{axis}) ** 2" for axis in axes) or "0"
    return f"""
        WITH centres AS (SELECT cluster, {means or "0 AS c0"} FROM rows WHERE cluster >= 0 GROUP BY cluster),
             far AS (SELECT prompt, layer, head, cluster, sqrt({squares}) AS d
                     FROM rows LEFT JOIN centres USING (cluster)),
             middle AS (SELECT cluster, (avg(d::{_EXACT}))::DOUBLE AS m FROM far WHERE d IS NOT NULL GROUP BY cluster)
        SELECT prompt, layer, head, (CASE WHEN m + d = 0 THEN 1 ELSE m / (m + d) END)::FLOAT AS value
        FROM far LEFT JOIN middle USING (cluster)"""


def _distributions(found: "DuckDBPyConnection") -> tuple[pa.Table, Int[ndarray, "h 4"]]:
    """``schema.TOP_HEADS``, and layer, head, patterns and measured ones of each head, in order."""
    asked = ", ".join(str(share) for share in _QUANTILES.values())
    what = f"""count(*) AS patterns, count(*) FILTER ({_MEASURED}) AS measured,
               quantile_cont(value::DOUBLE, [{asked}]) FILTER ({_MEASURED}) AS quantiles"""
    every = found.execute(f"SELECT NULL AS layer, NULL AS head, {what} FROM given").fetchall()
    own = found.execute(f"SELECT layer, head, {what} FROM given GROUP BY layer, head ORDER BY layer, head").fetchall()
    names = list(_QUANTILES)
    middle = [row[4] and row[4][names.index("median")] for row in own]
    rows = []
    for row in [*every, *own]:
        record = dict(zip(("layer", "head", "patterns", "measured"), row[:4], strict=True))
        record |= dict(zip(names, row[4] or [None] * len(names), strict=True))
        rows.append(record | {"above": None})
    for place, median in enumerate(middle):
        others = [value for other, value in enumerate(middle) if other != place and value is not None]
        if median is not None and others:
            rows[1 + place]["above"] = sum(value < median for value in others) / len(others)
    counts = np.array([row[:4] for row in own], np.int64).reshape(-1, 4)
    return pa.Table.from_pylist(rows, schema=TOP_HEADS), counts


def _expect_heads(config: TopConfig, counts: Int[ndarray, "h 4"]) -> None:
    """Refuse heads that have no patterns, and values of which none was measured."""
    captured = {(int(layer), int(head)): int(measured) for layer, head, _, measured in counts}
    wanted = list(captured) if config.heads == "all" else list(config.heads)
    for layer, head in wanted:
        if (layer, head) not in captured:
            raise ConfigError(
                f"expected a head that has values ({len(captured)} heads have), {layer}.{head} has none; leave it out"
            )
    if not any(captured[place] for place in wanted):
        shown = "any head" if config.heads == "all" else ", ".join(f"{layer}.{head}" for layer, head in wanted)
        raise ConfigError(
            f"expected {config.by} of {shown} on at least one prompt, it was measured on none; order by another score"
        )


def _wanted(config: TopConfig, counts: Int[ndarray, "h 4"]) -> pa.Table:
    """Layer, head and rank of each row to choose, with its decile and whether it was drawn."""
    asked = None if config.heads == "all" else set(config.heads)
    columns: dict[str, list[int]] = {name: [] for name in ("layer", "head", "rank", "decile", "drawn")}
    for layer, head, _, measured in counts.tolist():
        if asked is not None and (layer, head) not in asked:
            continue
        drawn = set(drawn_ranks(measured, config.per_decile, (config.seed, "decile", layer, head)))
        for rank in sorted(drawn | set(range(1, min(config.count, measured) + 1))):
            row = (layer, head, rank, decile_of(rank, measured), int(rank in drawn))
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    return pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()})


def decile_of(rank: int, measured: int) -> int:
    """The tenth that a rank is in: 10 for the largest values, 1 for the smallest.

    Args:
        rank: 1 for the largest value.
        measured: how many there are.
    """
    return DECILES * (measured - rank) // measured + 1


def drawn_ranks(measured: int, each: int, names: tuple[int, str, int, int]) -> list[int]:
    """Ranks drawn from each tenth, ascending; all of a tenth that has no more.

    Args:
        measured: how many values there are.
        each: how many of each tenth.
        names: seed and purpose of the draw.
    """
    ranks = np.arange(1, measured + 1)
    tenth = DECILES * (measured - ranks) // max(measured, 1)
    drawn: list[int] = []
    for number in range(DECILES):
        own = ranks[tenth == number]
        draw = generator(*names, number)
        drawn += draw.choice(own, min(each, len(own)), replace=False).tolist()
    return sorted(drawn)


def _ranked(found: "DuckDBPyConnection", wanted: pa.Table) -> dict[str, ndarray]:
    """The rows of the wanted ranks; equal values are ordered by prompt."""
    found.register("wanted", wanted)
    rows = columns_of(
        found,
        f"""WITH own AS (SELECT * FROM given SEMI JOIN wanted USING (layer, head) WHERE {_MEASURED}),
                 ranked AS (SELECT *, row_number() OVER (PARTITION BY layer, head ORDER BY value DESC, prompt) AS rank
                            FROM own)
            SELECT layer::INT AS layer, head::INT AS head, prompt::BIGINT AS prompt, ranked.rank AS rank,
                   value::FLOAT AS value, decile, drawn
            FROM ranked JOIN wanted USING (layer, head, rank) ORDER BY layer, head, rank""",
    )
    found.unregister("wanted")
    return rows


def _as_large(found: "DuckDBPyConnection", values: Float[ndarray, " k"], layers: Sequence[int]) -> Float[ndarray, " k"]:
    """For each value, the share of all measured patterns whose value is at least as large; a layer at a time."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.zeros(len(distinct) + 1, np.int64)
    for layer in layers:
        query = f"SELECT value::FLOAT AS value FROM given WHERE layer = {layer} AND {_MEASURED}"
        own = columns_of(found, query)["value"]
        counts += np.bincount(np.searchsorted(distinct, own, side="right"), minlength=len(counts))
    at_least = counts[::-1].cumsum()[::-1][1:]
    return at_least[place] / max(int(counts.sum()), 1)


def _of_chosen(found: "DuckDBPyConnection", rows: dict[str, ndarray], columns: str) -> list[tuple[Any, ...]]:
    """Columns of the view ``own`` for the chosen patterns, in their order."""
    found.register("chosen", pa.table({name: rows[name] for name in ("prompt", "layer", "head")}))
    query = f"SELECT prompt, layer, head, {columns} FROM own SEMI JOIN chosen USING (prompt, layer, head)"
    by_place = {row[:3]: row[3:] for row in found.execute(query).fetchall()}
    found.unregister("chosen")
    places = zip(*(rows[name].tolist() for name in ("prompt", "layer", "head")), strict=True)
    return [by_place[place] for place in places]


def prompts_of(rows: pa.Table) -> list[int]:
    """The distinct prompts of ``schema.TOP``, ascending."""
    return np.unique(rows["prompt"].to_numpy()).tolist()
