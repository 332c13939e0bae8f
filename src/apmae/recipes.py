"""Named whole configurations: each a study with an encoder to train. A run starts from one and changes a few fields.

They differ in the size of the autoencoder: ``docs/benchmarks.md`` says what each size costs, ``docs/studies/sizes.md``
what it gains. The paper's numbers are in its section 4 and Table 2.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from apmae.config import (
    TASKS,
    APMAEConfig,
    AtlasConfig,
    CaptureConfig,
    EncodeConfig,
    LMConfig,
    PromptsConfig,
    StudyConfig,
    TrainConfig,
)
from apmae.errors import ConfigError

_STUDY = Path("study")

_PAPER_LMS = {"3b": "bigcode/starcoder2-3b", "7b": "bigcode/starcoder2-7b", "15b": "bigcode/starcoder2-15b"}


def paper(size: str, *, sources: tuple[str, ...] = (), out: Path = _STUDY, seed: int = 0) -> StudyConfig:
    """The paper's study of one StarCoder2 model, on GPUs: 126 M parameters, 150 000 steps of 480 patterns.

    The paper states neither warm-up nor precision; here the language model and the autoencoder compute in bfloat16.
    If half of the prompts are correct, 72 million patterns of a quarter of the heads take about 800 000 prompts with
    the 3B model, 500 000 with the 7B and 300 000 with the 15B. They are drawn in epochs of 20 000, which bounds memory
    and what a resumed run has to draw again.

    Args:
        size: "3b", "7b" or "15b".
        sources: source files; empty if they are given later.
        out: the study's folder.
        seed: the seed of every stage.

    Raises:
        ConfigError: if the paper has no such model.
    """
    if size not in _PAPER_LMS:
        raise ConfigError(f"expected one of the paper's models, {', '.join(_PAPER_LMS)}, got {size!r}")
    return _study(
        TrainConfig(precision="bfloat16", checkpoint_every=2000, panel_every=10_000, seed=seed),
        lm=LMConfig(source=_PAPER_LMS[size], device="cuda", dtype="bfloat16"),
        sources=sources,
        out=out,
        prompts=PromptsConfig(outcome="balanced", split="atlas", seed=seed),
        train_prompts=_random(20_000, seed),
    )


def base(*, sources: tuple[str, ...] = ("bundled",), out: Path = _STUDY, seed: int = 0) -> StudyConfig:
    """29 M parameters: for one GPU. A fifth of the training patterns is cropped, as in small, nano and bundled."""
    train = TrainConfig(
        model=_encoder(12, 384, 6, 64, decoder=(4, 384, 6, 64)),
        steps=50_000,
        batch_size=240,
        base_lr=2.5e-4,
        warmup_steps=1000,
        precision="bfloat16",
        redraw=False,
        crop=0.2,
        seed=seed,
    )
    return _study(
        train,
        lm=LMConfig(device="cuda", dtype="bfloat16"),
        sources=sources,
        out=out,
        train_prompts=_random(50_000, seed),
    )


def small(*, sources: tuple[str, ...] = ("bundled",), out: Path = _STUDY, seed: int = 0) -> StudyConfig:
    """10 M parameters: tags all heads of a 3B model in less than 0.3 of the time of its forward pass."""
    train = TrainConfig(
        model=_guided(_encoder(8, 256, 4, 64, decoder=(4, 256, 4, 64))),
        objective="guided",
        steps=10_000,
        batch_size=96,
        base_lr=5e-4,
        warmup_steps=300,
        redraw=False,
        buffer=8192,
        crop=0.2,
        checkpoint_every=250,
        seed=seed,
    )
    return _study(train, sources=sources, out=out, train_prompts=_random(20_000, seed))


def nano(*, sources: tuple[str, ...] = ("bundled",), out: Path = _STUDY, seed: int = 0) -> StudyConfig:
    """2 M parameters: trains in about six minutes on two cores (SmolLM2-135M). All heads of a prompt and prompts of any
    outcome are used, because a forward of the language model costs more than a step.
    """
    train = TrainConfig(
        model=_guided(_NANO),
        objective="guided",
        steps=800,
        batch_size=96,
        base_lr=5e-4,
        warmup_steps=40,
        capture=CaptureConfig(),
        outcome="any",
        redraw=False,
        buffer=4096,
        crop=0.2,
        checkpoint_every=200,
        panel_every=500,
        seed=seed,
    )
    return _study(train, sources=sources, out=out, train_prompts=_random(5000, seed))


def bundled(*, sources: tuple[str, ...] = ("bundled",), out: Path = _STUDY, seed: int = 0) -> StudyConfig:
    """The settings of the bundled encoder (tools/make_bundled.py), for prompts from any source: a longer nano."""
    study = nano(sources=sources, out=out, seed=seed)
    assert study.train is not None, "recipes train"
    longer = {"steps": 1500, "warmup_steps": 100, "checkpoint_every": 250}
    return study.model_copy(update={"train": study.train.model_copy(update=longer)})


def debug(*, sources: tuple[str, ...] = ("bundled",), out: Path = _STUDY, seed: int = 0) -> StudyConfig:
    """Every stage in seconds, for tests: two tasks, a few prompts, a tiny encoder trained for 20 steps."""
    tasks = ("closing_bracket", "identifier")
    train = TrainConfig(
        model=_guided(_NANO.model_copy(update={"encoder_layers": 1, "decoder_layers": 1})),
        objective="guided",
        steps=20,
        batch_size=16,
        base_lr=1e-3,
        redraw=False,
        buffer=256,
        checkpoint_every=5,
        log_every=1,
        panel_every=10,
        seed=seed,
    )
    return _study(
        train,
        sources=sources,
        out=out,
        prompts=PromptsConfig(per_task=6, tasks=tasks, outcome="any", split="atlas", seed=seed),
        train_prompts=_random(64, seed),
        encode=EncodeConfig(capture=CaptureConfig(batch=4), shard_prompts=4, exemplars_per_head=2, seed=seed),
    )


def demo(out: Path, *, train: bool = False, seed: int = 0) -> StudyConfig:
    """A small study of what comes with the package: at most a few minutes on two cores.

    Args:
        out: the study's folder.
        train: train an encoder in the study instead of using the bundled one.
        seed: the seed of every stage.
    """
    prompts = PromptsConfig(per_task=20, outcome="balanced", seed=seed, split="atlas" if train else "all")
    if not train:
        return StudyConfig(out=out, prompts=prompts, encode=EncodeConfig(seed=seed), atlas=AtlasConfig(seed=seed))
    steps = nano(seed=seed).train
    assert steps is not None, "recipes train"
    fewer = steps.model_copy(update={"steps": 400})
    return _study(fewer, out=out, prompts=prompts, train_prompts=_random(1500, seed))


RECIPES: dict[str, Callable[..., StudyConfig]] = {
    "debug": debug,
    "nano": nano,
    "bundled": bundled,
    "small": small,
    "base": base,
    **{f"paper-{size}": partial(paper, size) for size in _PAPER_LMS},
}
"""Recipes by the name that ``--recipe`` takes, from a few seconds to days on a GPU."""


def recipe(name: str) -> StudyConfig:
    """A whole configuration by name.

    Raises:
        ConfigError: if no recipe has that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"expected a recipe, one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]()


def train_recipe(name: str) -> TrainConfig:
    """How a recipe trains.

    Raises:
        ConfigError: if no recipe has that name.
    """
    train = recipe(name).train
    assert train is not None, "recipes train"
    return train


def train_settings(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe's training fields, some of them changed; not yet validated (see ``config.parse``).

    Args:
        name: the recipe's name.
        changes: fields of ``TrainConfig``, as for :meth:`apmae.config.Config.changed`.

    Raises:
        ConfigError: if there is no such recipe.
    """
    return train_recipe(name).changed(changes)


def study_settings(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a study file, with ``train: {recipe: NAME, ...}`` written out; not yet validated."""
    training = values.get("train")
    if not isinstance(training, dict) or "recipe" not in training:
        return values
    changes = {key: value for key, value in training.items() if key != "recipe"}
    return {**values, "train": train_settings(str(training["recipe"]), changes)}


def _encoder(layers: int, dim: int, heads: int, head_dim: int, *, decoder: tuple[int, int, int, int]) -> APMAEConfig:
    """Layers, width, heads and head width of encoder and decoder; an MLP is four times as wide as its input."""
    return APMAEConfig(
        encoder_layers=layers,
        encoder_dim=dim,
        encoder_heads=heads,
        encoder_head_dim=head_dim,
        encoder_mlp_dim=4 * dim,
        decoder_layers=decoder[0],
        decoder_dim=decoder[1],
        decoder_heads=decoder[2],
        decoder_head_dim=decoder[3],
        decoder_mlp_dim=4 * decoder[1],
    )


_NANO = _encoder(4, 160, 5, 32, decoder=(2, 128, 4, 32))


def _guided(model: APMAEConfig) -> APMAEConfig:
    """The same sizes, with root probabilities beside scaled pixels."""
    return model.model_copy(update={"pixels": "log_and_root"})


def _random(prompts: int, seed: int) -> PromptsConfig:
    """Random spans (paper section 4), so many in an epoch: those completed correctly show as they are trained on."""
    return PromptsConfig(per_task=prompts, tasks=("random",), split="train", seed=seed)


def _study(
    train: TrainConfig,
    *,
    prompts: PromptsConfig | None = None,
    encode: EncodeConfig | None = None,
    **given: Any,
) -> StudyConfig:
    """A study that trains its encoder, every stage with the seed of the training."""
    seed = train.seed
    return StudyConfig(
        encoder="train",
        train=train,
        prompts=prompts or PromptsConfig(per_task=100, outcome="balanced", split="atlas", tasks=TASKS, seed=seed),
        encode=encode or EncodeConfig(seed=seed),
        atlas=AtlasConfig(seed=seed),
        **given,
    )
