"""Named whole configurations. A run starts from one of these and changes a few fields."""

from pathlib import Path
from typing import Any

from apmae.config import APMAEConfig, AtlasConfig, EncodeConfig, PromptsConfig, StudyConfig, TrainConfig
from apmae.errors import ConfigError

_NANO = APMAEConfig(
    encoder_layers=4,
    encoder_dim=128,
    encoder_heads=4,
    encoder_head_dim=32,
    encoder_mlp_dim=512,
    decoder_layers=2,
    decoder_dim=128,
    decoder_heads=4,
    decoder_head_dim=32,
    decoder_mlp_dim=512,
)
_SMALL = APMAEConfig(
    encoder_layers=6,
    encoder_dim=192,
    encoder_heads=6,
    encoder_head_dim=32,
    encoder_mlp_dim=768,
    decoder_layers=2,
    decoder_dim=192,
    decoder_heads=6,
    decoder_head_dim=32,
    decoder_mlp_dim=768,
)

TRAIN = {
    "debug": TrainConfig(
        model=_NANO.model_copy(update={"encoder_layers": 1, "decoder_layers": 1}),
        steps=20,
        batch_size=16,
        base_lr=1e-3,
        buffer=256,
        checkpoint_every=5,
        log_every=1,
    ),
    "nano": TrainConfig(
        model=_NANO,
        steps=2000,
        batch_size=48,
        base_lr=1e-3,
        warmup_steps=100,
        buffer=2048,
        crop=0.2,
        checkpoint_every=200,
    ),
    "small": TrainConfig(
        model=_SMALL,
        steps=10_000,
        batch_size=64,
        base_lr=8e-4,
        warmup_steps=200,
        buffer=4096,
        crop=0.2,
        checkpoint_every=250,
    ),
    "paper": TrainConfig(),
}
"""How to train an AP-MAE, by size: debug (seconds), nano (1.5 M parameters, minutes on two cores), small (4 M: the
bundled encoder), paper (127 M, paper Table 2)."""


def train_recipe(name: str) -> TrainConfig:
    """A training recipe by name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in TRAIN:
        raise ConfigError(f"expected a recipe, one of {', '.join(TRAIN)}, got {name!r}")
    return TRAIN[name]


def train_settings(recipe: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields with some of them changed, not yet validated (``config.parse``).

    Args:
        recipe: a name from :data:`TRAIN`.
        changes: fields of ``TrainConfig``; those of ``APMAEConfig`` also by themselves, or under "model".

    Raises:
        ConfigError: if there is no such recipe.
    """
    values = train_recipe(recipe).model_dump()
    model = changes.get("model", {})
    for key, value in changes.items():
        if key in APMAEConfig.model_fields:
            values["model"][key] = value
        elif key != "model":
            values[key] = value
    values["model"] = values["model"] | model if isinstance(model, dict) else model
    return values


def study_settings(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a study file with ``train: {recipe: NAME, ...}`` written out, not yet validated."""
    training = values.get("train")
    if not isinstance(training, dict) or "recipe" not in training:
        return values
    changes = {key: value for key, value in training.items() if key != "recipe"}
    return {**values, "train": train_settings(str(training["recipe"]), changes)}


def demo(out: Path, *, train: bool = False, seed: int = 0) -> StudyConfig:
    """The main job on what the package carries: at most a few minutes on two cores.

    Args:
        out: the study's folder.
        train: train the encoder in the study instead of taking the bundled one.
        seed: of every stage.
    """
    return StudyConfig(
        out=out,
        encoder="train" if train else "bundled",
        prompts=PromptsConfig(per_task=20, outcome="balanced", seed=seed, split="atlas" if train else "all"),
        train=TRAIN["nano"].model_copy(update={"steps": 400, "seed": seed}) if train else None,
        train_prompts=PromptsConfig(per_task=400, tasks=("random",), outcome="correct", split="train", seed=seed)
        if train
        else None,
        encode=EncodeConfig(seed=seed),
        atlas=AtlasConfig(seed=seed),
    )


def debug(out: Path) -> StudyConfig:
    """Every stage in seconds, for tests: two tasks, a few prompts, a tiny encoder trained for 20 steps."""
    tasks = ("closing_bracket", "identifier")
    return StudyConfig(
        out=out,
        encoder="train",
        prompts=PromptsConfig(per_task=6, tasks=tasks, outcome="any", split="atlas"),
        train=TRAIN["debug"],
        train_prompts=PromptsConfig(per_task=8, tasks=("random",), outcome="any", split="train"),
        encode=EncodeConfig(batch_prompts=4, shard_prompts=4, exemplars_per_head=2),
    )
