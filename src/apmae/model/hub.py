"""Uploading a folder to a hub, and what can be refused before it is asked. Torch-free."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from apmae.errors import ConfigError, ModelError
from apmae.model.folder import CARD

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.ASCII)


def push(
    repo_id: str, write: Callable[[Path, str], None], *, private: bool | None, token: str | None, message: str
) -> str:
    """See :meth:`apmae.APMAE.push_to_hub`; ``write(folder, repo_id)`` fills the folder that is uploaded."""
    from huggingface_hub import HfApi

    expect_pushable(repo_id, token)
    api = HfApi(token=token)
    with TemporaryDirectory() as name:
        with _refusal_named(repo_id):
            # Named as the hub names it: with the account before it, if that was left out.
            known = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write(Path(name), known)
        with _refusal_named(known):
            return str(api.upload_folder(repo_id=known, folder_path=name, commit_message=message).commit_url)


def expect_pushable(repo_id: str, token: str | None = None) -> None:
    """Refuse a push that the hub would refuse, without asking it.

    Args:
        repo_id: where to.
        token: of the hub; by default the one that ``hf auth login`` keeps, or HF_TOKEN.

    Raises:
        ModelError: if the name is none, or there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    with _refusal_named(repo_id):
        validate_repo_id(repo_id)
    if not (token or get_token()):
        raise ModelError(
            f"expected a token of the hub to push to {repo_id}, found none; run `hf auth login`, or set HF_TOKEN"
        )


def expect_license(license: str | None, *, card: bool) -> None:
    """Refuse a license that a model card cannot name.

    Args:
        license: as hubs abbreviate it; None leaves it open.
        card: whether the model already has a card, which names its own.

    Raises:
        ConfigError: if it is no identifier, or given for a model with a card.
    """
    if license is not None and card:
        raise ConfigError(f"expected no license for a model that has a card, got {license!r}; write it in its {CARD}")
    if license is not None and not _LICENSE.fullmatch(license):
        raise ConfigError(f"expected a license identifier such as apache-2.0 or mit, got {license!r}")


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
