"""A checkpoint restores a run exactly, and only that run."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apmae.errors import ArtifactError
from apmae.train import checkpoint

RUN = {"steps": 10, "betas": (0.9, 0.95), "seed": 0}


def made(seed=0, *, averaged=False):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if averaged else None
    return checkpoint.State(model, torch.optim.AdamW(groups, lr=0.01, fused=True), average)


def train(state, first, last):
    for step in range(first, last):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        state.optimizer.zero_grad()
        state.model(x).square().mean().backward()
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.model)


def test_a_restored_run_resumes_bit_for_bit(tmp_path):
    straight = made()
    train(straight, 0, 12)

    first = made()
    train(first, 0, 5)
    checkpoint.save(tmp_path, 5, first, RUN)
    second = made(seed=1)
    assert checkpoint.load(tmp_path, second, RUN) == (5, [])
    train(second, 5, 12)
    for a, b in zip(straight[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(straight[0].parameters(), second[0].parameters(), strict=True):
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(straight[1].state[a][name], second[1].state[b][name])


def test_the_states_of_all_sources_come_back(tmp_path):
    run = made()
    train(run, 0, 2)
    states = [
        {"cursor": np.array([3, 2**40 + process]), "origins": np.arange(6 + 2 * process).reshape(-1, 2)}
        for process in range(11)
    ]
    states[4] = {}
    checkpoint.save(tmp_path, 2, run, RUN, states)
    step, found = checkpoint.load(tmp_path, made(seed=1), RUN)
    assert step == 2 and len(found) == 11
    for before, after in zip(states, found, strict=True):
        assert before.keys() == after.keys()
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array, strict=True)


def test_an_average_of_the_weights_comes_back_and_continues(tmp_path):
    straight, first, second = made(averaged=True), made(averaged=True), made(seed=1, averaged=True)
    train(straight, 0, 9)
    train(first, 0, 4)
    checkpoint.save(tmp_path, 4, first, RUN)
    checkpoint.load(tmp_path, second, RUN)
    train(second, 4, 9)
    for name, tensor in straight.average.state_dict().items():
        assert torch.equal(tensor, second.average.state_dict()[name])
    assert not torch.equal(straight.average.module[0].weight, straight.model[0].weight)
    with pytest.raises(ArtifactError, match="cannot resume"):
        run = made(averaged=False)
        checkpoint.save(tmp_path, 4, run, RUN)
        checkpoint.load(tmp_path, made(averaged=True), RUN)


def test_a_full_disk_leaves_the_previous_checkpoint(small_disk):
    disk = small_disk("64k")
    run = made()
    train(run, 0, 2)
    checkpoint.save(disk, 2, run, RUN)
    before = (disk / checkpoint.NAME).read_bytes()
    (disk / "ballast").write_bytes(bytes(60_000 - len(before)))
    with pytest.raises(ArtifactError, match="the disk is full"):
        checkpoint.save(disk, 4, run, RUN, [{"origins": np.zeros(2000, np.int64)}])
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", checkpoint.NAME]
    assert (disk / checkpoint.NAME).read_bytes() == before
    assert checkpoint.load(disk, made(), RUN) == (2, [])


def test_equal_runs_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        run = made()
        train(run, 0, 3)
        checkpoint.save(tmp_path / name, 3, run, RUN)
    assert (tmp_path / "a" / checkpoint.NAME).read_bytes() == (tmp_path / "b" / checkpoint.NAME).read_bytes()


def test_no_checkpoint_is_step_0(tmp_path):
    assert checkpoint.load(tmp_path, made(), RUN) == (0, [])
    assert checkpoint.load(tmp_path / "none", made(), RUN) == (0, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"another run \(seed: 0, now 1\)"),
        ({"steps": 20, "seed": 2}, r"\(seed: 0, now 2; steps: 10, now 20\)"),
        ({"inputs": "abc"}, r"\(inputs: None, now 'abc'\)"),
    ],
)
def test_another_run_is_refused_and_says_why(tmp_path, change, message):
    run = made()
    train(run, 0, 2)
    checkpoint.save(tmp_path, 2, run, RUN)
    with pytest.raises(ArtifactError, match=message):
        checkpoint.load(tmp_path, made(), {**RUN, **change})


def test_another_model_is_refused(tmp_path):
    run = made()
    train(run, 0, 2)
    checkpoint.save(tmp_path, 2, run, RUN)
    model = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(ArtifactError, match="cannot resume from .*delete it to train from the start"):
        checkpoint.load(tmp_path, checkpoint.State(model, torch.optim.AdamW(model.parameters(), fused=True)), RUN)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    run = made()
    train(run, 0, 2)
    checkpoint.save(tmp_path, 2, run, RUN)
    file = tmp_path / checkpoint.NAME
    whole = file.read_bytes()
    if damage == "foreign":
        save_file(load_file(file), file)  # without the metadata that this run wrote
    else:
        file.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"\xff" * 300, "empty": b""}[damage])
    with pytest.raises(ArtifactError, match="delete it to train from the start"):
        checkpoint.load(tmp_path, made(), RUN)


def test_a_temporary_file_that_a_kill_left_does_not_matter(tmp_path):
    run = made()
    train(run, 0, 2)
    checkpoint.save(tmp_path, 2, run, RUN)
    (tmp_path / f".{checkpoint.NAME}.123.tmp").write_bytes(b"half")
    assert checkpoint.load(tmp_path, made(), RUN) == (2, [])
