"""The heads of studies whose patterns are nearest to given ones, by an exact search that streams over shards.

Distances are those of the representation that atlases read, in their metric. Patterns of under 32 rows, which the gate
does not judge, are left out: those of one token are all equal. Among many patterns something is always
near, so the same search is made for patterns drawn from the studies, each among the heads other than its own: only a
distance that is small beside theirs says that a head does the same.

Axes: q queries, d numbers of a representation, n patterns of a shard, h heads of all studies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.database import over
from apmae.artifacts import matrix, read_table
from apmae.atlas.kinds import measured_names
from apmae.config import SimilarConfig
from apmae.errors import ConfigError
from apmae.schema import NOISE, SCORES, SIMILAR, SIMILAR_HEADS
from apmae.seeding import generator
from apmae.study.placed import Placed

SCIPY_METRIC: dict[str, Literal["cityblock", "euclidean", "cosine"]] = {
    "manhattan": "cityblock",
    "euclidean": "euclidean",
    "cosine": "cosine",
}
"""Names of the metrics in scipy."""
_WHERE = ("prompt", "layer", "head")

Place = tuple[int, int, int]
"""Number of a study, layer and head."""


class Queries(NamedTuple):
    """Patterns to look for."""

    z: Float[ndarray, "q d"]
    """Their representations, rounded to fp16 as those of studies are."""
    own: tuple[Place | None, ...]
    """The head that each is of, if its study is searched: what another prompt makes it do is no news."""


class Similar(NamedTuple):
    """What was found near some patterns."""

    patterns: pa.Table
    """``schema.SIMILAR``."""
    heads: pa.Table
    """``schema.SIMILAR_HEADS``."""
    usual: tuple[float, float, float]
    """Distance of a drawn pattern to its nearest head: the 5 % quantile, the median and the 95 % quantile."""
    usual_mean: tuple[float, float, float]
    """The same of the smallest mean distance of a drawn pattern to a head."""
    itself: float | None
    """Mean distance of the queries to the patterns of their own head on other prompts; None if no study that is
    searched has them."""


class _Found(NamedTuple):
    """What one pass over all patterns gives."""

    places: list[Place]
    nearest: Float[ndarray, "q h"]
    """Distance to the nearest pattern of each head."""
    prompt: Int[ndarray, "q h"]
    """Its prompt."""
    total: Float[ndarray, "q h"]
    """Sum of the distances to all patterns of each head."""
    patterns: Int[ndarray, " h"]


def find_similar(
    queries: Queries,
    studies: Mapping[str, Placed],
    metric: str,
    config: SimilarConfig,
    tell: Callable[[int], None] = lambda _: None,
) -> Similar:
    """The heads that are nearest to each query, and to all of them.

    Args:
        queries: at least one.
        studies: by the name that they have in the tables; of the same representation as the queries.
        metric: "manhattan", "euclidean" or "cosine".
        config: how many heads, controls, seed.
        tell: called with the number of patterns of each shard that was searched.
    """
    controls = _drawn(studies, config)
    asked = np.concatenate([queries.z, controls.z]).astype(np.float64)
    found = _search(asked, studies, metric, tell)
    itself = []
    for row, own in enumerate((*queries.own, *controls.own)):
        if own is not None and own in found.places:
            place = found.places.index(own)
            if row < len(queries.z) and found.patterns[place] > 1:
                itself.append(found.total[row, place] / (found.patterns[place] - 1))
            found.nearest[row, place] = found.total[row, place] = np.inf
    many = len(queries.z)
    usual = np.sort(found.nearest[many:], axis=1)
    usual_mean = np.sort(found.total[many:] / found.patterns, axis=1)
    pairs = _pairs(controls, metric)
    rows: list[dict[str, Any]] = []
    for query in range(many):
        order = np.argsort(found.nearest[query], kind="stable")[: config.count]
        for rank, place in enumerate(order.tolist()):
            if not np.isfinite(found.nearest[query, place]):
                continue
            study, layer, head = found.places[place]
            rows.append(
                {
                    "query": query,
                    "rank": rank + 1,
                    "of": study,
                    "layer": layer,
                    "head": head,
                    "prompt": int(found.prompt[query, place]),
                    "distance": found.nearest[query, place],
                    "pairs": _share(pairs, found.nearest[query, place]),
                    "controls": _share(usual[:, rank], found.nearest[query, place]),
                }
            )
    heads = _heads(found, many, config.count, usual_mean)
    names = list(studies)
    _describe(rows, heads, list(studies.values()))
    for row in (*rows, *heads):
        of = row.pop("of")
        row |= {"study": names[of], "model": studies[names[of]].model}
    return Similar(
        pa.Table.from_pylist(rows, schema=SIMILAR),
        pa.Table.from_pylist(heads, schema=SIMILAR_HEADS),
        _quantiles(usual[:, 0]),
        _quantiles(usual_mean[:, 0]),
        float(np.mean(itself)) if itself else None,
    )


def _quantiles(values: Float[ndarray, " c"]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return low, middle, high


def represented_of(
    study: Placed, places: Sequence[tuple[int, int, int]]
) -> tuple[Float[ndarray, "q d"], Bool[ndarray, " q"]]:
    """The representations of some patterns of a study, in the order asked, and whether the gate could judge each.

    Args:
        study: opened.
        places: prompt, layer and head of each, of those that the study has.
    """
    wanted = {place: row for row, place in enumerate(places)}
    found: dict[int, ndarray] = {}
    judged = np.zeros(len(places), bool)
    for where, z, able in _shards(study):
        for row, place in enumerate(_rows(where)):
            if place in wanted:
                found[wanted[place]], judged[wanted[place]] = z[row], able[row]
    return np.stack([found[row] for row in range(len(places))]), judged


def patterns_of(study: Placed, layer: int, head: int) -> Int[ndarray, " n"]:
    """The prompts on which a head of a study was captured, ascending."""
    points = study.points
    own = (points["layer"].to_numpy() == layer) & (points["head"].to_numpy() == head)
    return np.sort(points["prompt"].to_numpy()[own]).astype(np.int64)


def _shards(study: Placed) -> Iterator[tuple[pa.Table, Float[ndarray, "n d"], Bool[ndarray, " n"]]]:
    """Where the patterns of each shard are from, their representations, and whether the gate could judge each."""
    for path in study.embedding_files:
        table = read_table(path, [*_WHERE, "structure", "embedding"])
        yield table.select(list(_WHERE)), matrix(table["embedding"]), ~np.isnan(table["structure"].to_numpy())


def _rows(where: pa.Table) -> list[tuple[int, int, int]]:
    prompt, layer, head = (where[name].to_pylist() for name in _WHERE)
    return list(zip(prompt, layer, head, strict=True))


def _drawn(studies: Mapping[str, Placed], config: SimilarConfig) -> Queries:
    """Patterns drawn from all studies, each with the same chance; those that cannot be judged are dropped.

    Raises:
        ConfigError: if none is left.
    """
    sizes = [sum(file["rows"] for file in study.encoded.shards("embeddings").values()) for study in studies.values()]
    total = sum(sizes)
    picked = generator(config.seed, "controls").choice(total, min(config.controls, total), replace=False)
    picked, first = np.sort(picked), 0
    z: list[ndarray] = []
    own: list[Place] = []
    for number, study in enumerate(studies.values()):
        for name, file in study.encoded.shards("embeddings").items():
            inside = picked[(picked >= first) & (picked < first + file["rows"])] - first
            first += file["rows"]
            if not len(inside):
                continue
            table = read_table(study.embeddings_folder / name, [*_WHERE, "structure", "embedding"]).take(
                pa.array(inside)
            )
            table = table.filter(pa.array(~np.isnan(table["structure"].to_numpy())))
            if not table.num_rows:
                continue
            z.append(matrix(table["embedding"]))
            own += [(number, layer, head) for _, layer, head in _rows(table)]
    if not z:
        raise ConfigError(
            f"expected patterns of 32 rows or more in {', '.join(studies)}, of {len(picked)} drawn none is; encode "
            "longer prompts"
        )
    return Queries(np.concatenate(z), tuple(own))


def _search(
    asked: Float[ndarray, "q d"], studies: Mapping[str, Placed], metric: str, tell: Callable[[int], None]
) -> _Found:
    """Compare rows with every pattern, a shard at a time."""
    from scipy.spatial.distance import cdist

    best: dict[Place, list[ndarray]] = {}
    patterns: dict[Place, int] = {}
    for number, study in enumerate(studies.values()):
        for where, z, able in _shards(study):
            prompt, layer, head = (where[name].to_numpy().astype(np.int64)[able] for name in _WHERE)
            z = z[able]
            code = (layer << 32) | head
            order = np.lexsort((prompt, code))
            begins = np.flatnonzero(np.r_[True, np.diff(code[order]) != 0])
            apart = cdist(asked, z[order].astype(np.float64), SCIPY_METRIC[metric])
            for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(order)], strict=True):
                place = number, int(layer[order[begin]]), int(head[order[begin]])
                own = apart[:, begin:end]
                nearest = own.argmin(1)
                values = own[np.arange(len(asked)), nearest]
                here = best.setdefault(
                    place, [np.full(len(asked), np.inf), np.zeros(len(asked), int), np.zeros(len(asked))]
                )
                better = values < here[0]
                here[0][better] = values[better]
                here[1][better] = prompt[order[begin + nearest[better]]]
                here[2] += own.sum(1)
                patterns[place] = patterns.get(place, 0) + end - begin
            tell(len(able))
    places = sorted(best)
    nearest, prompts, total = (np.stack([best[place][part] for place in places], axis=1) for part in range(3))
    return _Found(places, nearest, prompts, total, np.array([patterns[place] for place in places]))


def _pairs(controls: Queries, metric: str) -> Float[ndarray, " p"]:
    """Distances of pairs of drawn patterns of different heads, ascending."""
    from scipy.spatial.distance import pdist

    first, second = np.triu_indices(len(controls.z), 1)
    other = np.array([controls.own[a] != controls.own[b] for a, b in zip(first, second, strict=True)], bool)
    return np.sort(pdist(controls.z.astype(np.float64), SCIPY_METRIC[metric])[other])


def _heads(found: _Found, many: int, count: int, usual: Float[ndarray, "c h"]) -> list[dict[str, Any]]:
    """The heads with the smallest mean distance to the queries; a query's own head is left out for all."""
    of_queries = (found.total[:many] / found.patterns).mean(0)
    made = []
    for rank, place in enumerate(np.argsort(of_queries, kind="stable")[:count].tolist()):
        if not np.isfinite(of_queries[place]):
            continue
        study, layer, head = found.places[place]
        made.append(
            {
                "rank": rank + 1,
                "of": study,
                "layer": layer,
                "head": head,
                "patterns": int(found.patterns[place]),
                "mean": of_queries[place],
                "nearest": found.nearest[:many, place].min(),
                "controls": _share(usual[:, rank], of_queries[place]),
            }
        )
    return made


def _share(values: Float[ndarray, " n"], value: float) -> float:
    """The share of some distances that are smaller."""
    return float((values < value).mean()) if len(values) else float("nan")


def _describe(rows: list[dict[str, Any]], heads: list[dict[str, Any]], studies: Sequence[Placed]) -> None:
    """Add clusters and names: of each pattern its own, of each head those of most of its patterns."""
    for number, study in enumerate(studies):
        own = [row for row in rows if row["of"] == number]
        of_heads = [row for row in heads if row["of"] == number]
        names = study.names
        wanted = pa.table({name: pa.array([row[name] for row in own], pa.int32()) for name in _WHERE})
        scores = ", ".join(f"score_{name}" for name in SCORES)
        with over(rows=study.embedding_files, points=study.point_files, wanted=wanted) as found:
            measured = found.execute(
                f"""SELECT prompt, layer, head, key_kinds, {scores}
                    FROM rows SEMI JOIN wanted USING (prompt, layer, head)"""
            ).fetchall()
            placed = found.execute(
                "SELECT prompt, layer, head, cluster FROM points SEMI JOIN wanted USING (prompt, layer, head)"
            ).fetchall()
            counted = found.execute(
                """SELECT layer, head, cluster, count(*) AS n FROM points GROUP BY ALL
                   ORDER BY layer, head, n DESC, cluster"""
            ).fetchall()
        said = dict(
            zip(
                (row[:3] for row in measured),
                measured_names(
                    np.array([row[4:] for row in measured], np.float32).reshape(-1, len(SCORES)),
                    np.array([row[3] for row in measured], np.float32).reshape(len(measured), -1),
                ),
                strict=True,
            )
        )
        cluster = {row[:3]: row[3] for row in placed}
        for row in own:
            place = row["prompt"], row["layer"], row["head"]
            row |= {"cluster": cluster[place], "name": names[cluster[place]], "measured": said[place]}
        main: dict[tuple[int, int], tuple[int, int, int]] = {}
        for layer, head, label, count in counted:
            first, most, total = main.get((layer, head), (label, count, 0))
            main[layer, head] = first, most, total + count
        for row in of_heads:
            label, most, total = main.get((row["layer"], row["head"]), (NOISE, 0, 1))
            row |= {"cluster": label, "name": names[label], "share": most / total}
