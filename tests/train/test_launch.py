"""How a run is started."""

import pytest
from accelerate.utils import LoggerType

from apmae.errors import ConfigError
from apmae.train.launch import TRACKERS, expect_tracker, process_count


def test_the_trackers_are_those_of_accelerate():
    assert set(TRACKERS) == set(LoggerType.list()) - {"all"}


def test_a_tracker_that_is_installed():
    expect_tracker(None)
    expect_tracker("tensorboard")  # by tensorboardX, which is installed for the tests


def test_a_tracker_that_does_not_exist():
    with pytest.raises(ConfigError, match="one of aim, .*, wandb, got 'paper'"):
        expect_tracker("paper")


@pytest.mark.parametrize(("variable", "count"), [(None, 1), ("1", 1), ("8", 8)])
def test_processes_are_counted_by_torchruns_variable(monkeypatch, variable, count):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if variable:
        monkeypatch.setenv("WORLD_SIZE", variable)
    assert process_count() == count
