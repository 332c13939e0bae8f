"""Sharing an encoder."""

from pathlib import Path
from tempfile import TemporaryDirectory

from apmae.engine.checks import expect_encoder_folder
from apmae.model.mae import APMAE


def push(folder: Path, repo_id: str, *, private: bool, license: str | None) -> str:
    """Upload an encoder with a model card.

    Args:
        folder: of the encoder; if the train stage made it, it must be finished.
        repo_id: the repository on the hub.
        private: make a new repository private.
        license: of the weights.

    Returns:
        The address of the upload.

    Raises:
        ArtifactError: if its training is not finished.
        ModelError: if there is no encoder, or the hub refuses.
    """
    return _finished(folder).push_to_hub(repo_id, private=private or None, license=license)


def preview(folder: Path, repo_id: str, *, license: str | None) -> str:
    """What :func:`push` would upload: the files with their sizes, and the card. No hub is asked."""
    mae = _finished(folder)
    with TemporaryDirectory() as name:
        mae.write_upload(name, repo_id, license=license)
        lines = [f"{file.stat().st_size:>12,} bytes  {file.name}" for file in sorted(Path(name).iterdir())]
        return "\n".join([*lines, "", (Path(name) / "README.md").read_text(encoding="utf-8")])


def _finished(folder: Path) -> APMAE:
    expect_encoder_folder(folder)
    return APMAE.from_pretrained(folder)
