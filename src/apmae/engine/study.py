"""All stages of a study, one after another."""

from pathlib import Path
from typing import Any

from apmae.artifacts import manifest_path, read_manifest, write_json
from apmae.config import PromptsConfig, StudyConfig
from apmae.engine.checks import expect_study
from apmae.engine.local import encode, fit_atlas
from apmae.engine.prompts import make_prompts
from apmae.engine.report import write_report
from apmae.engine.sources import parse_sources
from apmae.engine.train import draw_training_prompts, train_encoder
from apmae.lm.load import load
from apmae.progress import progress
from apmae.study.layout import Layout


def run_study(config: StudyConfig, *, overwrite: bool = False) -> Path:
    """All stages of a study, each reused, resumed or made.

    Args:
        config: the study.
        overwrite: replace artifacts made from something else.

    Returns:
        The report's page.

    Raises:
        ApmaeError: whatever a stage would be refused for, before the model is loaded where that can be told.
    """
    sources = expect_study(config, overwrite=overwrite)
    layout = Layout(config.out)
    lm = load(config.lm)
    if sources.prompts is not None:
        prompts_path = sources.prompts
    else:
        prompts_path = layout.prompts
        make_prompts(sources.expect_files(), prompts_path, config.prompts, lm=lm, overwrite=overwrite)
    encoder = config.encoder
    if config.train is not None and config.train_prompts is not None and encoder == "train":
        train_prompts = layout.train_prompts
        draw_training_prompts(sources.expect_files(), train_prompts, config.train_prompts, lm, overwrite=overwrite)
        encoder = str(train_encoder(lm, train_prompts, layout.encoder, config.train, overwrite=overwrite))
    encode(lm, encoder, prompts_path, layout.embeddings, config.encode, overwrite=overwrite)
    fit_atlas(layout.embeddings, layout.atlas, config.atlas, overwrite=overwrite)
    write_json(layout.settings, config.model_dump(mode="json"))
    with progress("report", 1) as advance:
        page = write_report(layout.folder)
        advance()
    return page


def short_prompts(config: StudyConfig) -> list[tuple[str, dict[str, Any], PromptsConfig]]:
    """Prompts that were drawn in a study and are fewer than asked for: their file's name, counts, and settings."""
    layout, short = Layout(config.out), []
    if parse_sources(config.sources).prompts is not None:
        return short
    for path, drawn in ((layout.prompts, config.prompts), (layout.train_prompts, config.train_prompts)):
        if drawn is None or not manifest_path(path).is_file():
            continue
        counts = read_manifest(path, "prompts").counts
        if counts["short"]:
            short.append((path.stem, counts, drawn))
    return short
