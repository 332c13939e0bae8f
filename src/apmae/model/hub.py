"""Uploading a folder to a hub, and refusals that do not need the hub. Torch-free."""

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
        with _refusals_named(repo_id):
            # The hub's full name for it, with the account if that was left out.
            full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write(Path(name), full_name)
        with _refusals_named(full_name):
            return str(api.upload_folder(repo_id=full_name, folder_path=name, commit_message=message).commit_url)


def expect_pushable(repo_id: str, token: str | None = None) -> None:
    """Refuse a push that the hub would refuse, without asking it.

    Args:
        repo_id: where to push.
        token: the hub's; by default the one that ``hf auth login`` stored, or HF_TOKEN.

    Raises:
        ModelError: if the name is not valid, or there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    with _refusals_named(repo_id):
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
        ConfigError: if it is not an identifier, or is given for a model with a card.
    """
    if license is not None and card:
        raise ConfigError(f"expected no license for a model that has a card, got {license!r}; write it in its {CARD}")
    if license is not None and not _LICENSE.fullmatch(license):
        raise ConfigError(f"expected a license identifier such as apache-2.0 or mit, got {license!r}")


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
