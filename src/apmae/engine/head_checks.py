"""Checks of commands that look heads up in finished studies, before anything heavy is imported. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from apmae.analyze.top import values_of
from apmae.artifacts import expect_place, expect_stage, fingerprint, read_manifest
from apmae.config import LMConfig, LocationsConfig, TopConfig
from apmae.engine.checks import heads_written, named_sources
from apmae.engine.prompts import expect_prompts
from apmae.engine.sources import files_to_tag
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.folder import expect_model, expect_tokenizer, path_of
from apmae.study.layout import Layout
from apmae.study.placed import Placed
from apmae.study.tags import open_placed


def parse_top_heads(texts: list[str] | None) -> tuple[tuple[int, int], ...] | str:
    """Heads written as ``3.5``, each once; "all" if there are none.

    Raises:
        ConfigError: if one is written otherwise.
    """
    return tuple(dict.fromkeys(heads_written(texts))) if texts else "all"


def expect_top(
    lm: LMConfig | None,
    study: Path,
    config: TopConfig,
    *,
    out: Path | None,
    prompts: Path | None,
    values: Path | None,
    overwrite: bool,
) -> None:
    """``apmae top``; arguments and errors as for :func:`apmae.engine.top.make_top`. Without a model: ``choose_top``."""
    opened = open_placed(study)
    _expect_heads(opened, config)
    values_of(opened, config.by, values)
    if lm is None:
        given = [name for name, value in (("--out", out), ("--prompts", prompts)) if value is not None]
        if given or overwrite:
            raise ConfigError(
                f"expected --lm with {(given or ['--overwrite'])[0]}: without the study's model nothing is written; "
                "give it, or leave the option out"
            )
        return
    folder = out or top_folder(opened.folder, config.by)
    expect_place(folder, folder=True)
    expect_stage(folder, "top", config.model_dump(mode="json"), overwrite=overwrite)
    path = study_prompts(opened, prompts)
    if files_to_tag(path) is None:
        expect_prompts(path)
    expect_model(lm)
    expect_tokenizer(lm)
    source = Path(path_of(lm))
    if source.is_dir():
        expect_study_lm(opened, fingerprint(source), lm.source)


def expect_study_lm(study: Placed, found: str, source: str) -> None:
    """Refuse a language model other than the study's.

    Args:
        study: opened.
        found: the model's fingerprint.
        source: what the user gave.

    Raises:
        ConfigError: if it is another.
    """
    expected = study.encoded.inputs.get("lm", "")
    if found != expected:
        name = study.encoded.counts.get("lm")
        raise ConfigError(
            f"expected the language model that {study.folder} was made with ({name}, {expected[:12]}), {source} is "
            f"another ({found[:12]}): its heads attend to other tokens; give the study's"
        )


def study_prompts(study: Placed, path: Path | None) -> Path:
    """Where a study's prompts are, whose content is compared with what the study was made from.

    Args:
        study: opened, or tags.
        path: a file of prompts, or the source files of which tags were made; None: the file in the study's folder.

    Raises:
        ArtifactError: if there is none.
        ConfigError: if they are others.
    """
    file = path or Layout(study.folder).prompts
    if not file.exists():
        raise ArtifactError(
            f"expected the prompts of {study.folder} at {file}, found none: it keeps their tokens, but the model "
            "needs their text; give the file that it was made from (--prompts)"
        )
    source = files_to_tag(file)
    expected = study.encoded.inputs.get("prompts", "")
    found = fingerprint(file) if source is None else source.fingerprint()
    if found != expected:
        raise ConfigError(
            f"expected the prompts that {study.folder} was made from ({expected[:12]}), {file} has others "
            f"({found[:12]}); give that file (--prompts)"
        )
    return file


def top_folder(study: Path, by: str) -> Path:
    """Where ``apmae top`` writes by default.

    Raises:
        ConfigError: if the value's name cannot be that of a folder.
    """
    if not re.fullmatch(r"\w[\w.-]*", by):
        raise ConfigError(f"expected --out for values called {by!r}, which is no name for a folder; give it")
    return Layout(study).top / by


def expect_corpora(folders: Sequence[Path], out: Path | None, config: LocationsConfig, *, overwrite: bool) -> None:
    """``apmae locations`` of several folders; arguments and errors as for ``engine.corpora.locate_corpora``."""
    named = named_corpora(folders)
    if out is None:
        raise ConfigError("expected --out for the locations of several folders of tags, got none; give a folder")
    if out.suffix == ".parquet":
        raise ConfigError(f"expected a folder for the tables, which are several files, got {out}; leave the suffix out")
    expect_place(out, folder=True)
    expect_stage(out, "corpora", config.model_dump(mode="json"), overwrite=overwrite)
    expect_alike(named)


def named_corpora(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders of tags by name: as much of the end of each path as distinguishes it.

    Raises:
        ConfigError: if there are fewer than two, or one is given twice.
    """
    if len(folders) < 2:
        raise ConfigError(
            f"expected two folders of tags or more, got {len(folders)}; a single one, like a study, is given without "
            "--out"
        )
    return {name: Path(folder) for name, folder in named_sources(list(map(str, folders)), "folders of tags").items()}


def expect_alike(named: Mapping[str, Path]) -> None:
    """Refuse tags that cannot be compared: of other models, atlases or settings, or of the same prompts.

    Raises:
        ConfigError: if two differ.
        ArtifactError: if one is no finished folder of tags.
    """
    manifests = {name: read_manifest(folder, "tag") for name, folder in named.items()}
    (first, own), *others = manifests.items()
    for name, other in others:
        for role in sorted({*own.inputs, *other.inputs} - {"prompts"}):
            if own.inputs.get(role) != other.inputs.get(role):
                what = {"lm": "language model", "names": "names of clusters"}.get(role, role)
                before, now = (str(one.inputs.get(role))[:12] for one in (own, other))
                raise ConfigError(
                    f"expected tags with the same {what}, {first} has {before} and {name} has {now}: their locations "
                    "have nothing in common; tag both alike"
                )
        for setting in sorted({*own.config, *other.config} - {"seed", "shard_prompts", "embeddings"}):
            if own.config.get(setting) != other.config.get(setting):
                raise ConfigError(
                    f"expected tags with the same settings, {setting} is {own.config.get(setting)!r} in {first} and "
                    f"{other.config.get(setting)!r} in {name}; tag both alike"
                )
    prompts = [one.inputs.get("prompts") for one in manifests.values()]
    if len(set(prompts)) < len(prompts):
        raise ConfigError(f"expected other prompts in each of {', '.join(manifests)}, two have the same; leave one out")


def _expect_heads(study: Placed, config: TopConfig) -> None:
    """Refuse heads that the study's model does not have."""
    for layer, head in () if config.heads == "all" else config.heads:
        if layer >= len(study.heads_by_layer) or head >= study.heads_by_layer[layer]:
            last = len(study.heads_by_layer) - 1
            raise ConfigError(
                f"expected LAYER.HEAD of the study's model, layers 0-{last} with up to {study.heads} heads, got "
                f"'{layer}.{head}'"
            )
