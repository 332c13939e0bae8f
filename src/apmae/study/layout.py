"""Where the artifacts of a study are in its folder."""

from pathlib import Path
from typing import NamedTuple


class Layout(NamedTuple):
    """The paths of one study, there or not."""

    folder: Path

    @property
    def settings(self) -> Path:
        """``StudyConfig`` as JSON."""
        return self.folder / "study.json"

    @property
    def prompts(self) -> Path:
        """Prompts of the atlas, where they were drawn in the study."""
        return self.folder / "prompts.parquet"

    @property
    def encoder(self) -> Path:
        """The encoder, where it was trained in the study."""
        return self.folder / "encoder"

    @property
    def embeddings(self) -> Path:
        """What the encode stage made."""
        return self.folder / "embeddings"

    @property
    def atlas(self) -> Path:
        """What the cluster stage made."""
        return self.folder / "atlas"

    @property
    def report(self) -> Path:
        """Page, pictures and tables."""
        return self.folder / "report"
