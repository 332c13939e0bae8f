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
        with _refusal_named(repo_id):
            # Named as the hub names it: with the account before it, if that was left out.
            known = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write(Path(name), known)
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
