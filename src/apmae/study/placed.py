"""``Placed``: patterns that an atlas has placed, opened for reading: what studies and tags have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.artifacts import Manifest, read_table, read_tables
from apmae.atlas.names import cluster_names
from apmae.errors import ArtifactError

POINT_COLUMNS = ["prompt", "layer", "head", "task", "outcome", "cluster"]
"""What both kinds of tables say of each pattern, beside coordinates."""
_PROMPT_COLUMNS = ["prompt", "id", "task", "path", "expected", "predicted", "outcome", "max_probability"]


class Exemplars(NamedTuple):
    """Where the kept whole patterns come from, and where the atlas puts them; the patterns themselves stay on disk."""

    prompt: Int[ndarray, " n"]
    layer: Int[ndarray, " n"]
    head: Int[ndarray, " n"]
    cluster: Int[ndarray, " n"]
    coordinates: Float[ndarray, "n r"]


class Placed(ABC):
    """Patterns of one model on many prompts, each placed by one atlas.

    Attributes:
        folder: of the study or of the tags.
        embeddings_folder: has ``prompts-*.parquet`` and ``embeddings-*.parquet``.
        encoded: manifest of the stage that ran the model.
        layers, heads: of the language model; ``heads`` are those of the layer with most.
        heads_by_layer: heads of each layer, 0 for a layer without attention.
    """

    def __init__(self, folder: Path, embeddings_folder: Path, encoded: Manifest) -> None:
        """Note where things are.

        Raises:
            ArtifactError: if the manifest does not have the model's heads.
        """
        self.folder, self.embeddings_folder, self.encoded = folder, embeddings_folder, encoded
        try:
            self.heads_by_layer: tuple[int, ...] = tuple(encoded.counts["heads_by_layer"])
        except KeyError as error:
            raise ArtifactError(
                f"expected a count of {error} in the manifest of {embeddings_folder}, found none; run "
                f"{encoded.stage} again"
            ) from None
        self.layers, self.heads = len(self.heads_by_layer), max(self.heads_by_layer, default=0)

    @property
    @abstractmethod
    def point_files(self) -> list[Path]:
        """Parquet files with prompt, layer, head, task, outcome, cluster and coordinates of each pattern."""

    @cached_property
    @abstractmethod
    def clusters(self) -> pa.Table:
        """Of the atlas, in order: at least cluster, name, stability and unstable."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric of the atlas."""

    @property
    @abstractmethod
    def per_head(self) -> bool:
        """Whether each cluster is of a single head."""

    @property
    @abstractmethod
    def made_from(self) -> dict[str, str]:
        """SHA-256 of what a stage reads if it reads this, by role."""

    @cached_property
    @abstractmethod
    def exemplars(self) -> Exemplars:
        """Patterns that were kept whole; see :meth:`read_exemplars`."""

    @abstractmethod
    def read_exemplars(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of ``schema.EXEMPLARS``; each shard is read once.

        Args:
            numbers: rows of :attr:`exemplars`, in any order; the result has the same order.
        """

    @property
    def model(self) -> str:
        """Name of the language model."""
        return str(self.encoded.counts.get("lm"))

    @property
    def prompt_files(self) -> list[Path]:
        """Files of ``schema.ENCODED_PROMPTS``."""
        return [self.embeddings_folder / name for name in self.encoded.shards("prompts")]

    @property
    def embedding_files(self) -> list[Path]:
        """Files of ``schema.embeddings``: representations, scores and sinks."""
        return [self.embeddings_folder / name for name in self.encoded.shards("embeddings")]

    @property
    def names(self) -> dict[int, str]:
        """Name of each cluster; -1 is "unknown"."""
        return cluster_names(self.clusters)

    @cached_property
    def points(self) -> pa.Table:
        """One row per pattern: prompt, layer, head, task, outcome and cluster, in the order of the embeddings."""
        return pa.concat_tables([read_table(path, POINT_COLUMNS) for path in self.point_files])

    @cached_property
    def prompts(self) -> pa.Table:
        """``schema.ENCODED_PROMPTS`` without the tokens."""
        return read_tables(self.embeddings_folder, self.encoded.stage, "prompts", _PROMPT_COLUMNS)

    def tokens(self, prompt: int) -> list[str]:
        """The tokens of one prompt, as the model read them; empty if there is no such prompt."""
        for path in self.prompt_files:
            table = read_table(path, ["prompt", "tokens"])
            rows = np.flatnonzero(table["prompt"].to_numpy() == prompt)
            if len(rows):
                return table["tokens"][int(rows[0])].as_py()
        return []
