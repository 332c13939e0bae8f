"""Small random models of the families in the matrix."""

import pytest
from families import FAMILIES, config_of
from matrix import family_model, random_model


@pytest.fixture(scope="session")
def family():
    """A small random model of a family, made once; tests must not change it."""
    return family_model


@pytest.fixture
def fresh():
    """A new small Llama, for tests that change it; keywords go to ``random_model``."""
    return lambda **keywords: random_model(config_of(FAMILIES["llama"]), **keywords)
