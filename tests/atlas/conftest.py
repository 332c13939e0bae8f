import numpy as np
import pytest

from apmae.atlas.atlas import Atlas


def _planted(sizes=(70, 60, 50, 40, 30), spread=0.2, seed=0):
    draw = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = draw.normal(size=(len(sizes), 24)) * 4
    return centres[truth] + spread * draw.normal(size=(len(truth), 24)), truth, centres


@pytest.fixture(scope="session")
def plant():
    """Draws rows of 24 dimensions around centres; gives the rows, the centre of each, and the centres."""
    return _planted


@pytest.fixture(scope="session")
def blobs():
    return _planted()


@pytest.fixture(scope="session")
def atlas(blobs):
    return Atlas.fit(blobs[0], seed=0)
