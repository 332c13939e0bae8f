"""Every setting of every stage: frozen, keyword-only, validated here and nowhere else. Torch-free.

Defaults are the paper's unless the field says otherwise; whole configurations live in ``recipes``.
"""

from apmae.config.base import Config, parse
from apmae.config.capture import CaptureConfig, LMConfig, Share, device_kind
from apmae.config.circuits import Filter, PatchingConfig
from apmae.config.heads import SimilarConfig, TopConfig
from apmae.config.prompts import (
    TASKS,
    TEXT_TASKS,
    Circuit,
    CircuitsConfig,
    CodeCircuit,
    PromptsConfig,
    Task,
    tasks_of,
)
from apmae.config.pruning import HEAD_RANKINGS, HeadRanking, PruneConfig
from apmae.config.stages import (
    PRESETS,
    AblateConfig,
    AnswersConfig,
    AtlasConfig,
    DimensionsConfig,
    EncodeConfig,
    EvaluateConfig,
    LocationsConfig,
    PredictConfig,
    Representation,
    TagsConfig,
    parse_representation,
    preset_of,
)
from apmae.config.study import StudyConfig
from apmae.config.training import SQUARE, APMAEConfig, TrainConfig

__all__ = [
    "HEAD_RANKINGS",
    "PRESETS",
    "SQUARE",
    "TASKS",
    "TEXT_TASKS",
    "APMAEConfig",
    "AblateConfig",
    "AnswersConfig",
    "AtlasConfig",
    "CaptureConfig",
    "Circuit",
    "CircuitsConfig",
    "CodeCircuit",
    "Config",
    "DimensionsConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "Filter",
    "HeadRanking",
    "LMConfig",
    "LocationsConfig",
    "PatchingConfig",
    "PredictConfig",
    "PromptsConfig",
    "PruneConfig",
    "Representation",
    "Share",
    "SimilarConfig",
    "StudyConfig",
    "TagsConfig",
    "Task",
    "TopConfig",
    "TrainConfig",
    "device_kind",
    "parse",
    "parse_representation",
    "preset_of",
    "tasks_of",
]
