"""Paths of a study's artifacts in its folder."""

from pathlib import Path
from typing import NamedTuple


class Layout(NamedTuple):
    """The paths of one study, whether they exist or not."""

    folder: Path

    @property
    def settings(self) -> Path:
        """``StudyConfig`` as JSON."""
        return self.folder / "study.json"

    @property
    def prompts(self) -> Path:
        """Prompts of the atlas, if they were drawn in the study."""
        return self.folder / "prompts.parquet"

    @property
    def encoder(self) -> Path:
        """The encoder, if it was trained in the study."""
        return self.folder / "encoder"

    @property
    def embeddings(self) -> Path:
        """The artifact of the encode stage."""
        return self.folder / "embeddings"

    @property
    def atlas(self) -> Path:
        """The artifact of the cluster stage."""
        return self.folder / "atlas"

    @property
    def answers(self) -> Path:
        """The artifact of the answers stage."""
        return self.folder / "answers"

    @property
    def locations(self) -> Path:
        """The artifact of the locations stage."""
        return self.folder / "locations"

    @property
    def prediction(self) -> Path:
        """The artifact of the predict stage."""
        return self.folder / "predict"

    @property
    def circuit(self) -> Path:
        """The artifact of the circuit stage."""
        return self.folder / "circuit"

    @property
    def ablation(self) -> Path:
        """The artifact of the ablate stage."""
        return self.folder / "ablate"

    @property
    def pruning(self) -> Path:
        """The artifact of the prune stage."""
        return self.folder / "prune"

    @property
    def top(self) -> Path:
        """Artifacts of the top stage, a folder for each value."""
        return self.folder / "top"

    @property
    def tags(self) -> Path:
        """Tags of other prompts with the study's atlas, in folders of any name."""
        return self.folder / "tags"

    @property
    def report(self) -> Path:
        """Page, pictures and tables."""
        return self.folder / "report"
