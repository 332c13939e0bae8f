import pytest

from apmae import recipes
from apmae.config import TASKS, StudyConfig, TrainConfig, parse
from apmae.errors import ConfigError
from apmae.model.mae import APMAE


def test_recipes_train_what_they_say():
    assert list(recipes.TRAIN) == ["debug", "nano", "small", "paper"]
    sizes = {name: APMAE(recipes.train_recipe(name).model).num_parameters / 1e6 for name in ("debug", "nano", "small")}
    assert sizes["debug"] < 1
    assert sizes["nano"] == pytest.approx(1.5, abs=0.3)
    assert sizes["small"] == pytest.approx(4, abs=0.5)
    assert sizes["debug"] < sizes["nano"] < sizes["small"]


def test_every_recipe_keeps_the_papers_pattern_and_can_resume():
    for recipe in recipes.TRAIN.values():
        assert (recipe.model.pattern_size, recipe.model.patch_size) == (256, 32)
        assert recipe.checkpoint_every <= recipe.steps


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="debug, nano, small, paper, got 'huge'"):
        recipes.train_recipe("huge")


def test_a_recipe_takes_changes_of_training_and_of_the_model():
    settings = recipes.train_settings("debug", {"steps": 3, "mask_ratio": 0.25, "model": {"encoder_dim": 64}})
    config = parse(TrainConfig, settings, "train")
    assert (config.steps, config.model.mask_ratio, config.model.encoder_dim) == (3, 0.25, 64)
    model = recipes.TRAIN["debug"].model.model_copy(update={"mask_ratio": 0.25, "encoder_dim": 64})
    assert config == recipes.TRAIN["debug"].model_copy(update={"steps": 3, "model": model})
    assert recipes.TRAIN["debug"].model.mask_ratio == 0.5, "the recipe itself stays"
    for changes, said in (({"model": 3}, "model: .*got 3"), ({"model": {"colour": 1}}, "colour"), ({"x": 1}, "x: ")):
        with pytest.raises(ConfigError, match=said):
            parse(TrainConfig, recipes.train_settings("debug", changes), "train")


def test_the_demo_has_all_tasks_balanced_and_carries_its_seed(tmp_path):
    demo = recipes.demo(tmp_path, seed=5)
    assert (demo.encoder, demo.lm, demo.sources) == ("bundled", "bundled", ("bundled",))
    assert (demo.prompts.tasks, demo.prompts.outcome) == (TASKS, "balanced")
    assert {demo.prompts.seed, demo.encode.seed, demo.atlas.seed} == {5}


def test_a_demo_that_trains_keeps_its_files_apart(tmp_path):
    demo = recipes.demo(tmp_path, train=True, seed=5)
    assert demo.encoder == "train"
    assert demo.train.seed == demo.train_prompts.seed == 5
    assert (demo.prompts.split, demo.train_prompts.split) == ("atlas", "train")


@pytest.mark.parametrize("make", [recipes.demo, recipes.debug, lambda out: recipes.demo(out, train=True)])
def test_a_recipe_is_a_study_that_a_file_can_say(make, tmp_path):
    study = make(tmp_path)
    assert parse(StudyConfig, study.model_dump(mode="json"), "study.yaml") == study
