"""Checks of a command's arguments before anything heavy is imported: one function per command. Torch-free.

Each calls functions of the rooms that do the work, which check the same for callers of the library.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from apmae.artifacts import expect_place, expect_stage, journal_path, manifest_path, read_manifest
from apmae.atlas.atlas import Atlas
from apmae.atlas.reduce import expect_device
from apmae.config import (
    APMAEConfig,
    AtlasConfig,
    CircuitsConfig,
    Config,
    DimensionsConfig,
    EncodeConfig,
    EvaluateConfig,
    LMConfig,
    LocationsConfig,
    PromptsConfig,
    StudyConfig,
    TagsConfig,
)
from apmae.corpus.source import Source, list_sources
from apmae.engine.prompts import expect_answers, expect_parquet, expect_prompts
from apmae.engine.settings import Training
from apmae.engine.sources import Given, files_to_tag, parse_sources
from apmae.errors import ConfigError, ModelError
from apmae.lm.declared import Declared, context_of, expect_infill, expect_outcome, expect_window
from apmae.lm.folder import expect_model, expect_tokenizer
from apmae.model.folder import CARD, expect_shape, find_encoder
from apmae.model.hub import expect_license, expect_pushable
from apmae.patterns.stored import expect_patterns
from apmae.prompts.languages import language_of
from apmae.prompts.line import line_prompt
from apmae.report.sheet import expect_few, expect_scale
from apmae.study.layout import Layout
from apmae.study.reader import Study
from apmae.study.tags import open_placed
from apmae.train.launch import expect_tracker, process_count, share_of

PICTURES = (".png", ".html")
"""Suffixes of the files that ``show`` writes."""
LONG = ("pool", "crop")


def expect_tag(
    lm: LMConfig,
    file: Path,
    line: int,
    *,
    column: int | None,
    encoder: str,
    atlas: str,
    json: Path | None,
    html: Path | None,
) -> None:
    """``apmae tag``; arguments and errors as for :func:`apmae.engine.tag.tag_file`."""
    line_prompt(file, line, column)
    outs = [out for out in (json, html) if out is not None]
    for out in outs:
        expect_place(out)
    if len(set(outs)) < len(outs):
        raise ConfigError(f"expected two files for --json and --html, got {json} twice; rename one")
    _expect_reader(lm)
    _expect_shape(find_encoder(encoder).config, Declared.of(lm))
    Atlas.load(atlas)


def expect_tags(
    lm: LMConfig, encoder: str, atlas: str, prompts: Path, out: Path, config: TagsConfig, *, overwrite: bool
) -> None:
    """``apmae tag --prompts``; arguments and errors as for :func:`apmae.engine.tags.tag_corpus`."""
    expect_tags_folder(out)
    expect_stage(out, "tag", _settings(config), overwrite=overwrite)
    if files_to_tag(prompts) is None:
        expect_prompts(prompts)
    _expect_reader(lm)
    found, declared = find_encoder(encoder).config, Declared.of(lm)
    context_of(declared.positions, found.pattern_size, config.capture.context)
    _expect_shape(found, declared)
    Atlas.load(atlas)


def expect_tags_folder(out: Path) -> None:
    """Refuse a place for tags that looks like a file: they are many files.

    Raises:
        ConfigError: if it ends in ``.parquet``.
        ArtifactError: if it is a file.
    """
    if out.suffix == ".parquet":
        raise ConfigError(f"expected a folder for the tags, which are several files, got {out}; leave the suffix out")
    expect_place(out, folder=True)


def expect_show(lm: LMConfig, out: Path, scale: str, long: str, heads: Sequence[str]) -> None:
    """``apmae show``; arguments and errors as for :func:`apmae.engine.show.show_heads`."""
    numbers = heads_written(heads)
    expect_options(out, scale, long, len(set(numbers)))
    expect_place(out)
    expect_model(lm)
    expect_infill(lm)
    Declared.of(lm).expect_heads(numbers)


def expect_options(out: Path, scale: str, long: str, heads: int) -> None:
    """The options of a picture; ``heads`` is how many are drawn large.

    Raises:
        ConfigError: if ``out`` is not of :data:`PICTURES`, an option has no such value, or there are too many heads.
    """
    if out.suffix.lower() not in PICTURES:
        raise ConfigError(f"expected a file that ends in {' or '.join(PICTURES)}, got {out}; give --out another name")
    expect_scale(scale)
    if long not in LONG:
        raise ConfigError(f"expected a way to show long prompts, one of {', '.join(LONG)}, got {long!r}")
    if out.suffix.lower() == ".png":
        expect_few(heads)


def heads_written(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Heads written as ``3.5``, of whatever model.

    Raises:
        ConfigError: if one is written otherwise.
    """
    heads = []
    for text in texts:
        match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text, re.ASCII)
        if not match:
            raise ConfigError(f"expected LAYER.HEAD like 3.5, both from 0, got {text!r}")
        heads.append((int(match[1]), int(match[2])))
    return heads


def expect_circuits(
    sources: Sequence[Source], out: Path | None, config: CircuitsConfig, lm: LMConfig, *, overwrite: bool
) -> None:
    """``apmae prompts circuit:NAME``."""
    _expect_prompts_out(out, config, overwrite=overwrite)
    _expect_reader(lm)
    declared = Declared.of(lm)
    expect_window(config.length, declared.positions)
    expect_answers(declared.answers, lm.source)
    if config.from_code:
        list_sources(sources, suffixes=language_of(config.language).suffixes)


def expect_source_files(
    sources: Sequence[Source], out: Path | None, config: PromptsConfig, lm: LMConfig | None, *, overwrite: bool
) -> None:
    """``apmae prompts SOURCE``."""
    _expect_prompts_out(out, config, overwrite=overwrite)
    if lm is not None:
        _expect_reader(lm)
        declared = Declared.of(lm)
        expect_window(config.length, declared.positions)
        expect_outcome(config.outcome, declared.answers, lm.source)
        _expect_files(sources, config)


def expect_training(
    asked: Training,
    out: Path,
    *,
    prompts: Path | None,
    corpus: Sequence[Source],
    patterns: Sequence[Path],
    track: str | None,
    overwrite: bool,
) -> None:
    """``apmae train``; arguments as for :func:`apmae.engine.train.run_training`."""
    share_of(asked.config, process_count())
    expect_tracker(track)
    expect_stage(out, "train", _settings(asked.config), overwrite=overwrite)
    for path in patterns:
        expect_patterns(path)
    if prompts is not None:
        expect_prompts(prompts)
    if not patterns:
        _expect_reader(asked.lm)
        declared = Declared.of(asked.lm)
        context_of(declared.positions, asked.config.model.pattern_size, asked.config.capture.context)
        expect_outcome(asked.config.outcome, declared.answers, asked.lm.source)
        _expect_shape(asked.config.model, declared)
    if corpus and asked.corpus is not None:
        _expect_files(corpus, asked.corpus)


def expect_encode(
    lm: LMConfig, encoder: str, prompts: Path, out: Path, config: EncodeConfig, *, overwrite: bool
) -> None:
    """``apmae encode``; arguments as for :func:`apmae.engine.local.encode`."""
    expect_stage(out, "encode", _settings(config), overwrite=overwrite)
    expect_prompts(prompts)
    _expect_reader(lm)
    found, declared = find_encoder(encoder).config, Declared.of(lm)
    context_of(declared.positions, found.pattern_size, config.capture.context)
    _expect_shape(found, declared)


def expect_evaluate(
    lms: Sequence[LMConfig],
    encoders: Sequence[str],
    prompts: Path,
    out: Path,
    config: EvaluateConfig,
    *,
    overwrite: bool,
) -> None:
    """``apmae evaluate``; arguments as for :func:`apmae.engine.evaluate.cross_evaluate`."""
    names = named_sources([lm.source for lm in lms], "language models")
    encoders = list(named_sources(encoders, "encoders").values())
    expect_place(out, folder=True)
    for name in names:
        expect_stage(losses_folder(out, name), "losses", _settings(config), overwrite=overwrite)
    expect_prompts(prompts)
    for lm in lms:
        _expect_reader(lm)
    found = [find_encoder(encoder).config for encoder in encoders]
    for lm in lms:
        declared = Declared.of(lm)
        context_of(declared.positions, max(own.pattern_size for own in found), config.capture.context)
        for own in found:
            _expect_shape(own, declared)


def expect_cluster(embeddings: Path, out: Path, config: AtlasConfig, *, overwrite: bool) -> None:
    """``apmae cluster``; arguments as for :func:`apmae.engine.local.fit_atlas`."""
    read_manifest(embeddings, "encode")
    expect_device(config.device)
    expect_stage(out, "cluster", _settings(config), overwrite=overwrite)


def expect_dimensions(embeddings: Path, out: Path, config: DimensionsConfig, *, overwrite: bool) -> None:
    """``apmae dimensions``; arguments and errors as for :func:`apmae.engine.dimensions.measure_dimensions`."""
    manifest = read_manifest(embeddings, "encode")
    width, most = manifest.counts.get("dim"), max(config.dimensions)
    if width is not None and most > width:
        raise ConfigError(
            f"expected at most {width} dimensions, as many as embeddings in {embeddings} have, got {most}; leave it out"
        )
    if out.suffix.lower() != ".png":
        raise ConfigError(f"expected a file that ends in .png, got {out}; give --out another name")
    expect_device(config.atlas.device)
    expect_place(out)
    table = measurements_file(out)
    expect_stage(table, "dimensions", _settings(config), overwrite=overwrite)
    ours = manifest_path(table).is_file() or journal_path(table).is_file()
    if table.is_file() and not ours and not overwrite:
        raise ConfigError(
            f"expected no other table at {table}, where the numbers of {out.name} go; give --out another name, or pass "
            "--overwrite to replace it"
        )


def measurements_file(picture: Path) -> Path:
    """Where ``apmae dimensions`` writes what its picture shows."""
    return picture.with_suffix(".parquet")


def expect_locations(folder: Path, config: LocationsConfig, *, overwrite: bool) -> None:
    """``apmae locations``; arguments and errors as for :func:`apmae.engine.locations.locate`."""
    out = Layout(open_placed(folder).folder).locations
    expect_place(out, folder=True)
    expect_stage(out, "locations", _settings(config), overwrite=overwrite)


def expect_report(study: Path) -> None:
    """``apmae report``."""
    expect_place(Layout(Study(study).folder).report, folder=True)


def expect_study(config: StudyConfig, *, overwrite: bool) -> Given:
    """``apmae run`` and ``apmae demo``: every stage of a study.

    Returns:
        Its sources.
    """
    if process_count() > 1:
        raise ConfigError("expected one process for a study; train with torchrun, and set encoder to that folder")
    layout, trains = Layout(config.out), config.encoder == "train"
    sources = parse_sources(config.sources)
    expect_place(layout.folder, folder=True)
    if sources.prompts is None or trains:
        _expect_files(sources.expect_files(), config.prompts)
    if sources.prompts is not None:
        expect_prompts(sources.prompts)
    else:
        expect_stage(layout.prompts, "prompts", _settings(config.prompts), overwrite=overwrite)
    if trains and config.train is not None and config.train_prompts is not None:
        share_of(config.train, 1)
        _expect_files(sources.expect_files(), config.train_prompts)
        expect_stage(layout.encoder, "train", _settings(config.train), overwrite=overwrite)
        encoder = config.train.model
    else:
        encoder = find_encoder(config.encoder).config
    expect_stage(layout.embeddings, "encode", _settings(config.encode), overwrite=overwrite)
    expect_device(config.atlas.device)
    expect_stage(layout.atlas, "cluster", _settings(config.atlas), overwrite=overwrite)
    _expect_reader(config.lm)
    declared = Declared.of(config.lm)
    positions, answers = declared.positions, declared.answers
    if sources.prompts is None:
        expect_window(config.prompts.length, positions)
        expect_outcome(config.prompts.outcome, answers, f"the prompts of {config.lm.source}")
    if trains and config.train is not None:
        context_of(positions, encoder.pattern_size, config.train.capture.context)
        expect_outcome(config.train.outcome, answers, f"training on {config.lm.source}")
    context_of(positions, encoder.pattern_size, config.encode.capture.context)
    _expect_shape(encoder, declared)
    return sources


def expect_push(folder: Path, repo_id: str, *, license: str | None, dry_run: bool) -> None:
    """``apmae push``; arguments as for :func:`apmae.engine.push.push`. With ``dry_run`` no token is needed."""
    expect_encoder_folder(folder)
    expect_license(license, card=(folder / CARD).is_file())
    if not dry_run:
        expect_pushable(repo_id)


def expect_encoder_folder(folder: Path) -> None:
    """Refuse a folder without an AP-MAE, or with one whose training is not finished.

    Raises:
        ModelError: if there is no AP-MAE.
        ArtifactError: if its training is not finished.
    """
    if not folder.is_dir():
        raise ModelError(f"expected the folder of an AP-MAE, found no folder {folder}; check the path")
    if manifest_path(folder).is_file():
        read_manifest(folder, "train")
    find_encoder(folder)


def named_sources(sources: Sequence[str], what: str) -> dict[str, str]:
    """Name -> source. A name is as much of the end of the path as distinguishes it from the others.

    Raises:
        ConfigError: if there is no source, or one is given twice.
    """
    parts = []
    for source in sources:
        path = Path(source)
        parts.append(path.resolve().parts if path.is_dir() else path.parts)
    twice = [source for source, many in zip(sources, parts, strict=True) if parts.count(many) > 1]
    if twice or not sources:
        raise ConfigError(f"expected {what}, each once, got {f'{twice[0]} twice' if twice else 'none'}")
    names: dict[str, str] = {}
    for source, own in zip(sources, parts, strict=True):
        depth = 1
        while sum(own[-depth:] == other[-depth:] for other in parts) > 1:
            depth += 1
        names["/".join(own[-depth:])] = source
    return names


def losses_folder(out: Path, name: str) -> Path:
    """Where an evaluation keeps the losses of one language model."""
    return out / name.replace("/", "--")


def _expect_reader(lm: LMConfig) -> None:
    """Check a language model that is given prompts: it needs a tokenizer."""
    expect_model(lm)
    expect_tokenizer(lm)
    expect_infill(lm)


def _expect_shape(encoder: APMAEConfig, lm: Declared) -> None:
    """Refuse an AP-MAE of causal patterns for a language model that is known to be an encoder."""
    if lm.square:
        expect_shape(causal=encoder.causal, found=False)


def _expect_prompts_out(out: Path | None, config: Config, *, overwrite: bool) -> None:
    if out is not None:
        expect_parquet(out)
        expect_stage(out, "prompts", _settings(config), overwrite=overwrite)


def _expect_files(sources: Sequence[Source], config: PromptsConfig) -> None:
    list_sources(sources, suffixes=language_of(config.language).suffixes)


def _settings(config: Config) -> dict[str, object]:
    return config.model_dump(mode="json")
