"""All stages of a study, one after another."""

from pathlib import Path
from typing import Any

from apmae.artifacts import manifest_path, read_manifest, write_json
from apmae.config import StudyConfig
from apmae.engine.checks import expect_study
from apmae.engine.local import encode, fit_atlas
from apmae.engine.prompts import make_prompts
from apmae.engine.report import write_report
from apmae.engine.sources import parse_sources
from apmae.engine.train import Corpus, train_encoder
from apmae.lm.load import load
from apmae.progress import progress
from apmae.study.layout import Layout


def run_study(config: StudyConfig, *, overwrite: bool = False) -> Path:
    """Run all stages of a study; each is reused, resumed or made.

    Args:
        config: the study.
        overwrite: replace artifacts made from something else.

    Returns:
        The report's page.

    Raises:
        ApmaeError: whatever refuses a stage; before the model is loaded, if it can be known by then.
    """
    sources = expect_study(config, overwrite=overwrite)
    layout = Layout(config.out)
    corpus = None
    if config.train_prompts is not None and config.encoder == "train":
        corpus = Corpus.of(sources.expect_files(), config.train_prompts)
    lm = load(config.lm)
    if sources.prompts is not None:
        prompts_path = sources.prompts
    else:
        prompts_path = layout.prompts
        make_prompts(sources.expect_files(), prompts_path, config.prompts, lm=lm, overwrite=overwrite)
    encoder = config.encoder
    if config.train is not None and corpus is not None and encoder == "train":
        encoder = str(train_encoder(lm, corpus, layout.encoder, config.train, overwrite=overwrite))
    encode(lm, encoder, prompts_path, layout.embeddings, config.encode, overwrite=overwrite)
    fit_atlas(layout.embeddings, layout.atlas, config.atlas, overwrite=overwrite)
    write_json(layout.settings, config.model_dump(mode="json"))
    with progress("report", 1) as advance:
        page = write_report(layout.folder)
        advance()
    return page


def short_prompts(config: StudyConfig) -> dict[str, Any] | None:
    """The counts of a study's prompts, if the study drew them and got fewer than asked for; else None."""
    path = Layout(config.out).prompts
    if parse_sources(config.sources).prompts is not None or not manifest_path(path).is_file():
        return None
    counts = read_manifest(path, "prompts").counts
    return counts if counts["short"] else None
