"""Sharing an encoder: ``push``."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from apmae.cli.options import say


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of an AP-MAE, for instance one that apmae train made.")],
    repo_id: Annotated[str, typer.Argument(help="Where to on the hub: NAME/REPOSITORY, or REPOSITORY for your own.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Of the weights, as hubs abbreviate it: apache-2.0, mit, ...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card that would be uploaded; no hub is asked.")
    ] = False,
) -> None:
    """Upload an encoder with a model card to a hub. Its token is the one of `hf auth login`, or HF_TOKEN."""
    from apmae.artifacts import manifest_path, read_manifest
    from apmae.errors import ModelError
    from apmae.model.mae import APMAE

    if not folder.is_dir():
        raise ModelError(f"expected the folder of an AP-MAE, found no folder {folder}; check the path")
    if manifest_path(folder).is_file():
        read_manifest(folder, "train")
    mae = APMAE.from_pretrained(folder)
    if not dry_run:
        say(mae.push_to_hub(repo_id, private=private or None, license=license_))
        return
    with TemporaryDirectory() as name:
        mae.write_upload(name, repo_id, license=license_)
        for file in sorted(Path(name).iterdir()):
            say(f"{file.stat().st_size:>12,} bytes  {file.name}")
        say("")
        say((Path(name) / "README.md").read_text(encoding="utf-8"))
