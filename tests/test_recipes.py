import subprocess
import sys

import pytest

from apmae import recipes
from apmae.config import TASKS, StudyConfig, TrainConfig, parse
from apmae.errors import ConfigError
from apmae.model.mae import APMAE

MILLIONS = {"nano": 2.3, "bundled": 2.3, "small": 10, "base": 29, "paper-3b": 126, "paper-7b": 126, "paper-15b": 126}


def test_recipes_have_the_documented_sizes():
    assert list(recipes.RECIPES) == ["debug", *MILLIONS]
    for name, millions in MILLIONS.items():
        if name in ("paper-7b", "paper-15b"):
            assert recipes.train_recipe(name) == recipes.train_recipe("paper-3b")
            continue
        parameters = APMAE(recipes.train_recipe(name).model).num_parameters / 1e6
        assert parameters == pytest.approx(millions, rel=0.1), name


def test_the_papers_recipes_have_the_papers_settings():
    for size, lm in (("3b", "starcoder2-3b"), ("7b", "starcoder2-7b"), ("15b", "starcoder2-15b")):
        study = recipes.paper(size)
        assert study.lm.source == f"bigcode/{lm}"
        assert study.train.model == TrainConfig().model
        assert study.train.steps * study.train.batch_size == 72_000_000
        assert study.train.lr == pytest.approx(1.44e-3)
        assert study.train_prompts.tasks == ("random",)
        assert (study.prompts.per_task, study.prompts.outcome) == (1000, "balanced")
        assert study.lm.dtype == study.train.precision == "bfloat16"
    with pytest.raises(ConfigError, match="3b, 7b, 15b, got '1b'"):
        recipes.paper("1b")


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_every_recipe_keeps_the_papers_pattern_and_can_resume(name):
    train = recipes.train_recipe(name)
    assert (train.model.pattern_size, train.model.patch_size) == (256, 32)
    assert train.checkpoint_every <= train.steps
    assert train.warmup_steps < train.steps
    assert train.buffer >= 4 * train.batch_size


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_a_recipe_is_a_whole_configuration_that_can_be_hashed_printed_and_read_back(name):
    study = recipes.recipe(name)
    assert hash(study) == hash(recipes.recipe(name))
    assert "TrainConfig(model=APMAEConfig(" in repr(study)
    assert parse(StudyConfig, study.model_dump(mode="json"), "study.yaml") == study
    seeded = recipes.RECIPES[name](seed=3)
    assert seeded != study and seeded.digest != study.digest
    seeds = (seeded.train.seed, seeded.train_prompts.seed, seeded.prompts.seed, seeded.encode.seed, seeded.atlas.seed)
    assert set(seeds) == {3}


def test_a_digest_is_the_same_in_every_process():
    code = "from apmae import recipes; print(*[recipes.recipe(name).digest for name in recipes.RECIPES])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "1"})
    assert run.stdout.split() == [recipes.recipe(name).digest for name in recipes.RECIPES], run.stderr
    assert len(set(run.stdout.split())) == len(recipes.RECIPES)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=f"{', '.join(recipes.RECIPES)}, got 'huge'"):
        recipes.train_recipe("huge")


def test_a_recipe_takes_changes_of_training_and_of_the_model():
    settings = recipes.train_settings("debug", {"steps": 3, "mask_ratio": 0.25, "model": {"encoder_dim": 64}})
    config = parse(TrainConfig, settings, "train")
    assert (config.steps, config.model.mask_ratio, config.model.encoder_dim) == (3, 0.25, 64)
    whole = recipes.train_recipe("debug")
    model = whole.model.model_copy(update={"mask_ratio": 0.25, "encoder_dim": 64})
    assert config == whole.model_copy(update={"steps": 3, "model": model})
    assert recipes.train_recipe("debug").model.mask_ratio == 0.5, "the recipe itself does not change"
    for changes, message in (({"model": 3}, "model: .*got 3"), ({"model": {"colour": 1}}, "colour"), ({"x": 1}, "x: ")):
        with pytest.raises(ConfigError, match=message):
            parse(TrainConfig, recipes.train_settings("debug", changes), "train")


def test_the_demo_has_all_tasks_balanced_and_carries_its_seed(tmp_path):
    demo = recipes.demo(tmp_path, seed=5)
    assert (demo.encoder, demo.lm.source, demo.sources) == ("bundled", "bundled", ("bundled",))
    assert (demo.prompts.tasks, demo.prompts.outcome) == (TASKS, "balanced")
    assert {demo.prompts.seed, demo.encode.seed, demo.atlas.seed} == {5}


def test_a_demo_that_trains_uses_different_files_for_the_atlas(tmp_path):
    demo = recipes.demo(tmp_path, train=True, seed=5)
    assert demo.encoder == "train"
    assert demo.train.seed == demo.train_prompts.seed == 5
    assert (demo.prompts.split, demo.train_prompts.split) == ("atlas", "train")
