"""Sharing an encoder: ``push``."""

from pathlib import Path
from typing import Annotated

import typer

from apmae.cli.options import say


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of an AP-MAE, for instance one that apmae train made.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub: NAME/REPOSITORY, or REPOSITORY for your own.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="License of the weights, as hubs write it: apache-2.0, mit, ...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card that would be uploaded; no hub is asked.")
    ] = False,
) -> None:
    """Upload an encoder with a model card to a hub, with the token of `hf auth login` or HF_TOKEN."""
    from apmae.engine.checks import expect_push

    expect_push(folder, repo_id, license=license_, dry_run=dry_run)
    from apmae.engine import push as engine

    if dry_run:
        say(engine.preview(folder, repo_id, license=license_))
    else:
        say(engine.push(folder, repo_id, private=private, license=license_))
