"""What a user asked for, before anything is loaded."""

import pytest

from apmae import recipes
from apmae.config import LMConfig
from apmae.engine.settings import training
from apmae.errors import ConfigError


def test_training_is_the_recipes_with_what_was_asked():
    asked = training("base", {"steps": 7, "heads": 0.5}, {"dtype": "float32"}, language="python", per_task=3)
    recipe = recipes.recipe("base")
    assert (asked.config.steps, asked.config.capture.heads) == (7, 0.5)
    assert asked.config.model == recipe.train.model
    assert asked.lm == LMConfig(source=recipe.lm.source, device="cuda", dtype="float32")
    assert (asked.corpus.language, asked.corpus.per_task) == ("python", 3)
    assert (asked.corpus.tasks, asked.corpus.outcome, asked.corpus.split) == (("random",), "any", "train")


def test_prompts_are_drawn_as_the_training_needs_them():
    for changes, length in (({}, 256), ({"context": 300, "outcome": "any"}, 300)):
        corpus = training("nano", {**changes, "seed": 5}, {}, language="java").corpus
        assert (corpus.length, corpus.outcome, corpus.seed) == (length, "any", 5)
        assert corpus.per_task == recipes.recipe("nano").train_prompts.per_task


def test_without_a_corpus_nothing_is_asked_of_one():
    """Stored patterns may be smaller than any window of prompts."""
    small = {"pattern_size": 4, "patch_size": 2}
    assert training("nano", small, {}).corpus is None
    with pytest.raises(ConfigError, match="--corpus: length: .* got 4"):
        training("nano", small, {}, language="java")
