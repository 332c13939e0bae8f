"""Where the points of an atlas came from: model, prompt, path, layer and head of each.

Axes: n rows.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from jaxtyping import Int
from numpy import ndarray

from apmae.atlas.rows import Where
from apmae.errors import ConfigError
from apmae.schema import ORIGINS


def origins_of(
    given: Mapping[str, Any] | None, where: Where | None, prompts: Int[ndarray, " n"] | None, rows: int
) -> pa.Table | None:
    """``schema.ORIGINS`` of some rows; None if nothing is known of them.

    Args:
        given: columns by name, each with one value or with one per row; also a table.
        where: layer and head of each row, where ``given`` has neither.
        prompts: the prompt of each row, where ``given`` does not have it.
        rows: how many.

    Raises:
        ConfigError: if a column is not one of ``schema.ORIGINS``, or has another length or type.
    """
    columns: dict[str, Any] = {}
    if where is not None:
        columns |= {"layer": where[0], "head": where[1]}
    if prompts is not None:
        columns["prompt"] = prompts
    if given is not None:
        columns |= {name: given[name] for name in (given if isinstance(given, Mapping) else given.column_names)}
    if not columns:
        return None
    unknown = [name for name in columns if name not in ORIGINS.names]
    if unknown:
        raise ConfigError(f"expected origins with columns among {', '.join(ORIGINS.names)}, got {unknown[0]}")
    return pa.table([_column(columns.get(field.name), field, rows) for field in ORIGINS], schema=ORIGINS)


def _column(values: Any, field: pa.Field, rows: int) -> pa.Array | pa.ChunkedArray:
    if values is None or isinstance(values, str):
        return pa.nulls(rows, field.type) if values is None else pa.repeat(pa.scalar(values, field.type), rows)
    try:
        found = values.cast(field.type) if isinstance(values, pa.ChunkedArray) else pa.array(values).cast(field.type)
    except (pa.ArrowException, TypeError) as error:
        raise ConfigError(f"expected origins with a {field.name} of {field.type}: {error}") from None
    if len(found) != rows:
        raise ConfigError(f"expected a {field.name} for each of {rows} rows, got {len(found)}")
    return found


def joined(own: pa.Table | None, rows: int, more: pa.Table | None, added: int) -> pa.Table | None:
    """The origins of some rows and those of others after them; None if nothing is known of either.

    Args:
        own: of ``rows`` rows.
        rows: how many.
        more: of ``added`` rows.
        added: how many.
    """
    if own is None and more is None:
        return None
    parts = [
        pa.table([pa.nulls(count, field.type) for field in ORIGINS], schema=ORIGINS) if part is None else part
        for part, count in ((own, rows), (more, added))
    ]
    return pa.concat_tables(parts).combine_chunks()


def of_points(origins: pa.Table, origin: Int[ndarray, " n"]) -> pa.Table:
    """The origin of each point; null where it is unknown (-1)."""
    return origins.take(pa.array(origin, mask=origin < 0)).combine_chunks()
