import json
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apmae.config import (
    SQUARE,
    TASKS,
    AblateConfig,
    AnswersConfig,
    APMAEConfig,
    AtlasConfig,
    CaptureConfig,
    DimensionsConfig,
    EncodeConfig,
    EvaluateConfig,
    LMConfig,
    LocationsConfig,
    PatchingConfig,
    PredictConfig,
    PromptsConfig,
    PruneConfig,
    SimilarConfig,
    StudyConfig,
    TagsConfig,
    TopConfig,
    TrainConfig,
    device_kind,
    parse,
)
from apmae.errors import ApmaeError, ConfigError

ALL = [
    *(PromptsConfig, APMAEConfig, TrainConfig, EvaluateConfig, EncodeConfig, AtlasConfig, DimensionsConfig),
    *(AnswersConfig, LocationsConfig, PatchingConfig, PredictConfig, SimilarConfig, StudyConfig, TagsConfig, TopConfig),
    *(AblateConfig, AnswersConfig, LocationsConfig, PredictConfig, SimilarConfig, StudyConfig, TagsConfig, TopConfig),
    *(
        AblateConfig,
        AnswersConfig,
        LocationsConfig,
        PredictConfig,
        PruneConfig,
        SimilarConfig,
        StudyConfig,
        TagsConfig,
        TopConfig,
    ),
]


def test_the_defaults_are_the_paper():
    train = TrainConfig()
    model = train.model
    assert (model.encoder_layers, model.encoder_dim, model.encoder_heads, model.encoder_mlp_dim) == (24, 512, 16, 2048)
    assert (model.decoder_layers, model.decoder_dim, model.decoder_heads, model.decoder_mlp_dim) == (8, 512, 8, 2048)
    assert (model.encoder_head_dim, model.decoder_head_dim) == (64, 64)
    assert (model.pattern_size, model.patch_size, model.mask_ratio) == (256, 32, 0.5)
    assert (model.grid_size, model.num_patches, model.num_masked) == (8, 36, 18)
    assert (train.batch_size, train.steps, train.betas, train.weight_decay) == (480, 150_000, (0.9, 0.95), 0.05)
    assert train.lr == pytest.approx(1.44e-3)
    assert train.capture.heads == 0.25
    atlas = AtlasConfig()
    assert (atlas.neighbors, atlas.min_dist, atlas.metric, atlas.dimensions) == (15, 0.1, "manhattan", 4)
    assert (atlas.epsilon, atlas.max_mean_distance) == (0.5, 1.0)
    assert PromptsConfig().per_task == 1000
    assert len(TASKS) == 10 == len(set(TASKS))


@given(st.integers(1, 40), st.integers(2, 12), st.floats(0.001, 0.999))
def test_a_model_masks_some_patches_and_leaves_some(patch, grid, ratio):
    model = APMAEConfig(pattern_size=patch * grid, patch_size=patch, mask_ratio=ratio)
    assert model.num_patches == sum(1 for row in range(grid) for column in range(grid) if column <= row)
    assert 1 <= model.num_masked <= model.num_patches - 1
    assert abs(model.num_masked - ratio * model.num_patches) <= 1


@given(st.integers(1, 40), st.integers(2, 12))
def test_square_patterns_have_all_patches(patch, grid):
    assert APMAEConfig(pattern_size=patch * grid, patch_size=patch, causal=False).num_patches == grid * grid


def test_what_square_patterns_do_not_allow_is_refused():
    with pytest.raises(ConfigError, match="crop is 0.2, but rows of square patterns depend on all tokens"):
        parse(TrainConfig, {"causal": False, "crop": 0.2}, "train")
    with pytest.raises(ConfigError, match="grid 'square' is the released models' way to read causal patterns"):
        parse(APMAEConfig, {"causal": False, "grid": "square"}, "model")
    assert parse(TrainConfig, {**SQUARE, "objective": "guided"}, "train").model.num_patches == 64


@pytest.mark.parametrize("kind", ALL)
def test_a_configuration_survives_json(kind):
    config = kind()
    assert kind.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize("kind", ALL)
def test_a_configuration_is_frozen_and_knows_its_fields(kind):
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError):
        setattr(kind(), name, None)
    with pytest.raises(ConfigError, match=r"study\.yaml: colour: .*'red'"):
        parse(kind, {"colour": "red"}, "study.yaml")


@pytest.mark.parametrize(
    "kind", [PromptsConfig, EncodeConfig, AtlasConfig, DimensionsConfig, TagsConfig, TrainConfig, StudyConfig]
)
def test_settings_of_a_stage_have_descriptions(kind):
    plain = {"seed", "weight_decay", "betas", "model", "capture", "encode", "atlas"}
    assert {name for name, field in kind.model_fields.items() if not field.description} <= plain


@pytest.mark.parametrize(
    ("kind", "values", "field", "found"),
    [
        (APMAEConfig, {"pattern_size": 100}, "APMAEConfig", "patch_size 32 does not divide pattern_size 100"),
        (APMAEConfig, {"pattern_size": 32}, "APMAEConfig", "a pattern of 1 patch cannot be masked"),
        (APMAEConfig, {"mask_ratio": 1}, "mask_ratio", "got 1"),
        (APMAEConfig, {"scaling": "unknown"}, "scaling", "'unknown'"),
        (TrainConfig, {"steps": 0}, "steps", "got 0"),
        (TrainConfig, {"base_lr": inf}, "base_lr", "got inf"),
        (TrainConfig, {"base_lr": nan}, "base_lr", "got nan"),
        (TrainConfig, {"betas": [0.9, 1.0]}, "betas.1", "got 1.0"),
        (TrainConfig, {"model": {"patch_size": 7}}, "model", "patch_size 7 does not divide"),
        (TrainConfig, {"model": 3}, "model", "got 3"),
        (AblateConfig, {"modes": ["mean", "mean"]}, "AblateConfig", "one or more modes, each once, got mean, mean"),
        (AblateConfig, {"modes": []}, "AblateConfig", "one or more modes, each once, got none"),
        (PruneConfig, {"rankings": []}, "PruneConfig", "one or more rankings, each once, got none"),
        (PruneConfig, {"rankings": ["flow", "flow"]}, "PruneConfig", "each once, got flow, flow"),
        (PruneConfig, {"rankings": ["luck"]}, "rankings.0", "got 'luck'"),
        (PruneConfig, {"doses": []}, "PruneConfig", "doses from 1, each once, got none"),
        (PruneConfig, {"mode": "resample"}, "mode", "got 'resample'"),
        (AblateConfig, {"modes": ["noise"]}, "modes.0", "got 'noise'"),
        (AblateConfig, {"heads": [[0, 1], [0, 1]]}, "AblateConfig", "one or more heads, each once, or all"),
        (AblateConfig, {"doses": [0, 4]}, "AblateConfig", "doses from 1, each once, got 0, 4"),
        (AblateConfig, {"doses": [4, 4]}, "AblateConfig", "doses from 1, each once, got 4, 4"),
        (AblateConfig, {"draws": 0}, "draws", "got 0"),
        (EncodeConfig, {"heads": 0}, "capture.heads", "heads is 0"),
        (EncodeConfig, {"capture": {"heads": 1.5}}, "capture.heads", "heads is 1.5"),
        (EvaluateConfig, {"heads": -0.5}, "capture.heads", "heads is -0.5"),
        (EncodeConfig, {"heads": 0.5, "capture": {"heads": 0.5}}, "EncodeConfig", "heads is given twice"),
        (StudyConfig, {"device": "cuda", "lm": {"device": "cpu"}}, "StudyConfig", "device is given twice"),
        (StudyConfig, {"source": "src"}, "StudyConfig", "there is no field source"),
        (StudyConfig, {"lm": 3}, "lm", "got 3"),
        (StudyConfig, {"lm": 3, "device": "cpu"}, "lm", "got 3"),
        (LMConfig, {"dtype": "int8"}, "dtype", "got 'int8'"),
        (EvaluateConfig, {"mask_ratio": 1}, "mask_ratio", "less than 1"),
        (EncodeConfig, {"heads": "some"}, "capture.heads", "'some'"),
        (AtlasConfig, {"neighbors": 1}, "neighbors", "got 1"),
        (AtlasConfig, {"min_dist": 1.5}, "min_dist", "got 1.5"),
        (AtlasConfig, {"metric": "hamming"}, "metric", "'hamming'"),
        (AtlasConfig, {"device": "cuda:1"}, "device", "'cuda:1'"),
        (
            DimensionsConfig,
            {"dimensions": []},
            "DimensionsConfig",
            "one or more dimensions, each from 2 and once, got none",
        ),
        (DimensionsConfig, {"dimensions": [4, 1]}, "DimensionsConfig", "each from 2 and once, got 4, 1"),
        (DimensionsConfig, {"dimensions": [3, 3]}, "DimensionsConfig", "each from 2 and once, got 3, 3"),
        (DimensionsConfig, {"dimensions": ["x"]}, "dimensions.0", "'x'"),
        (DimensionsConfig, {"neighbors": 0}, "neighbors", "got 0"),
        (DimensionsConfig, {"queries": 1}, "queries", "got 1"),
        (DimensionsConfig, {"seeds": 0}, "seeds", "got 0"),
        (DimensionsConfig, {"points": 9}, "points", "got 9"),
        (DimensionsConfig, {"atlas": {"metric": "hamming"}}, "atlas.metric", "'hamming'"),
        (PromptsConfig, {"tasks": ["eol", "verbs"]}, "tasks.1", "'verbs'"),
        (PromptsConfig, {"language": "cobol"}, "language", "'cobol'"),
        (StudyConfig, {"sources": "src"}, "sources", "'src'"),
        (StudyConfig, {"encoder": "train"}, "StudyConfig", "train and train_prompts must be given"),
        (
            StudyConfig,
            {"encoder": "train", "train": {}, "train_prompts": {"outcome": "correct"}},
            "StudyConfig",
            "train_prompts.outcome is 'correct', but no model is asked before training: leave it out",
        ),
        (StudyConfig, {"train": {"steps": 5}}, "StudyConfig", "encoder is 'bundled'"),
        (StudyConfig, {"prompts": {"per_task": -1}}, "prompts.per_task", "got -1"),
        (StudyConfig, {"prompts": None}, "prompts", "got None"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_with_its_field(kind, values, field, found):
    with pytest.raises(ConfigError) as refused:
        parse(kind, values, "here")
    message = str(refused.value)
    assert message.startswith(f"here: {field}")
    assert found in message
    assert "\n" not in message
    assert isinstance(refused.value, (ApmaeError, ValueError))


def test_all_bad_values_are_named_at_once():
    with pytest.raises(ConfigError) as refused:
        parse(AtlasConfig, {"neighbors": 1, "epsilon": -1}, "here")
    assert "neighbors" in str(refused.value)
    assert "epsilon" in str(refused.value)


def test_a_study_file_may_leave_out_what_it_does_not_change():
    study = parse(StudyConfig, {"prompts": {"per_task": 5}}, "study.yaml")
    assert study.prompts == StudyConfig().prompts.model_copy(update={"per_task": 5})
    assert study.prompts.outcome == "balanced"


def test_a_study_that_trains_draws_both_kinds_of_prompts_from_different_files():
    study = parse(StudyConfig, {"encoder": "train", "train": {}, "train_prompts": {"per_task": 7}}, "study.yaml")
    assert (study.prompts.split, study.train_prompts.split) == ("atlas", "train")
    assert (study.train_prompts.outcome, study.train_prompts.tasks) == ("any", ("random",))
    chosen = {"prompts": {"split": "all"}, "encoder": "train", "train": {}, "train_prompts": {"split": "all"}}
    study = parse(StudyConfig, chosen, "study.yaml")
    assert (study.prompts.split, study.train_prompts.split) == ("all", "all")


def test_a_study_written_out_reads_back_the_same():
    study = StudyConfig(
        prompts=PromptsConfig(per_task=3), encoder="train", train=TrainConfig(), train_prompts=PromptsConfig()
    )
    assert parse(StudyConfig, study.model_dump(mode="json"), "study.json") == study


def test_all_errors_have_one_base():
    from apmae import errors

    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) > 5
    assert all(issubclass(kind, ApmaeError) for kind in kinds)
    assert issubclass(ConfigError, ValueError)


def test_fields_of_a_part_may_be_given_directly_and_the_rest_is_the_default():
    assert parse(EvaluateConfig, {"context": 64}, "x").capture == CaptureConfig(heads=0.25, context=64)
    assert parse(TrainConfig, {"capture": {"batch": 2}}, "x").capture == CaptureConfig(heads=0.25, batch=2)
    both = parse(TrainConfig, {"mask_ratio": 0.75, "model": {"patch_size": 16}, "long": "crop"}, "x")
    assert (both.model.mask_ratio, both.model.patch_size, both.capture.long) == (0.75, 16, "crop")
    study = parse(StudyConfig, {"lm": "a/b", "device": "cuda", "encode": {"heads": 0.5}}, "x")
    assert study.lm == LMConfig(source="a/b", device="cuda")
    assert study.encode.capture == CaptureConfig(heads=0.5)
    assert StudyConfig(lm="a/b").lm == LMConfig(source="a/b")


def test_a_configuration_given_as_a_part_replaces_all_of_it():
    """With its own defaults, not those of the stage, whatever else is given."""
    given = CaptureConfig(batch=2)
    assert EvaluateConfig(capture=given).capture == CaptureConfig(heads="all", batch=2)
    assert EvaluateConfig(capture=given, long="crop").capture == CaptureConfig(heads="all", batch=2, long="crop")
    changed = TrainConfig().changed({"capture": given, "context": 64})
    assert parse(TrainConfig, changed, "x").capture == CaptureConfig(heads="all", batch=2, context=64)
    for values in ({"capture": 5, "heads": 0.5}, TrainConfig().changed({"capture": 5, "heads": 0.5})):
        with pytest.raises(ConfigError, match=r"x: capture: .* got 5"):
            parse(TrainConfig, values, "x")


def test_changing_a_field_keeps_the_rest_of_its_part():
    config = TrainConfig(capture=CaptureConfig(heads=0.5, batch=3), steps=7)
    changed = parse(TrainConfig, config.changed({"heads": 1.0, "model": {"mask_ratio": 0.75}}), "x")
    assert changed.capture == CaptureConfig(heads=1.0, batch=3)
    assert (changed.steps, changed.model.mask_ratio, changed.model.patch_size) == (7, 0.75, 32)
    with pytest.raises(ConfigError, match="heads is given twice"):
        config.changed({"heads": 1.0, "capture": {"heads": 0.5}})


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "xpu:0", "auto"])
def test_a_device_is_a_kind_and_perhaps_a_number(device):
    assert LMConfig(device=device).device == device
    assert device_kind(device) == device.split(":")[0]


@pytest.mark.parametrize("device", ["", "gpu", "toaster", "cuda:", "cuda:x", "cuda1", "CUDA", "auto:1", "cuda:-1"])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(ConfigError, match=f"device: .*expected a device such as cpu.*, got '{device}'$"):
        parse(LMConfig, {"device": device}, "language model")
