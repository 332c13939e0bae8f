"""Fixtures that the tests of several rooms need; anything else belongs to the room's own files."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from command_line import CommandLine
from filelock import FileLock
from hypothesis import settings

# One thread for each worker of pytest-xdist: two would spin beside each other's, and sums end in other bits.
os.environ["OMP_NUM_THREADS"] = "1"

from apmae import recipes  # noqa: E402

pytest_plugins = ["encoders", "planted_study"]

settings.register_profile("apmae", derandomize=True, deadline=None)  # the same examples everywhere, however slow
settings.load_profile("apmae")

_SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def bundled_lm():
    """The language model that the package carries, checked against eager on the way."""
    from apmae.lm.load import load_lm

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


@pytest.fixture(scope="session")
def environment():
    """Of a command line that must not depend on this machine: no hub, one thread, so that bytes can be compared."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def command_line(environment):
    """Forks commands, each a process of its own (command_line.py)."""
    with CommandLine(environment) as line:
        yield line


@pytest.fixture(scope="session")
def apmae_command(command_line):
    """Runs a command and waits for it."""
    return command_line.run


@pytest.fixture(scope="session")
def real_study(tmp_path_factory, command_line):
    """A study that ``apmae run`` made of the bundled model and Java: every stage, a few prompts. Read it, do not write.

    ``folder``, ``yaml`` (the study's file), ``config``, and ``result`` (what the command said). It is made once for
    all workers.
    """
    home = tmp_path_factory.getbasetemp()
    home = (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "real_study"
    home.mkdir(exist_ok=True)
    config = recipes.debug(out=home / "study")
    file, said = home / "study.yaml", home / "said.json"
    with FileLock(home / "lock"):
        if not said.is_file():
            file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
            result = command_line.run("run", file)
            assert (home / "study" / "atlas" / "manifest.json").is_file(), result.stderr
            said.write_text(json.dumps(vars(result)))
    result = SimpleNamespace(**json.loads(said.read_text()))
    return SimpleNamespace(folder=home / "study", yaml=file, config=config, result=result)


@pytest.fixture(scope="session")
def real_tags(bundled_lm, real_study, tmp_path_factory):
    """Tags of the bundled model on the first six prompts of ``real_study``, by its atlas. Read it, do not write.

    ``folder``, and ``prompts``, the file of what was tagged.
    """
    from apmae.config import TagsConfig
    from apmae.engine.prompts import load_prompts
    from apmae.engine.tags import tag_corpus
    from apmae.prompts.files import write_jsonl

    home, study = tmp_path_factory.mktemp("real_tags"), real_study.folder
    write_jsonl(home / "six.jsonl", load_prompts(study / "prompts.parquet")[:6])
    encoder, atlas = str(study / "encoder"), str(study / "atlas")
    tag_corpus(bundled_lm, encoder, atlas, home / "six.jsonl", home / "tags", TagsConfig(shard_prompts=4))
    return SimpleNamespace(folder=home / "tags", prompts=home / "six.jsonl")


@pytest.fixture(scope="session")
def train_prompts(tmp_path_factory):
    """A file of eight random spans of training files, made by the prompts stage; no model was asked about them."""
    from apmae.config import PromptsConfig
    from apmae.corpus.parse import parse_source
    from apmae.engine.prompts import make_prompts

    path = tmp_path_factory.mktemp("train_prompts") / "train-prompts.parquet"
    config = PromptsConfig(per_task=8, tasks=("random",), split="train")
    make_prompts([parse_source("bundled")], path, config)
    return path


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of a size that the test chooses; skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        result = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
        )
        if result.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {result.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)
