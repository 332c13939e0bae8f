"""Every setting of every stage: frozen, keyword-only, validated here and nowhere else. Torch-free.

Defaults are the paper's unless the field says otherwise; whole configurations live in ``recipes``.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from apmae.errors import ConfigError

TASKS = (
    "closing_bracket",
    "eol",
    "boolean_literal",
    "string_literal",
    "numeric_literal",
    "identifier",
    "boolean_operator",
    "math_operator",
    "assignment_operator",
    "random",
)
"""The ten completion tasks of code, in the paper's order (paper section 5)."""

TEXT_TASKS = ("sentence_end", "number", "capitalised_name", "quote", "repeated_word", "random")
"""The completion tasks of plain text. Not in the paper."""

Task = Literal[
    "closing_bracket",
    "eol",
    "boolean_literal",
    "string_literal",
    "numeric_literal",
    "identifier",
    "boolean_operator",
    "math_operator",
    "assignment_operator",
    "random",
    "sentence_end",
    "number",
    "capitalised_name",
    "quote",
    "repeated_word",
]


Circuit = Literal["ioi", "greater_than", "docstring", "induction", "gendered_pronouns"]
"""The classic circuits that ``prompts/circuits.py`` makes prompts of."""


def tasks_of(language: str) -> tuple[Task, ...]:
    """The tasks of a language."""
    return TEXT_TASKS if language == "text" else TASKS


Decay = Annotated[float, Field(ge=0, lt=1)]


def _expect_share(heads: float | str) -> float | str:
    if isinstance(heads, float) and not 0 < heads <= 1:
        raise ValueError(f"heads is {heads}: expected 'all' or a share in (0, 1]")
    return heads


Share = Annotated[float | Literal["all"], AfterValidator(_expect_share)]


class Config(BaseModel):
    """Base: immutable, unknown keys refused, field docstrings kept for ``--help`` and error messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class PromptsConfig(Config):
    """How prompts are drawn from source files."""

    language: Literal["java", "python", "cpp", "javascript", "typescript", "go", "rust", "text"] = "java"
    """What the files are written in: a programming language, or "text" for prose."""

    tasks: tuple[Task, ...] = TASKS
    """The kinds of span to take out, by default all of the language (:func:`tasks_of`)."""

    per_task: int = Field(default=1000, ge=1)
    """Prompts a task (paper section 5: 1 000)."""

    outcome: Literal["any", "balanced", "correct"] = "any"
    """With a language model: keep half correct and half incorrect ("balanced", as the paper's atlas prompts),
    correct ones only ("correct", as its training prompts), or whatever comes."""

    length: int = Field(default=256, ge=8)
    """Tokens of the window, sentinels included."""

    per_file: int | None = Field(default=None, ge=1)
    """Most prompts of a task from one file. By default one, and more only when every file has given one."""

    similar: float = Field(default=0.8, gt=0, le=1)
    """A prompt is left out if this share of its window is in an earlier one of its task, such as a copy of the file or
    a span close by. At 1 only what is the same throughout, the place of the span included."""

    split: Literal["all", "train", "atlas", "held_out"] = "all"
    """Which files to draw from. Files are split by a hash of their path, those of a repository together: three fifths
    to train an encoder on, a fifth to fit an atlas on, a fifth held out."""

    seed: int = 0
    """Which files and spans are drawn."""

    @model_validator(mode="before")
    @classmethod
    def _every_task(cls, values: Any) -> Any:
        if isinstance(values, dict) and "tasks" not in values and values.get("language") == "text":
            return values | {"tasks": TEXT_TASKS}
        return values

    @model_validator(mode="after")
    def _tasks_are_of_the_language(self) -> Self:
        known = tasks_of(self.language)
        others = [task for task in self.tasks if task not in known]
        if others:
            raise ValueError(
                f"language {self.language!r} has no task {', '.join(others)}: take from {', '.join(known)}"
            )
        return self


class CircuitsConfig(Config):
    """How prompts of classic circuits are drawn (``docs/circuits.md``)."""

    circuits: tuple[Circuit, ...]
    """Which sets, each once."""

    per_task: int = Field(default=100, ge=1)
    """Prompts a set, each with its counterfactual."""

    length: int = Field(default=256, ge=8)
    """Most tokens of a prompt."""

    seed: int = 0
    """Which templates and words."""

    @model_validator(mode="after")
    def _each_circuit_once(self) -> Self:
        if not self.circuits or len(set(self.circuits)) < len(self.circuits):
            raise ValueError(f"circuits are one or more, each once, got {', '.join(self.circuits) or 'none'}")
        return self


class APMAEConfig(Config):
    """Architecture of an AP-MAE (paper Table 2)."""

    pattern_size: int = Field(default=256, ge=2)
    """Side of a pattern, tokens."""

    patch_size: int = Field(default=32, ge=1)
    """Side of a patch, tokens; divides ``pattern_size``."""

    mask_ratio: float = Field(default=0.5, gt=0, lt=1)
    """Share of the patches hidden from the encoder while training."""

    scaling: Literal["log_normalize", "log", "raw"] = "log_normalize"
    """How log patterns become pixels (DESIGN section 4; "raw" is the paper's ablation)."""

    decoder_input: Literal["visible", "cls"] = "visible"
    """What the decoder sees: every visible patch ("visible", a true masked autoencoder) or the CLS vector alone
    ("cls", what the published code does)."""

    grid: Literal["triangle", "square"] = "triangle"
    """Which patches have a token: those on or below the diagonal, or all of them (the released models)."""

    encoder_layers: int = Field(default=24, ge=1)
    encoder_dim: int = Field(default=512, ge=1)
    """Length of an embedding."""
    encoder_heads: int = Field(default=16, ge=1)
    encoder_head_dim: int = Field(default=64, ge=1)
    encoder_mlp_dim: int = Field(default=2048, ge=1)

    decoder_layers: int = Field(default=8, ge=1)
    decoder_dim: int = Field(default=512, ge=1)
    decoder_heads: int = Field(default=8, ge=1)
    decoder_head_dim: int = Field(default=64, ge=1)
    decoder_mlp_dim: int = Field(default=2048, ge=1)

    layer_norm_eps: float = Field(default=1e-12, gt=0)
    """As ViT's (DESIGN section 4)."""

    @model_validator(mode="after")
    def _patches_tile_the_pattern(self) -> Self:
        if self.pattern_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide pattern_size {self.pattern_size}")
        if self.num_patches < 2:
            raise ValueError(f"a pattern of {self.num_patches} patch cannot be masked: take a smaller patch_size")
        return self

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.pattern_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches on or below the diagonal."""
        return self.grid_size * (self.grid_size + 1) // 2

    @property
    def num_masked(self) -> int:
        """Patches masked while training: at least one, and at least one stays visible."""
        return min(max(round(self.num_patches * self.mask_ratio), 1), self.num_patches - 1)


class TrainConfig(Config):
    """How an AP-MAE is trained (paper section 4, Training Setup)."""

    model: APMAEConfig = APMAEConfig()

    steps: int = Field(default=150_000, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(default=480, ge=1)
    """Patterns a step."""

    base_lr: float = Field(default=1.5e-4, gt=0)
    """Learning rate for a batch of 50; scaled linearly with the batch."""

    warmup_steps: int = Field(default=0, ge=0)
    """Linear warm-up before the cosine; the paper names none."""

    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)

    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; None (the paper's) does not clip."""

    heads: float = Field(default=0.25, gt=0, le=1)
    """Share of each layer's heads taken from each prompt, drawn anew a prompt (paper: 25 %)."""

    context: int | None = Field(default=None, ge=8)
    """Tokens of the language model's window; by default as many as a pattern has rows (paper: 256)."""

    long: Literal["pool", "crop"] = "pool"
    """What becomes of windows with more tokens than a pattern has rows, as in :class:`EncodeConfig`."""

    outcome: Literal["correct", "any"] = "correct"
    """Train on prompts that the language model answers correctly (the paper's way), or on all."""

    buffer: int = Field(default=16_384, ge=1)
    """Patterns that wait to be drawn, so that a batch mixes many prompts, layers and heads: 73.7 kB each at 256 tokens,
    1.2 GB by default. That is 91 prompts of a model of 30 layers and 24 heads."""

    batch_prompts: int = Field(default=8, ge=1)
    """Prompts a forward of the language model, at most."""

    crop: float = Field(default=0.0, ge=0, le=1)
    """Share of patterns cut to a random shorter prompt, so that the encoder knows short ones. Not in the paper."""

    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints: what a kill can cost at most."""

    log_every: int = Field(default=10, ge=1)
    """Steps between lines of ``metrics.jsonl``."""

    seed: int = 0

    @property
    def lr(self) -> float:
        """Peak learning rate: ``base_lr * batch_size / 50`` (paper: 1.44e-3 at batch 480)."""
        return self.base_lr * self.batch_size / 50


class EncodeConfig(Config):
    """How patterns are encoded."""

    heads: Share = "all"
    """All heads, or a share of each layer's."""

    batch_prompts: int = Field(default=8, ge=1)
    """Prompts a forward of the language model."""

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts a shard: what a kill can cost at most."""

    context: int | None = Field(default=None, ge=8)
    """Tokens of the language model's window; by default as many as the encoder's patterns have rows."""

    long: Literal["pool", "crop"] = "pool"
    """What becomes of windows with more tokens than the encoder's patterns have rows: blocks of tokens, or the last
    tokens (docs/long_contexts.md)."""

    exemplars_per_head: float = Field(default=8, ge=0)
    """Packed patterns kept of each head, on average, for the pictures; everything else is encoded and dropped."""

    seed: int = 0


class EvaluateConfig(Config):
    """How encoders are compared on patterns that they were not trained on (paper Table 3)."""

    heads: Share = 0.25
    """All heads, or a share of each layer's, drawn anew a prompt (paper's training: 25 %)."""

    mask_ratio: float = Field(default=0.5, gt=0, lt=1)
    """Share of the patches hidden, the same for every encoder whatever it was trained with (paper Table 2: 0.5)."""

    batch_prompts: int = Field(default=8, ge=1)
    """Prompts a forward of the language model."""

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts a shard: what a kill can cost at most."""

    context: int | None = Field(default=None, ge=8)
    """Tokens of the language model's window; by default as many as an encoder's patterns have rows."""

    long: Literal["pool", "crop"] = "pool"
    """What becomes of windows with more tokens than that, as in :class:`EncodeConfig`."""

    seed: int = 0
    """Which heads, and which patches are hidden."""


class AtlasConfig(Config):
    """How embeddings become clusters (paper section 5)."""

    neighbors: int = Field(default=15, ge=2)
    """UMAP neighbours."""
    min_dist: float = Field(default=0.1, ge=0, le=1)
    """UMAP minimum distance."""
    metric: Literal["manhattan", "euclidean", "cosine"] = "manhattan"
    """Distance between embeddings, for UMAP and for placing."""
    dimensions: int = Field(default=4, ge=2)
    """UMAP dimensions (paper Figure 7)."""

    min_cluster_size: int | None = Field(default=None, ge=2)
    """HDBSCAN's; the paper gives none. None: see ``atlas.cluster.smallest_cluster``."""
    min_samples: int | None = Field(default=None, ge=1)
    """HDBSCAN's; None: as ``min_cluster_size``, at most 10."""
    epsilon: float = Field(default=0.5, ge=0)
    """HDBSCAN's cluster selection epsilon (paper: minimum separation 0.5)."""

    split_wide: bool = True
    """Whether a cluster that the next filter would drop is first split into its leaves. False is the paper's way; in
    small studies it leaves one mass, dropped whole."""
    max_mean_distance: float = Field(default=1.0, gt=0)
    """A cluster whose members lie further than this from its centre on average, in reduced coordinates, is dropped."""
    floor_per_head: float = Field(default=0.139, ge=0)
    """A cluster with fewer members than this times the model's heads is dropped (paper: 100 / 160 / 267 members for
    720 / 1 152 / 1 920 heads)."""

    reference_points: int = Field(default=20_000, ge=100)
    """Fitted points kept in the saved atlas, by which new patterns are placed."""

    seed: int = 0


class StudyConfig(Config):
    """One study: a language model, source files, and what is done with them. The content of ``STUDY.yaml``."""

    lm: str = "bundled"
    """Folder or hub id of the language model, or "bundled", "bundled-medium" or "bundled-small"."""

    sources: tuple[str, ...] = ("bundled",)
    """Folders, files, zips or tars of source code, a prompts JSONL or Parquet, or "bundled"."""

    encoder: str = "bundled"
    """Folder or hub id of an AP-MAE, "bundled", or "train" to train one in the study."""

    out: Path = Path("study")
    """The study's folder."""

    prompts: PromptsConfig = PromptsConfig(per_task=100, outcome="balanced")
    """Prompts of the atlas; fields that a file leaves out are those of this default."""
    train: TrainConfig | None = None
    """Used when ``encoder`` is "train"."""
    train_prompts: PromptsConfig | None = None
    """Prompts to train on. In a file, fields left out are tasks ["random"], outcome "correct" and split "train"; the
    atlas prompts are then held out."""
    encode: EncodeConfig = EncodeConfig()
    atlas: AtlasConfig = AtlasConfig()

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    infill: str = "auto"
    """How the language model sees a prompt with right context: by its own sentinels ("auto"), left context only
    ("none"), as a family of ``prompts.sentinels`` does, or by a template with {prefix} and {suffix}."""

    @model_validator(mode="before")
    @classmethod
    def _fill_prompts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        trained = values.get("encoder") == "train"
        defaults = {
            "prompts": {"per_task": 100, "outcome": "balanced", "split": "atlas" if trained else "all"},
            "train_prompts": {"tasks": ("random",), "outcome": "correct", "split": "train"},
        }
        given = {key: values[key] for key in defaults if isinstance(values.get(key), dict)}
        if trained:
            given.setdefault("prompts", values.get("prompts", {}))
        return values | {key: defaults[key] | value for key, value in given.items() if isinstance(value, dict)}

    @model_validator(mode="after")
    def _train_is_configured(self) -> Self:
        if self.encoder == "train" and (self.train is None or self.train_prompts is None):
            raise ValueError("encoder is 'train', so train and train_prompts must be given (see recipes.demo)")
        if self.encoder != "train" and (self.train is not None or self.train_prompts is not None):
            raise ValueError(
                f"train is given, but encoder is {self.encoder!r}: set encoder to 'train', or leave it out"
            )
        return self


C = TypeVar("C", bound=Config)


def parse(kind: type[C], values: dict[str, Any], where: str) -> C:
    """Validate settings that a user wrote.

    Args:
        kind: the configuration to build.
        values: its fields.
        where: what to call the place in the message, a file name for instance.

    Raises:
        ConfigError: one line naming each field that does not fit, what came and what was expected.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"]) or kind.__name__
            problems.append(f"{field}: {item['msg']}, got {item['input']!r}"[:300])
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None
