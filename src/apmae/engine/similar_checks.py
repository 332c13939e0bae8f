"""What can be looked for in which studies: queries as users write them, studies that can be compared. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from apmae import bundled
from apmae.analyze.similar import SCIPY_METRIC, patterns_of
from apmae.artifacts import expect_place
from apmae.engine.checks import named_sources
from apmae.errors import ConfigError
from apmae.model.folder import find_encoder
from apmae.patterns.stored import expect_patterns
from apmae.study.placed import Placed
from apmae.study.tags import open_placed

_QUERY = re.compile(r"(.+):(?:(\d{1,9})\.)?(\d{1,9})\.(\d{1,9})", re.ASCII)


class Asked(NamedTuple):
    """A query as a user wrote it: patterns of a study, or a file."""

    path: Path
    """The file, if there is no study."""
    study: Path | None = None
    prompt: int | None = None
    """None: all prompts of the head."""
    layer: int = 0
    head: int = 0


def expect_similar(query: str, studies: Sequence[Path], encoder: str, json: Path | None, picture: Path | None) -> None:
    """``apmae similar``; arguments and errors as for :func:`apmae.engine.similar.write_similar`."""
    for out in (json, picture):
        if out is not None:
            expect_place(out)
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(f"expected a picture that ends in .png, got {picture}; give --picture another name")
    asked, named = parse_query(query), named_studies(studies)
    expect_one_kind(named)
    expect_query(asked, named)
    if asked.study is None:
        one = next(iter(named.values()))
        if one.encoded.counts.get("representation") != "descriptor":
            find_encoder(encoder)
        if one.encoded.counts.get("representation") != "cls":
            expect_constants(named)


def parse_query(text: str) -> Asked:
    """``STUDY:PROMPT.LAYER.HEAD``, ``STUDY:LAYER.HEAD`` or a file of patterns.

    Raises:
        CaptureError: if it is neither, and no file of patterns.
    """
    match = None if Path(text).is_file() else _QUERY.fullmatch(text)
    if match is None:
        expect_patterns(Path(text))
        return Asked(Path(text))
    study, prompt, layer, head = match.groups()
    return Asked(Path(study), Path(study), None if prompt is None else int(prompt), int(layer), int(head))


def named_studies(folders: Sequence[Path | str]) -> dict[str, Placed]:
    """Studies by name: as much of the end of each path as distinguishes it.

    Raises:
        ConfigError: if there is none, or one is given twice.
        ArtifactError: if one is unfinished or damaged.
    """
    return {name: _searchable(folder) for name, folder in named_sources(list(map(str, folders)), "studies").items()}


def expect_one_kind(named: Mapping[str, Placed]) -> str:
    """Refuse studies whose patterns are not represented alike.

    Returns:
        The metric of their atlases.

    Raises:
        ConfigError: naming what differs.
    """
    kinds = {name: _kind(study) for name, study in named.items()}
    (first, own), *others = kinds.items()
    for name, other in others:
        for what, value in own.items():
            if other[what] != value:
                raise ConfigError(
                    f"expected studies with the same {what}, {first} has {str(value)[:12]} and {name} "
                    f"{str(other[what])[:12]}: distances between them mean nothing; encode and cluster them alike"
                )
    if own["metric"] not in SCIPY_METRIC:
        raise ConfigError(
            f"expected a metric of {', '.join(SCIPY_METRIC)}, {first} has {own['metric']!r}; cluster again"
        )
    return str(own["metric"])


def expect_query(asked: Asked, named: Mapping[str, Placed]) -> None:
    """Refuse a query of a study whose patterns are represented otherwise, or that it does not have.

    Raises:
        ConfigError: naming what differs, or what there is.
        ArtifactError: if its study is unfinished or damaged.
    """
    if asked.study is None:
        return
    source = _searchable(asked.study)
    expect_one_kind({**named, "the query": source})
    query_places(asked, source)


def query_places(asked: Asked, source: Placed) -> list[tuple[int, int, int]]:
    """Prompt, layer and head of each pattern that a query asks for.

    Raises:
        ConfigError: if the study has none.
    """
    prompts = patterns_of(source, asked.layer, asked.head).tolist()
    head = f"{asked.layer}.{asked.head}"
    if not prompts:
        raise ConfigError(f"expected a head with patterns in {source.folder}, {head} has none; heads are LAYER.HEAD")
    if asked.prompt is not None and asked.prompt not in prompts:
        raise ConfigError(
            f"expected a prompt on which head {head} of {source.folder} was captured, of {prompts[0]} to "
            f"{prompts[-1]}, got {asked.prompt}"
        )
    chosen = prompts if asked.prompt is None else [asked.prompt]
    return [(prompt, asked.layer, asked.head) for prompt in chosen]


def expect_constants(named: Mapping[str, Placed]) -> None:
    """Refuse studies whose descriptors were whitened with other constants than this version's.

    Raises:
        ConfigError: naming both.
    """
    for name, study in named.items():
        made = study.encoded.inputs.get("constants")
        if made != bundled.constants():
            raise ConfigError(
                f"expected descriptors with this version's constants ({bundled.constants()[:12]}), {name} has others "
                f"({str(made)[:12]}); encode and cluster again with this version"
            )


def _searchable(folder: Path | str) -> Placed:
    """A study, or tags that have their embeddings.

    Raises:
        ArtifactError: if it is unfinished or damaged, or its embeddings were not kept.
    """
    opened = open_placed(folder)
    _ = opened.embedding_files  # raises
    return opened


def _kind(study: Placed) -> dict[str, object]:
    """What decides whether representations can be compared."""
    counts, inputs = study.encoded.counts, study.encoded.inputs
    representation = counts.get("representation")
    return {
        "representation": representation,
        "encoder": None if representation == "descriptor" else inputs.get("encoder"),
        "constants of descriptors": inputs.get("constants"),
        "pattern size": counts.get("pattern_size"),
        "metric": study.metric,
    }
