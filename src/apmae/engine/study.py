"""All stages of a study, one after another."""

from pathlib import Path

from apmae.artifacts import write_json
from apmae.config import StudyConfig
from apmae.engine.local import encode, fit_atlas
from apmae.engine.prompts import make_prompts
from apmae.engine.sources import parse_sources
from apmae.engine.train import draw_training_prompts, train_encoder
from apmae.errors import ConfigError
from apmae.lm.load import load_lm
from apmae.progress import progress
from apmae.report.page import write_report
from apmae.train.processes import several


def run_study(config: StudyConfig, *, overwrite: bool = False) -> Path:
    """All stages of a study, each reused, resumed or made.

    Args:
        config: the study.
        overwrite: replace artifacts made from something else.

    Returns:
        The report's page.
    """
    out = config.out
    if several():
        raise ConfigError("expected one process for a study; train with torchrun, and set encoder to that folder")
    sources = parse_sources(config.sources)
    lm = load_lm(config.lm, device=config.device, dtype=config.dtype, infill=config.infill)
    if sources.prompts is not None:
        prompts_path = sources.prompts
    else:
        prompts_path = out / "prompts.parquet"
        make_prompts(sources.expect_files(), prompts_path, config.prompts, lm=lm, overwrite=overwrite)
    encoder = config.encoder
    if config.train is not None and config.train_prompts is not None and encoder == "train":
        train_prompts = out / "train-prompts.parquet"
        draw_training_prompts(sources.expect_files(), train_prompts, config.train_prompts, lm, overwrite=overwrite)
        encoder = str(train_encoder(lm, train_prompts, out / "encoder", config.train, overwrite=overwrite))
    encode(lm, encoder, prompts_path, out / "embeddings", config.encode, overwrite=overwrite)
    fit_atlas(out / "embeddings", out / "atlas", config.atlas, overwrite=overwrite)
    write_json(out / "study.json", config.model_dump(mode="json"))
    with progress("report", 1) as advance:
        page = write_report(out)
        advance()
    return page
