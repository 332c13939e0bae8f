"""A real study on disk with planted clusters: what encode and cluster would write, with their schemas.

It is made once; tests that only read it share it.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from apmae.artifacts import Stage, fingerprint, read_manifest, write_json
from apmae.schema import CLUSTERS, ENCODED_PROMPTS, EXEMPLARS, KINDS, POINTS, RECONSTRUCTIONS, SCORES, embeddings
from apmae.study.reader import Study

SIZE, PATCH, DIM = 64, 16, 6
NAMES = ("first-token sink", "previous token", "columns on ';'", "induction + local band")
TASKS = ("eol", "closing_bracket", "identifier", "random")


@pytest.fixture(scope="session")
def write_study():
    return _write_study


@pytest.fixture(scope="session")
def planted():
    return _planted


@pytest.fixture(scope="session")
def pack():
    return _pack


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return _write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def study(folder):
    return Study(folder)


@pytest.fixture(scope="session")
def encoder_study(tmp_path_factory):
    """Of an encoder without a head for masked tokens."""
    tokens = ["[CLS]", " the", " old", "[MASK]", "[MASK]", " was", " quiet", "[SEP]"]
    return Study(_write_study(tmp_path_factory.mktemp("encoder_study"), encoder=True, tokens=tokens))


def _write_study(
    folder: Path,
    *,
    prompts: int = 40,
    layers: int = 2,
    heads: int = 4,
    clustered: bool = True,
    exemplars: float = 0.4,
    tokens: list[str] | None = None,
    path: str = "src/Main.java",
    names: tuple[str, ...] = NAMES,
    claims: tuple[tuple[list[str], list[dict]], ...] | None = None,
    shard: int = 16,
    model: str = "tiny-lm",
    encoder: bool = False,
) -> Path:
    """Write ``embeddings/`` and ``atlas/``; equal arguments give equal bytes. With ``encoder``, patterns are square and
    no outcome is known.

    ``claims`` are the kinds and qualifiers of each cluster, none by default.

    Head h of layer l shows cluster ``(l * heads + h) % len(names)`` on three of four prompts, otherwise the next
    cluster or noise; the last head of the last layer is always noise. A third of the noise fails the gate.
    """
    rng = np.random.default_rng(0)
    tokens = tokens or ["<fim_prefix>", "int ", "x", " = ", "<fim_suffix>", ";\n", "}", "<fim_middle>"]
    label, where = _labels(rng, prompts, layers, heads, len(names), clustered)
    centres = rng.normal(size=(len(names) + 1, DIM)) * 4
    z = (centres[label] + rng.normal(size=(len(label), DIM)) * 0.3).astype(np.float16)
    structure = np.where((label < 0) & (np.arange(len(label)) % 3 == 0), 2.0, 50.0).astype(np.float32)
    places = (centres[label][:, :4] + rng.normal(size=(len(label), 4)) * 0.25).astype(np.float32)
    tasks = [TASKS[prompt % len(TASKS)] for prompt in range(prompts)]
    outcomes = ["correct" if (prompt // 4) % 2 else "incorrect" for prompt in range(prompts)]
    if encoder:
        outcomes = [None] * prompts
    out = folder / "embeddings"
    inputs = {"lm": "a" * 64, "encoder": "c" * 64, "prompts": "b" * 64}
    with Stage.open(out, "encode", {"seed": 7, "heads": "all"}, inputs) as stage:
        for number, first in enumerate(range(0, prompts, shard)):
            own = (where[:, 0] >= first) & (where[:, 0] < first + shard)
            kept = np.flatnonzero(own & (rng.random(len(label)) < exemplars))
            count = int(own.sum())
            columns = {
                "prompt": pa.array(where[own, 0], pa.int32()),
                "layer": pa.array(where[own, 1], pa.int16()),
                "head": pa.array(where[own, 2], pa.int16()),
                "task": [tasks[prompt] for prompt in where[own, 0]],
                "outcome": [outcomes[prompt] for prompt in where[own, 0]],
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(z[own].ravel()), DIM),
                "structure": pa.array(structure[own]),
                **{f"score_{name}": pa.array(np.full(count, 0.5, np.float32)) for name in SCORES},
                "sinks": pa.array([[0]] * count, pa.list_(pa.int32())),
                **{kinds: _zeros(count) for kinds in ("key_kinds", "query_kinds")},
            }
            rows = [
                {
                    "prompt": prompt,
                    "id": f"p{prompt}",
                    "task": tasks[prompt],
                    "path": path,
                    "split": "held_out",
                    "tokens": tokens,
                    "expected": ")",
                    **({} if encoder else _answer(prompt, outcomes[prompt])),
                }
                for prompt in range(first, min(first + shard, prompts))
            ]
            stage.write_tables(
                {
                    f"embeddings-{number:05d}.parquet": pa.table(columns, schema=embeddings(DIM)),
                    f"prompts-{number:05d}.parquet": pa.Table.from_pylist(rows, schema=ENCODED_PROMPTS),
                    f"exemplars-{number:05d}.parquet": pa.Table.from_pylist(
                        [_exemplar(rng, where[i], int(label[i]), causal=not encoder) for i in kept], schema=EXEMPLARS
                    ),
                }
            )
        if clustered:
            made = [_reconstruction(rng, number, causal=not encoder) for number in range(6)]
            table = pa.Table.from_pylist(made, schema=RECONSTRUCTIONS)
            stage.write_tables({"reconstructions.parquet": table})
        counts = {"prompts": prompts, "layers": layers, "heads": heads, "dim": DIM, "pattern_size": SIZE, "lm": model}
        counts |= {"heads_by_layer": [heads] * layers, "representation": "cls"}
        stage.finish(counts)
    _atlas(folder, label, where, places, tasks, outcomes, layers, heads, names, claims)
    return folder


def _answer(prompt, outcome):
    return {
        "predicted": ")" if outcome == "correct" else ";",
        "outcome": outcome,
        "text_correct": outcome == "correct",
        "token_correct": outcome == "correct",
        "max_probability": 0.25 + 0.5 * (prompt % 5) / 4,
        "expected_probability": 0.2,
        "margin": 0.1,
        "entropy": 1.5,
    }


def _planted(kind: int, rng: np.random.Generator, size: int = SIZE, *, causal: bool = True) -> np.ndarray:
    """(size, size) log pattern of one of the planted kinds; -inf above the diagonal if causal."""
    query, key = np.indices((size, size))
    score = rng.normal(size=(size, size)) * 0.5
    peak = (key == 0, key == query - 1, key % 7 == 3, abs(query - key - 9) < 2)
    if 0 <= kind < len(peak):
        score = score + 6 * peak[kind]
    score = np.where((key <= query) | (not causal), score, -np.inf)
    return score - np.log(np.exp(score).sum(1, keepdims=True))


def _pack(square: np.ndarray, *, causal: bool = True) -> bytes:
    """The patches that exist in row-major order, fp16; in plain loops, to check the reader against."""
    grid = SIZE // PATCH
    tiles = [
        square[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        for row in range(grid)
        for column in range(row + 1 if causal else grid)
    ]
    return np.stack(tiles).astype("<f2").tobytes()


def _labels(rng, prompts, layers, heads, clusters, clustered):
    where = np.array([(p, layer, head) for p in range(prompts) for layer in range(layers) for head in range(heads)])
    draw = rng.random(len(where))
    number = (where[:, 1] * heads + where[:, 2]) % clusters
    label = np.where(draw < 0.75, number, np.where(draw < 0.85, (number + 1) % clusters, -1))
    label[(where[:, 1] == layers - 1) & (where[:, 2] == heads - 1)] = -1
    if not clustered:
        label[:] = -1
    # Clusters are numbered by size, as in an atlas.
    sizes = np.bincount(label[label >= 0], minlength=clusters)
    rank = np.empty(clusters + 1, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(clusters)
    rank[-1] = -1
    return rank[label], where


def _zeros(count):
    values = pa.array(np.zeros(count * len(KINDS), np.float32))
    return pa.FixedSizeListArray.from_arrays(values, len(KINDS))


def _exemplar(rng, place, label, *, causal):
    prompt, layer, head = place.tolist()
    # + 0.0 turns -0 into 0; the fill above the diagonal is -inf, as encode writes it.
    packed = _pack(_planted(label, rng, causal=causal) + 0.0, causal=causal)
    where = {"prompt": prompt, "layer": layer, "head": head}
    return where | {"size": SIZE, "patch": PATCH, "causal": causal, "log_pattern": packed}


def _reconstruction(rng, number, *, causal):
    scaled = rng.random((SIZE, SIZE)) * 0.4 + 0.5 * (np.arange(SIZE) % 7 == number)
    grid = SIZE // PATCH
    scaled, patches = (np.tril(scaled), grid * (grid + 1) // 2) if causal else (scaled, grid * grid)
    masked = np.zeros(patches, np.uint8)
    masked[rng.permutation(patches)[: patches // 2]] = 1
    return {
        "prompt": number,
        "layer": number % 2,
        "head": number % 4,
        "size": SIZE,
        "patch": PATCH,
        "causal": causal,
        "original": _pack(scaled, causal=causal),
        "predicted": _pack(np.clip(scaled + rng.normal(size=scaled.shape) * 0.1, 0, 1), causal=causal),
        "masked": masked.tobytes(),
        "loss": 0.01 * (number + 1),
    }


def _atlas(folder, label, where, places, tasks, outcomes, layers, heads, names, claims):
    out = folder / "atlas"
    points = pa.table(
        {
            "prompt": pa.array(where[:, 0], pa.int32()),
            "layer": pa.array(where[:, 1], pa.int16()),
            "head": pa.array(where[:, 2], pa.int16()),
            "task": [tasks[prompt] for prompt in where[:, 0]],
            "outcome": pa.array([outcomes[prompt] for prompt in where[:, 0]], pa.string()),
            "cluster": pa.array(label, pa.int32()),
            "coordinates": pa.array(list(places), pa.list_(pa.float32())),
        },
        schema=POINTS,
    )
    found = sorted(set(label.tolist()) - {-1})
    rows = [
        {
            "cluster": number,
            "name": names[number],
            "size": int((label == number).sum()),
            "mean_distance": 0.4 + number / 10,
            "stability": 0.9 - number / 10,
            "seed_stability": 0.95,
            "unstable": number == 2,
            "kinds": claims[number][0] if claims else [],
            "true_share": 0.95,
            "like_share": 0.1,
            "confidence": 0.855,
            "qualifiers": claims[number][1] if claims else [],
            "score_first_token": 0.625,
            "score_local_width": 4.25,
            "looks_at": "';'" if number == 2 else "",
            "looks_from": "",
        }
        for number in found
    ]
    with Stage.open(out, "cluster", {"seed": 3}, {"encode": fingerprint(folder / "embeddings")}) as stage:
        stage.write_tables({"points.parquet": points, "clusters.parquet": pa.Table.from_pylist(rows, schema=CLUSTERS)})
        encoder = read_manifest(folder / "embeddings", "encode").inputs["encoder"]
        record = {"config": {}, "dropped": {}, "unstructured": 0, "encoder": encoder, "representation": "cls"}
        write_json(out / "atlas.json", record)
        stage.add_files(["atlas.json"])
        stage.finish(
            {
                "patterns": len(label),
                "clusters": len(found),
                "clustered": int((label >= 0).sum()),
                "dropped": {"wide": 1, "small": 2},
                "layers": layers,
                "heads": heads,
            }
        )
