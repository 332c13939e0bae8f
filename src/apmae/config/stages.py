"""The stages after training."""

from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from apmae.config.base import Config
from apmae.config.capture import CaptureConfig
from apmae.errors import ConfigError

Representation = Literal["joint", "descriptor", "cls"]
"""What an atlas reads of a pattern: the encoder's CLS, the descriptor, or both (``model/represent.py``)."""


def parse_representation(name: str) -> Representation:
    """A representation by its name.

    Raises:
        ConfigError: if there is none of that name.
    """
    for known in get_args(Representation):
        if name == known:
            return known
    raise ConfigError(f"expected a representation, one of {', '.join(get_args(Representation))}, got {name!r}")


class EncodeConfig(Config):
    """How patterns are encoded."""

    flat: ClassVar = ("capture",)

    capture: CaptureConfig = CaptureConfig()

    representation: Representation = "joint"
    """What the atlas reads of a pattern: the encoder's CLS, the descriptor, or both (``model/represent.py``)."""

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""

    exemplars_per_head: float = Field(default=8, ge=0)
    """Whole patterns kept per head, on average, for the pictures; all others are encoded and dropped."""

    seed: int = 0


class EvaluateConfig(Config):
    """How encoders are compared on patterns that they were not trained on (paper Table 3)."""

    flat: ClassVar = ("capture",)

    capture: CaptureConfig = CaptureConfig(heads=0.25)
    """A share of each layer's heads (the paper trains on 25 %)."""

    mask_ratio: float = Field(default=0.5, gt=0, lt=1)
    """Share of the patches hidden, the same for every encoder whatever it was trained with (paper Table 2: 0.5)."""

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""

    seed: int = 0
    """Decides which heads are captured and which patches are hidden."""


class AtlasConfig(Config):
    """How embeddings become clusters (paper section 5)."""

    clusterer: Literal["stable", "paper", "per_head"] = "stable"
    """What decides which groups are clusters: how well they are found again, the paper's filters, or those in each head
    alone. ``PRESETS`` has the settings that belong to each."""

    neighbors: int = Field(default=15, ge=2)
    """UMAP neighbours."""
    min_dist: float = Field(default=0.1, ge=0, le=1)
    """UMAP minimum distance."""
    metric: Literal["manhattan", "euclidean", "cosine"] = "manhattan"
    """Distance between embeddings, for UMAP and for placing."""
    dimensions: int = Field(default=4, ge=2)
    """UMAP dimensions (paper Figure 7)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where neighbours are searched and UMAP runs; cuda: by cuML (extra ``gpu``), which nobody has tried here yet."""

    min_cluster_size: int | None = Field(default=None, ge=2)
    """Fewest rows of a branch of HDBSCAN's tree; the paper does not state it. None: a tenth of the root of the distinct
    rows, at least 5; for ``paper`` and ``per_head`` see ``atlas.density.smallest_cluster``."""
    min_samples: int | None = Field(default=None, ge=1)
    """HDBSCAN's; None: ``min_cluster_size``, but at most 10."""

    epsilon: float = Field(default=0.5, ge=0)
    """HDBSCAN's cluster selection epsilon (paper: minimum separation 0.5). Not for ``stable``, nor are the next two."""
    max_mean_distance: float = Field(default=1.0, gt=0)
    """A cluster whose members lie further than this from its centre on average, in reduced coordinates, is dropped."""
    floor_per_head: float = Field(default=0.139, ge=0)
    """A cluster with fewer members than this times the model's heads is dropped (paper: 100 / 160 / 267 members for
    720 / 1 152 / 1 920 heads)."""

    by_kind: bool = False
    """Whether members of a cluster whose own scores lead with different kinds are clusters of their own. What is in no
    cluster joins the nearest of its kind or is forgotten. For an atlas that places patterns of other models, as the
    bundled one does: what is no cluster in these models is common in others."""

    fit_points: int = Field(default=20_000, ge=100)
    """Patterns that clusters are looked for in, drawn by the seed; the others are placed among them."""
    reference_points: int = Field(default=20_000, ge=100)
    """Fitted points that the saved atlas keeps, to place new patterns among them; per head, of each head."""

    seed: int = 0


PRESETS: dict[str, dict[str, Any]] = {
    "stable": {},
    "paper": {"clusterer": "paper"},
    "per_head": {
        "clusterer": "per_head",
        "dimensions": 8,
        "metric": "cosine",
        "neighbors": 20,
        "min_dist": 0.05,
        "min_samples": 20,
        "min_cluster_size": 25,
        "fit_points": 20_000_000,  # a sample of all heads would leave each hardly any
        "reference_points": 1000,  # of each head
    },
}
"""Settings of an atlas by name: those that measured best, those of the paper's Table 4, and those of its published
notebook, which clusters each head alone."""


def preset_of(name: str) -> dict[str, Any]:
    """The settings of a preset.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"expected a preset of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


class DimensionsConfig(Config):
    """How the number of UMAP dimensions is chosen (paper Figure 7)."""

    dimensions: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10)
    """Numbers of dimensions to compare, each from 2."""
    neighbors: int = Field(default=1000, ge=1)
    """Nearest neighbours that a reduction should keep; fewer if there are not twice as many points."""
    points: int = Field(default=20_000, ge=10)
    """Patterns to reduce, drawn anew with each seed among those that pass the gate."""
    seeds: int = Field(default=3, ge=1)
    """How often patterns are drawn and UMAP runs (paper: five runs of UMAP, ten subsets of 1 000 000)."""
    queries: int = Field(default=1000, ge=2)
    """Patterns whose neighbours are looked at, against all others."""
    seed: int = 0
    """The first of the seeds; the others follow it."""

    atlas: AtlasConfig = AtlasConfig()
    """UMAP's settings, of those of the cluster stage; ``dimensions`` and ``seed`` are those above instead."""

    @model_validator(mode="after")
    def _each_dimension_once(self) -> Self:
        given = ", ".join(map(str, self.dimensions)) or "none"
        if not self.dimensions or len(set(self.dimensions)) < len(self.dimensions) or min(self.dimensions) < 2:
            raise ValueError(f"expected one or more dimensions, each from 2 and once, got {given}")
        return self


class TagsConfig(Config):
    """How the heads of a model are tagged on many prompts."""

    flat: ClassVar = ("capture",)

    capture: CaptureConfig = CaptureConfig()

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""

    embeddings: bool = True
    """Whether representations and scores are kept too, 0.75 KB a tag: apmae top and apmae similar read them."""

    seed: int = 0
    """Decides which heads are captured, if not all are, and which completion of a source file is taken."""


class AnswersConfig(Config):
    """What is read of heads where a model answers."""

    context: int = Field(default=256, ge=8)
    """Tokens of the language model's window. All of it is read, so memory grows with its square and the layers."""

    batch: int = Field(default=8, ge=1)
    """Prompts per forward of the language model, at most."""

    eigenvalues: int = Field(default=10, ge=1)
    """Largest Laplacian eigenvalues of each head's pattern."""

    shard_prompts: int = Field(default=64, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""


class LocationsConfig(Config):
    """How pattern locations are set against chance (paper section 6.2)."""

    permutations: int = Field(default=1000, ge=20)
    """How often outcomes are shuffled within their task, at least: oftener if tests are so many that none could stand
    after Holm's correction. p is no smaller than one in as many and one."""
    seed: int = 0


class PredictConfig(Config):
    """How the outcome is predicted, and how predictions are judged."""

    folds: int = Field(default=5, ge=2)
    """Parts of the files; each part is predicted by models fitted on the others."""
    choice_folds: int = Field(default=3, ge=2)
    """Parts of the fitting files among which settings are chosen, and token statistics are made."""
    similar: float = Field(default=0.8, gt=0, le=1)
    """Files with windows that share this much stay together, as ``PromptsConfig.similar`` counts it; 1: only if the
    windows are identical."""
    trees: tuple[Literal["histogram", "catboost"], ...] = ("histogram",)
    """Boosted trees that are tried beside sparse logistic regression, for each set of features: scikit-learn's, and
    CatBoost's (extra ``catboost``)."""
    columns: int = Field(default=256, ge=1)
    """Most columns of heads in a model: those that go most with the outcome where it is fitted."""
    components: int = Field(default=4, ge=2, le=8)
    """Principal components of each head's representations."""
    recalibration: Literal["platt", "isotonic"] = "platt"
    """How probabilities are corrected, on the fitting files."""
    bins: int = Field(default=10, ge=2)
    """Bins of equally many prompts in calibration curves."""
    resamples: int = Field(default=1000, ge=20)
    """How often files are drawn anew, for intervals."""
    seed: int = 0

    @field_validator("trees")
    @classmethod
    def _each_once(cls, trees: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(trees)) < len(trees):
            raise ValueError(f"expected each kind of trees once, got {', '.join(trees)}")
        return trees


class AblateConfig(Config):
    """How heads are removed, alone and in sets, and how that is measured."""

    modes: tuple[Literal["mean", "zero", "resample"], ...] = ("mean",)
    """What stands in place of a removed head's output: its mean over prompts of the ranking half, nothing, or its
    output on another prompt of that half. Everything is measured in each mode."""

    heads: tuple[tuple[int, int], ...] | Literal["all"] = "all"
    """Pairs of layer and head, or all heads of the model. Sets are drawn among these."""

    context: int | None = Field(default=None, ge=8)
    """Tokens of the language model's window; by default the study's, or 256."""

    batch: int = Field(default=8, ge=1)
    """Prompts per forward of the language model, at most."""

    every: int = Field(default=4, ge=1)
    """Of the other tokens of a prompt every how-many-th is looked at, for perplexity elsewhere; 1: all of them."""

    reference: int = Field(default=64, ge=1)
    """Prompts of the ranking half over which mean outputs are taken, at most."""

    donors: int = Field(default=16, ge=2)
    """Prompts of the ranking half from whose outputs "resample" draws, at most."""

    doses: tuple[int, ...] | None = None
    """How many heads are removed together: each of these; by default 1, 2, 4, ... and all. Empty: no sets."""

    draws: int = Field(default=4, ge=1)
    """Random sets of each kind and size."""

    similar: float = Field(default=0.8, gt=0, le=1)
    """Files with windows that share this much stay in one half, as for ``PredictConfig.similar``."""

    shard_prompts: int = Field(default=16, ge=1)
    """Prompts per shard: the most that a killed run has to repeat."""

    seed: int = 0
    """Decides the halves, the prompts of means and donors, and random sets."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError(f"expected one or more modes, each once, got {', '.join(self.modes) or 'none'}")
        if self.heads != "all" and (not self.heads or len(set(self.heads)) < len(self.heads)):
            raise ValueError("expected one or more heads, each once, or all")
        if self.doses is not None and (len(set(self.doses)) < len(self.doses) or min(self.doses, default=1) < 1):
            raise ValueError(f"expected doses from 1, each once, got {', '.join(map(str, self.doses))}")
        return self
