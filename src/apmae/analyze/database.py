"""DuckDB over files on disk, in bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped
from numpy import ndarray

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY = "2GB"


@contextmanager
def over(**views: Sequence[Path] | pa.Table) -> Iterator["DuckDBPyConnection"]:
    """A database with views of Parquet files or of tables. What does not fit into 2 GB goes into temporary files.

    Args:
        views: by the view's name, files that together are one table, or a table.
    """
    import duckdb

    # Without a folder of its own, DuckDB would spill into the working directory.
    with (
        TemporaryDirectory() as spilled,
        duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": spilled}) as found,
    ):
        for name, source in views.items():
            if isinstance(source, pa.Table):
                found.register(name, source)
            else:
                found.read_parquet([escape(str(path)) for path in source]).create_view(name)  # DuckDB expands * ? [
        yield found


def columns_of(found: "DuckDBPyConnection", query: str) -> dict[str, Shaped[ndarray, " n"]]:
    """The columns of a query without nulls."""
    return {name: np.asarray(values) for name, values in found.execute(query).fetchnumpy().items()}
