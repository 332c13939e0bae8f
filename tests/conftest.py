"""Fixtures that the tests of several rooms need; anything else belongs to the room's own files."""

from pathlib import Path

import pytest

from apmae.lm.load import load_lm

_SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def bundled_lm():
    """The language model that the package carries, checked against eager on the way."""
    return load_lm()


@pytest.fixture(scope="session")
def shared_folder():
    """Finds a folder of ``shared/``, which lies beside the checkout where the project is developed; skips elsewhere."""

    def find(name):
        folder = _SHARED / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not on this machine: it lies beside the checkout where the project is developed")
        return folder

    return find
