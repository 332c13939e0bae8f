"""Uploading a folder to a hub."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from apmae.errors import ModelError


def push(
    repo_id: str, write: Callable[[Path, str], None], *, private: bool | None, token: str | None, message: str
) -> str:
    """See :meth:`apmae.APMAE.push_to_hub`; ``write(folder, repo_id)`` fills the folder that is uploaded."""
    from huggingface_hub import HfApi, get_token

    if not (token or get_token()):
        raise ModelError(
            f"expected a token of the hub to push to {repo_id}, found none; run `hf auth login`, or set HF_TOKEN"
        )
    api = HfApi(token=token)
    with TemporaryDirectory() as name:
        with _refusals_named(repo_id):
            # The hub's full name for it, with the account if that was left out.
            full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write(Path(name), full_name)
        with _refusals_named(full_name):
            return str(api.upload_folder(repo_id=full_name, folder_path=name, commit_message=message).commit_url)


@contextmanager
def _refusals_named(repo_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub client raises many kinds of error; whichever it is, nothing was pushed
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"expected to push to {repo_id}, the hub says: {reason}; check the name, the token's right to "
            "write and the network"
        ) from None
