"""Similar patterns: the heads of studies whose patterns are nearest to a study's, or to patterns from elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from apmae.analyze.similar import Queries, Similar, find_similar, represented_of
from apmae.artifacts import replacing, write_json
from apmae.atlas.kinds import measured_names
from apmae.config import SimilarConfig
from apmae.engine.similar_checks import (
    Asked,
    expect_constants,
    expect_one_kind,
    expect_query,
    named_studies,
    parse_query,
    query_places,
)
from apmae.errors import CaptureError, ConfigError
from apmae.model.folder import expect_shape
from apmae.model.mae import APMAE
from apmae.model.represent import represented
from apmae.patterns.gate import SHORTEST, has_structure
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import score
from apmae.progress import progress
from apmae.report import similar as report
from apmae.report.figures import png
from apmae.seeding import generator
from apmae.study.placed import Placed
from apmae.study.tags import open_placed


class Looked(NamedTuple):
    """What was looked for, and what was found."""

    found: Similar
    labels: tuple[str, ...]
    """What each query is called."""
    notes: tuple[str, ...]
    """What to know of the queries: that some were drawn, have no structure, or are shorter."""
    squares: tuple[Float[ndarray, "t t"], ...]
    """Log patterns of the first queries that are known whole, for the picture."""


def similar(
    query: str | Patterns,
    studies: list[Path] | list[str],
    config: SimilarConfig | None = None,
    *,
    encoder: str = "bundled",
) -> Looked:
    """Find the heads whose patterns are nearest to some patterns.

    Args:
        query: ``STUDY:PROMPT.LAYER.HEAD``, one pattern of a study; ``STUDY:LAYER.HEAD``, all of a head's; a file that
            ``Patterns.load`` reads; or patterns.
        studies: folders to search, of one representation, encoder and metric.
        config: how many heads, controls, seed.
        encoder: of the studies, for patterns that are not of a study.

    Returns:
        Tables of the nearest heads, and what to know of the queries.

    Raises:
        ConfigError: if the studies or the query are of different representations, or there is no such pattern.
        CaptureError: if a file holds no probabilities, its patterns are too long or not causal as the studies' are.
        ArtifactError: if a study is unfinished or damaged.
    """
    config = config or SimilarConfig()
    named = named_studies(studies)
    metric = expect_one_kind(named)
    if isinstance(query, str):
        asked = parse_query(query)
        expect_query(asked, named)
        if asked.study is not None:
            return _of_study(asked, named, metric, config)
        query = Patterns.load(asked.path)
    return _of_patterns(query, named, metric, config, encoder)


def write_similar(
    query: str,
    studies: list[Path],
    config: SimilarConfig,
    *,
    encoder: str = "bundled",
    json: Path | None = None,
    picture: Path | None = None,
) -> Looked:
    """As :func:`similar`, and write what was found where asked.

    Args:
        query: as for :func:`similar`.
        studies: as for :func:`similar`.
        config: as for :func:`similar`.
        encoder: as for :func:`similar`.
        json: file for the tables.
        picture: PNG of the queries, and of the nearest heads' kept patterns.
    """
    looked = similar(query, studies, config, encoder=encoder)
    if json is not None:
        write_json(json, report.similar_record(looked.found, looked.labels, looked.notes))
    if picture is not None:
        content = png(report.draw_similar(looked.found, looked.squares, named_studies(studies)), cropped=True)
        with replacing(picture) as file:
            file.write(content)
    return looked


def print_similar(looked: Looked) -> None:
    """Print the nearest heads, and how near they are beside what is usual."""
    report.print_similar(looked.found, looked.labels, looked.notes)


def _of_study(asked: Asked, named: Mapping[str, Placed], metric: str, config: SimilarConfig) -> Looked:
    """Look for patterns of a study."""
    assert asked.study is not None, "it was parsed"
    source = open_placed(asked.study)
    places = query_places(asked, source)
    chosen, notes = _chosen(len(places), config)
    places = [places[number] for number in chosen]
    z, judged = represented_of(source, places)
    if not judged.all():
        notes.append(_short(int((~judged).sum()), len(places)))
        kept = np.flatnonzero(judged) if judged.any() else np.arange(len(places))
        z, places = z[kept], [places[number] for number in kept.tolist()]
    number = next((i for i, one in enumerate(named.values()) if one.folder.resolve() == source.folder.resolve()), None)
    own = tuple(None if number is None else (number, layer, head) for _, layer, head in places)
    does = _clusters(source, asked.layer, asked.head)
    labels = tuple(f"{source.folder.name}:{prompt}.{layer}.{head} ({does[prompt]})" for prompt, layer, head in places)
    found = _found(Queries(z, own), named, metric, config)
    return Looked(found, labels, tuple(notes), report.kept_squares(source, places))


def _of_patterns(
    patterns: Patterns, named: Mapping[str, Placed], metric: str, config: SimilarConfig, encoder: str
) -> Looked:
    """Look for patterns that are in no study."""
    one = next(iter(named.values()))
    kind, size = str(one.encoded.counts["representation"]), int(one.encoded.counts["pattern_size"])
    if not len(patterns):
        raise CaptureError("expected at least one pattern to look for, got none; save some")
    mae = None
    if kind != "descriptor":
        mae = APMAE.from_pretrained(encoder)
        if mae.fingerprint != one.encoded.inputs.get("encoder"):
            raise ConfigError(
                f"expected the encoder of the studies ({str(one.encoded.inputs.get('encoder'))[:12]}), {encoder} is "
                f"another ({mae.fingerprint[:12]}): their representations have nothing in common; give --encoder"
            )
        expect_shape(causal=mae.config.causal, found=patterns.causal)
    else:
        _expect_causal(one, patterns)
    if kind != "cls":
        expect_constants(named)
    if patterns.size > size:
        raise CaptureError(
            f"expected patterns of at most {size} rows, as the studies' are, got {patterns.size}; crop or pool them"
        )
    chosen, notes = _chosen(len(patterns), config)
    some = patterns[chosen]
    seen = represented(some, mae, kind)
    loose = int((~has_structure(seen.structure)).sum())
    if loose:
        notes.append(
            f"{loose} of {len(some)} patterns have no structure (rows of theirs could be shuffled): what is near to "
            "them says little."
        )
    short = int(np.isnan(seen.structure).sum())
    if short:
        notes.append(_short(short, len(some)))
    if some.size < size:
        notes.append(
            f"The patterns have {some.size} rows, those of the studies up to {size}: a short prompt's pattern lies "
            "apart from a long one's of the same head."
        )
    places = zip(some.prompt.tolist(), some.layer.tolist(), some.head.tolist(), strict=True)
    scores = score(some)
    does = measured_names(scores.values, scores.key_kinds)
    labels = tuple(
        f"prompt {at}, head {layer}.{head} ({name})" for (at, layer, head), name in zip(places, does, strict=True)
    )
    z = seen.z.astype(np.float16)
    found = _found(Queries(z, (None,) * len(z)), named, metric, config)
    with np.errstate(divide="ignore"):
        squares = tuple(np.log(square) for square in some[: report.QUERIES].probabilities())
    return Looked(found, labels, tuple(notes), squares)


def _short(count: int, total: int) -> str:
    """What to say of patterns that the gate does not judge."""
    return (
        f"{count} of {total} patterns have under {SHORTEST} rows, too few to be told from others; such patterns are "
        "not searched."
    )


def _clusters(study: Placed, layer: int, head: int) -> dict[int, str]:
    """The name of a head's cluster on each prompt, without qualifiers."""
    points = study.points
    own = (points["layer"].to_numpy() == layer) & (points["head"].to_numpy() == head)
    prompt, cluster = (points[name].to_numpy()[own].tolist() for name in ("prompt", "cluster"))
    return {at: study.names[label].split(", ")[0] for at, label in zip(prompt, cluster, strict=True)}


def _expect_causal(study: Placed, patterns: Patterns) -> None:
    """Refuse square patterns for causal ones and the other way round, by what a study kept."""
    kept = study.read_exemplars([0])[0]["causal"] if len(study.exemplars.prompt) else patterns.causal
    if kept != patterns.causal:
        kinds = {True: "causal", False: "square"}
        raise CaptureError(
            f"expected {kinds[kept]} patterns, as those of {study.folder} are, got {kinds[patterns.causal]} ones; "
            "search in studies of such models"
        )


def _chosen(count: int, config: SimilarConfig) -> tuple[list[int], list[str]]:
    """Which patterns are asked for, and a line if not all are."""
    if count <= config.queries:
        return list(range(count)), []
    drawn = np.sort(generator(config.seed, "queries").choice(count, config.queries, replace=False)).tolist()
    return drawn, [f"{config.queries} of {count:,} patterns were drawn and asked for."]


def _found(queries: Queries, named: Mapping[str, Placed], metric: str, config: SimilarConfig) -> Similar:
    rows = sum(file["rows"] for one in named.values() for file in one.encoded.shards("embeddings").values())
    with progress("similar", rows, unit="patterns") as advance:
        return find_similar(queries, named, metric, config, lambda count: advance(count))
