"""``Tags``: a folder that ``apmae tag --prompts`` made, opened for reading; and which of the two kinds a folder is."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from apmae.artifacts import fingerprint, journal_path, manifest_path, read_json, read_manifest
from apmae.artifacts.manifest import read_record
from apmae.errors import ArtifactError
from apmae.schema import ATLAS_FILE, SUMMARY_FILE
from apmae.study.layout import Layout
from apmae.study.placed import Exemplars, Placed
from apmae.study.reader import Study

_TAG = "tag"


class Tags(Placed):
    """Finished tags of a model's heads on many prompts."""

    def __init__(self, folder: str | Path) -> None:
        """Check the artifact; nothing else is read at first.

        Raises:
            ArtifactError: if it is missing, unfinished, damaged or of another stage.
        """
        super().__init__(Path(folder), Path(folder), read_manifest(Path(folder), _TAG))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What each head does (``docs/exchange.md``)."""
        return read_json(self.folder / SUMMARY_FILE)

    @property
    def point_files(self) -> list[Path]:
        """Files of ``schema.CORPUS_TAGS``."""
        return [self.folder / name for name in self.encoded.shards("tags")]

    @property
    def embedding_files(self) -> list[Path]:
        """Files of ``schema.embeddings``: representations, scores and sinks.

        Raises:
            ArtifactError: if they were not kept.
        """
        found = super().embedding_files
        if not found:
            raise ArtifactError(
                f"expected embeddings-*.parquet in {self.folder}, it was tagged without (embeddings = false), or by "
                "an earlier version; tag again with them"
            )
        return found

    @cached_property
    def clusters(self) -> pa.Table:
        """Cluster, name, stability (the smaller of both Jaccard indices) and unstable."""
        rows = sorted(self.summary["clusters"], key=lambda row: row["cluster"])
        if rows and "stability" not in rows[0]:
            raise ArtifactError(
                f"expected a summary of this version in {self.folder}, another version made this one; tag again"
            )
        return pa.table(
            {
                "cluster": pa.array([row["cluster"] for row in rows], pa.int32()),
                "name": pa.array([row["name"] for row in rows], pa.string()),
                "stability": pa.array([row["stability"] for row in rows], pa.float32()),
                "unstable": pa.array([row["unstable"] for row in rows], pa.bool_()),
            }
        )

    @property
    def metric(self) -> str:
        """The metric of the atlas."""
        return str(self.encoded.counts.get("metric"))

    @property
    def per_head(self) -> bool:
        """Whether each cluster is of a single head."""
        return self.encoded.counts.get("clusterer") == "per_head"

    @property
    def made_from(self) -> dict[str, str]:
        """SHA-256 of the tags' manifest."""
        return {_TAG: fingerprint(self.folder)}

    @cached_property
    def exemplars(self) -> Exemplars:
        """None: no pattern is kept whole."""
        none = np.zeros(0, np.int64)
        return Exemplars(none, none, none, none, np.zeros((0, 2), np.float32))

    def read_exemplars(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """None can be asked for."""
        assert not len(numbers), "tags keep no whole patterns"
        return []


def is_tags(folder: Path) -> bool:
    """Whether a folder is one of tags, finished or begun."""
    if not manifest_path(folder).is_file():
        return journal_path(folder).is_file()
    try:
        return read_record(manifest_path(folder)).get("stage") == _TAG
    except ArtifactError:
        return True  # opening it says what is wrong


def open_placed(folder: str | Path) -> Study | Tags:
    """Open a study or a folder of tags.

    Raises:
        ArtifactError: if it is unfinished or damaged.
    """
    return Tags(folder) if is_tags(Path(folder)) else Study(folder)


def tags_of(study: Study) -> dict[str, Tags]:
    """Finished tags in a study's ``tags/`` of its model that were made with its atlas, by the folder's name.

    Raises:
        ArtifactError: if one is damaged.
    """
    root = Layout(study.folder).tags
    own = {"atlas": fingerprint(study.atlas_folder / ATLAS_FILE), "lm": study.encoded.inputs.get("lm")}
    folders = [path.parent for path in sorted(root.glob("*/manifest.json"))]
    found = [Tags(folder) for folder in folders if is_tags(folder)]
    return {tags.folder.name: tags for tags in found if own.items() <= tags.encoded.inputs.items()}
