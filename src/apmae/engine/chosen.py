"""Top prompts without a model: each head's prompts with the largest values and some of every tenth. Torch-free."""

from pathlib import Path

import pyarrow as pa

from apmae.analyze.top import Chosen, top_prompts
from apmae.config import TopConfig
from apmae.report import top as report
from apmae.study.tags import open_placed


def choose_top(study: Path, config: TopConfig | None = None, *, values: Path | pa.Table | None = None) -> Chosen:
    """Choose each head's prompts with the largest values and some of every tenth; no model runs, nothing is written.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``, or tags that ``apmae tag --prompts`` made.
        config: by what, which heads, how many.
        values: a table with a value per prompt, layer and head, if ``config.by`` is a column of it.

    Raises:
        ConfigError: if there is no such score, column or head, or no pattern has a value.
        ArtifactError: if the study is unfinished or damaged, or its tags have no scores and one is asked for.
    """
    return top_prompts(open_placed(study), config or TopConfig(), values)


def print_chosen(
    study: Path,
    config: TopConfig,
    chosen: Chosen,
    attended: pa.Table | None = None,
    texts: pa.Table | None = None,
) -> None:
    """Print the value in each head, and the prompts of heads that were asked for.

    Args:
        study: its folder.
        config: by what prompts were chosen.
        chosen: from :func:`choose_top`.
        attended: ``schema.ATTENDED``, if the model was run.
        texts: ``schema.TOP_TEXTS``, likewise.
    """
    report.print_top(open_placed(study), config.by, chosen, config.heads != "all", attended, texts)
