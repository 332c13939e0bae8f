"""How a run is started."""

import pytest
from accelerate.utils import LoggerType

from apmae.errors import ConfigError
from apmae.train.launch import TRACKERS, drawn_share, expect_tracker, process_count


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


@pytest.mark.parametrize(
    ("fields", "processes", "drawn"),
    [
        ({"batch_size": 96}, 1, 48),
        ({"batch_size": 96, "grammar_share": 0.25}, 1, 72),
        ({"batch_size": 96, "grammar_share": 0.0}, 1, 96),
        ({"batch_size": 96}, 4, 12),
        ({"batch_size": 2, "grammar_share": 0.9}, 2, 1),
        ({"batch_size": 96, "objective": "mae"}, 1, 96),
    ],
)
def test_a_guided_batch_leaves_room_for_the_grammar(tiny_train, fields, processes, drawn):
    config = tiny_train({"pixels": "log_and_root"}, **{"objective": "guided", **fields})
    assert drawn_share(config, processes) == drawn


def test_a_batch_that_cannot_be_shared(tiny_train):
    with pytest.raises(ConfigError, match="a batch_size divisible by 3 processes times accumulate 1, got 10; take 9"):
        drawn_share(tiny_train(objective="guided"), 3)
