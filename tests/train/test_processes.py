"""Several processes train like one with the whole batch. They are real processes over gloo, started by torchrun, or
forked and told what torchrun tells its processes."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import kill_once
from safetensors.torch import load_file

from apmae.config import CaptureConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.load import load_lm
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.prompts.draw import build_prompts
from apmae.prompts.epochs import DrawnPrompts, files_of, own_files
from apmae.recipes import train_recipe
from apmae.seeding import subseed
from apmae.train.batch import cropped, step_masking
from apmae.train.launch import share_of
from apmae.train.lm_source import LMSource
from apmae.train.loop import METRICS, fit
from apmae.train.objectives import Guided, described, labels_of
from apmae.train.processes import expect_agreement, start
from apmae.train.programs import Programs
from apmae.train.source import ArraySource

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

PROGRAM = """
import sys
import time
from pathlib import Path
from apmae.config import TrainConfig
from apmae.errors import TrainingError
from apmae.patterns.planted import planted
from apmae.train.launch import drawn_share
from apmae.train.loop import fit
from apmae.train.source import ArraySource
from apmae.train.processes import end, start

folder, settings, wrong = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
config = TrainConfig.model_validate_json(settings)


class Hanging(ArraySource):
    def batch(self, step):
        if step == 5 and wrong == ["hangs"]:
            time.sleep(1000)
        return super().batch(step)


accelerator = start("cpu")
number = accelerator.process_index
patterns = planted(3, seed=0)[0]
processes = accelerator.num_processes
drawn = drawn_share(config, processes) * processes
source = Hanging(patterns, drawn, config.seed, process=number, processes=processes, pairs=drawn < config.batch_size)
if wrong == ["data", "folders"]:
    try:
        fit(config, source, folder=folder, accelerator=accelerator, inputs=f"other {number}")
    except TrainingError as error:
        print(error, file=sys.stderr)
    folder = folder / str(number)
mae = fit(config, source, folder=folder, accelerator=accelerator, inputs="same")
if accelerator.is_main_process:
    mae.save_pretrained(folder)
end(accelerator)
"""


def run(command, arguments, **options):
    return subprocess.run(
        [*command, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, **options
    )


def metrics(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


FORKED = """
import os, sys

names = ("RANK", "WORLD_SIZE", "MASTER_PORT")
os.environ |= dict(zip(names, sys.argv[1:4])) | {"LOCAL_RANK": sys.argv[1], "MASTER_ADDR": "127.0.0.1"}
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
del sys.argv[1:4]
"""


@pytest.fixture
def fork(command_line, config):
    """Starts the program in two processes without torchrun, which takes seconds to begin and to end."""

    def started(folder, *wrong, config=config):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = (2, port, folder, config.model_dump_json(), *wrong)
        return [command_line.start(number, *arguments, code=FORKED + PROGRAM) for number in (0, 1)]

    return started


@pytest.fixture(scope="module")
def config():
    changes = {"steps": 6, "checkpoint_every": 3, "batch_size": 16, "accumulate": 2, "crop": 0.3, "ema": 0.8}
    return train_recipe("debug").model_copy(update={"objective": "mae", **changes})


@pytest.fixture(scope="module")
def together(config, tmp_path_factory):
    """The folder of a run of two processes."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "train.py").write_text(PROGRAM)
    ran = run(TORCHRUN, [folder / "train.py", folder, config.model_dump_json()])
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


def alone(config, folder):
    """What the program does, in this process."""
    source = ArraySource(planted(3, seed=0)[0], config.batch_size, config.seed)
    return fit(config, source, folder=folder, inputs="same")


def test_two_processes_are_one_with_twice_the_batch(config, together, tmp_path):
    """Masks, crops, the mean over masked pixels and the averaged weights are those of one process."""
    alone(config.model_copy(update={"accumulate": 1}), tmp_path).save_pretrained(tmp_path)
    two, one = metrics(together), metrics(tmp_path)
    assert [line["step"] for line in two] == [line["step"] for line in one] == list(range(6))
    for name in ("loss", "published_loss", "grad_norm"):
        np.testing.assert_allclose([line[name] for line in two], [line[name] for line in one], rtol=2e-5)
    assert [line["epoch"] for line in two] == [line["epoch"] for line in one]
    a, b = (load_file(folder / "model.safetensors") for folder in (together, tmp_path))
    for name in a:
        np.testing.assert_allclose(a[name].numpy(), b[name].numpy(), atol=3e-4, err_msg=name)


def test_two_processes_train_guided_on_programs_of_their_own(fork, config, tmp_path):
    """The first step by hand: one forward of both batches. Contrast alone is within a process."""
    config = config.model_copy(update={"objective": "guided", "accumulate": 1, "steps": 1})
    for process in fork(tmp_path, config=config):
        finished = process.finish()
        assert finished.returncode == 0, finished.stderr
    (first,) = metrics(tmp_path)
    model = Guided(APMAE(config.model, seed=config.seed), seed=config.seed)
    parts = []
    for number in (0, 1):
        source = ArraySource(planted(3, seed=0)[0], 8, config.seed, process=number, processes=2, pairs=True)
        made = Programs(4, size=256, seed=subseed(config.seed, "process", number))
        parts += [source.batch(0), made.batch(0)]
    assert not np.array_equal(parts[1].head, parts[3].head)
    batch = cropped(Patterns.concatenate([part.without_texts() for part in parts]), config, 0)
    labels = torch.from_numpy(labels_of(batch, heads=True))
    with torch.no_grad():
        found = model(model.mae.scale(batch), step_masking(config, 16, 0), labels, described(batch))
    assert first["loss"] == pytest.approx(float(found.reconstruction.loss), rel=2e-5)
    assert first["published_loss"] == pytest.approx(float(found.reconstruction.published_loss), rel=2e-5)
    assert first["description"] == pytest.approx(float(found.description), rel=2e-5)
    assert first["contrast"] > 0


def test_two_processes_that_were_killed_end_with_the_same_bytes(fork, together, tmp_path):
    for process in fork(tmp_path, "hangs"):
        kill_once(process, lambda: (tmp_path / METRICS).is_file() and len(metrics(tmp_path)) == 5)
    assert (tmp_path / "checkpoint.safetensors").is_file() and len(metrics(tmp_path)) == 5
    for process in fork(tmp_path):
        finished = process.finish()
        assert finished.returncode == 0, finished.stderr
    for name in ("model.safetensors", METRICS):
        assert (tmp_path / name).read_bytes() == (together / name).read_bytes()


def test_one_process_cannot_resume_a_checkpoint_of_two(config, together):
    with pytest.raises(ArtifactError, match=r"another run \(processes: 2, now 1\)"):
        alone(config, together)


def test_processes_with_different_data_or_folders_stop_and_say_so(fork, together, tmp_path):
    """If one finds a checkpoint and the other does not, they would resume from different steps."""
    (tmp_path / "0").mkdir()
    shutil.copy(together / "checkpoint.safetensors", tmp_path / "0")
    for process in fork(tmp_path, "data", "folders"):
        ran = process.finish()
        assert ran.returncode != 0
        assert "process 1 has inputs 'other 1' where process 0 has 'other 0'" in ran.stderr
        assert "process 1 has steps done 0 where process 0 has 6" in ran.stderr
        assert "a folder that all of them see" in ran.stderr
    assert not (tmp_path / METRICS).exists()


class _Both:
    """The sources of two processes; every batch is that of the first, then that of the second."""

    def __init__(self, sources):
        self._sources = sources

    def batch(self, step):
        return Patterns.concatenate([source.batch(step).without_texts() for source in self._sources])


@pytest.mark.slow
def test_the_command_gives_each_process_its_own_files(tmp_path):
    """Compared with one process that reads the files of both."""
    out = tmp_path / "encoder"
    # Guided processes draw other programs, and contrast is within one of them.
    arguments = ["train", "--corpus", "bundled", "--recipe", "debug", "--set", "outcome=any", "--steps", 4]
    arguments += ["--set", "objective=mae"]
    ran = run([*TORCHRUN, "-m", "apmae"], [*arguments, "--out", out])
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("encoder in") == 1
    config = train_recipe("debug").model_copy(update={"outcome": "any", "steps": 4, "objective": "mae"})
    lm = load_lm()
    drawn = PromptsConfig(per_task=64, tasks=("random",), split="train")
    files = parse_source("bundled").handles((".java",))
    own = [files_of(files, drawn, process=number, processes=2) for number in (0, 1)]
    assert all(own) and not {file.path for file in own[0]} & {file.path for file in own[1]}
    settings = {"size": 256, "batch_size": 8, "buffer": 256, "outcome": "any"}
    some = CaptureConfig(heads=0.25)
    sources = [
        LMSource(
            lm,
            DrawnPrompts(part, drawn, tokenizer=lm.backend_tokenizer, redraw=False),
            some,
            seed=subseed(0, "process", number),
            **settings,
        )
        for number, part in enumerate(own)
    ]
    with sources[0], sources[1]:
        fit(config, _Both(sources), folder=tmp_path / "one")
    two, one = metrics(out), metrics(tmp_path / "one")
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=2e-5)
    assert two[-1]["asked"] == sum(source.counts()["asked"] for source in sources)


def test_every_prompt_goes_to_one_process_and_files_stay_together():
    drawn = PromptsConfig(per_task=40, tasks=("random", "identifier"))
    prompts, _ = build_prompts(parse_source("bundled").handles((".java",)), drawn)
    assert own_files(prompts, 0, 1) == prompts
    for processes in (2, 3, 5):
        parts = [own_files(prompts, number, processes) for number in range(processes)]
        assert sorted(prompt.id for part in parts for prompt in part) == sorted(prompt.id for prompt in prompts)
        paths = [{prompt.path for prompt in part} for part in parts]
        assert sum(map(len, paths)) == len(set().union(*paths))
        assert max(map(len, paths)) - min(map(len, paths)) <= 1
    files = len({prompt.path for prompt in prompts})
    with pytest.raises(ConfigError, match=f"at least {files + 1} files, one per process, got {files}"):
        own_files(prompts, 0, files + 1)


def test_a_batch_that_cannot_be_divided_is_refused_with_one_that_can():
    config = train_recipe("debug").model_copy(update={"batch_size": 50, "accumulate": 4})
    assert share_of(config.model_copy(update={"batch_size": 48}), 3) == 16
    with pytest.raises(ConfigError, match="divisible by 3 processes times accumulate 4, got 50; take 48"):
        share_of(config, 3)
    with pytest.raises(ConfigError, match="take 240"):
        share_of(config, 60)


def test_one_process_agrees_with_itself():
    expect_agreement(start(), {"seed": 1})


def test_a_tracker_gets_what_the_log_gets_and_the_rate(tmp_path):
    patterns = planted(1)[0]
    config = train_recipe("debug").model_copy(update={"steps": 3, "batch_size": 4})
    accelerator = start(track="tensorboard", folder=tmp_path / "tracked")
    fit(config, ArraySource(patterns, 4, 0), folder=tmp_path, accelerator=accelerator)
    accelerator.end_training()
    (events,) = (tmp_path / "tracked" / "apmae").glob("events.*")
    written = events.read_bytes()
    assert all(name in written for name in (b"loss", b"grad_norm", b"patterns_per_second", b"epoch"))
    assert "patterns_per_second" not in metrics(tmp_path)[0], "equal runs give equal bytes"


def test_a_tracker_that_does_not_exist_or_is_not_installed_is_refused():
    with pytest.raises(ConfigError, match=r"one of aim, .*wandb, got 'paper'"):
        start(track="paper")
    with pytest.raises(ConfigError, match="expected the tracker 'wandb' to be installed, it is not: pip install wandb"):
        start(track="wandb")
