"""Uploading an AP-MAE to a hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from apmae.errors import ModelError
from apmae.model import files

if TYPE_CHECKING:
    from apmae.model.mae import APMAE


def write_upload(mae: "APMAE", folder: Path, repo_id: str, *, license: str | None) -> None:
    """Write into a folder what :func:`push` uploads."""
    files.save(folder, mae.config, mae.state_dict(), None, mae.model_card(repo_id, license=license))


def push(
    mae: "APMAE", repo_id: str, *, private: bool | None, token: str | None, license: str | None, message: str
) -> str:
    """See :meth:`apmae.APMAE.push_to_hub`."""
    from huggingface_hub import HfApi, get_token

    mae.model_card(repo_id, license=license)  # refused before anything is made on the hub
    if not (token or get_token()):
        raise ModelError(
            f"expected a token of the hub to push to {repo_id}, found none; run `hf auth login`, or set HF_TOKEN"
        )
    api = HfApi(token=token)
    with TemporaryDirectory() as name:
        with _refusal_named(repo_id):
            # Named as the hub names it: with the account before it, if that was left out.
            known = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write_upload(mae, Path(name), known, license=license)
        with _refusal_named(known):
            return str(api.upload_folder(repo_id=known, folder_path=name, commit_message=message).commit_url)


@contextmanager
def _refusal_named(repo_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub client raises many kinds; whatever it says, nothing was pushed
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"expected to push to {repo_id}, the hub says: {reason}; check the name, the token's right to "
            "write and the network"
        ) from None
