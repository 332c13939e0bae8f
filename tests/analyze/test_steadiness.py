"""What heads do over a corpus, counted again in plain Python, on tags drawn at random."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apmae.analyze.steadiness import head_records, summarize_heads
from apmae.schema import CORPUS_TAGS, NOISE

NAMES = {
    0: ("local band, width 3 to 5", "local band"),
    1: ("local band, width 6 to 9", "local band"),
    2: ("some induction, unnamed 1", "some induction"),
}
MEASURED = {
    "local band + self": "local band",
    "some induction": "induction",
    "induction": "induction",
    "columns on newlines": "columns on newlines",
}


def drawn(prompts, *, seed=0):
    """Tags of 2 x 3 heads; head 0.0 is never known, head 1.2 always the same."""
    draw = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        for layer in range(2):
            for head in range(3):
                cluster = int(draw.integers(-1, 3))
                cluster = {(0, 0): NOISE, (1, 2): 0}.get((layer, head), cluster)
                reason, name = "", "unknown"
                if cluster == NOISE:
                    reason = str(draw.choice(["vote", "far", "structure"]))
                    name = "uniform" if reason == "structure" and (layer, head) != (0, 0) else "unknown"
                else:
                    name = str(draw.choice(NAMES[cluster]))
                rows.append(
                    {
                        "prompt": prompt,
                        "layer": layer,
                        "head": head,
                        "task": ["eol", "random", "identifier"][prompt % 3],
                        "outcome": None,
                        "cluster": cluster,
                        "name": name,
                        "strength": float(draw.integers(0, 1001) / 1000),
                        "reason": reason,
                        "unstable": False,
                        "structure": float("nan"),
                        "measured": str(draw.choice(list(MEASURED))),
                        "nearest": [],
                        "distances": [],
                        "coordinates": [0.0] * 4,
                    }
                )
    return rows


def write(rows, folder, shards=2):
    paths = []
    for number in range(shards):
        own = [row for row in rows if row["prompt"] % shards == number]
        paths.append(folder / f"tags-{number:05d}.parquet")
        pq.write_table(pa.Table.from_pylist(own, schema=CORPUS_TAGS), paths[-1])
    return paths


def shares(texts, total):
    return {text: pytest.approx(count / total) for text, count in Counter(texts).items()}


def habit_of(rows):
    """The number of tags, the names that may be the main one, the steadiness and the known share."""
    names = [row["name"].split(",")[0] for row in rows]
    counts = Counter(name for name in names if name != "unknown")
    most = max(counts.values(), default=0)
    main = {name for name, count in counts.items() if count == most} or {None}
    return len(rows), main, most / len(rows), sum(row["cluster"] >= 0 for row in rows) / len(rows)


@pytest.mark.parametrize("prompts", [1, 2, 37])
def test_heads_are_counted_as_in_plain_python(tmp_path, prompts):
    rows = drawn(prompts)
    found = summarize_heads(write(rows, tmp_path, shards=min(prompts, 2)))
    assert [(one.layer, one.head) for one in found] == [(layer, head) for layer in range(2) for head in range(3)]
    for one in found:
        own = [row for row in rows if (row["layer"], row["head"]) == (one.layer, one.head)]
        for habit, some in [
            (one.habit, own),
            *((one.tasks[task], [row for row in own if row["task"] == task]) for task in one.tasks),
        ]:
            tags, main, steadiness, known = habit_of(some)
            assert habit.tags == tags and habit.name == min(main, key=str)
            assert (habit.steadiness, habit.known) == pytest.approx((steadiness, known))
        assert list(one.tasks) == sorted({row["task"] for row in own})
        assert dict(one.names) == shares([row["name"].split(",")[0] for row in own], prompts)
        assert dict(one.clusters) == shares([row["cluster"] for row in own if row["cluster"] >= 0], prompts)
        assert dict(one.unknown) == shares([row["reason"] for row in own if row["cluster"] < 0], prompts)
        assert dict(one.measured) == shares([MEASURED[row["measured"]] for row in own], prompts)
        for ordered in (one.names, one.clusters, one.unknown, one.measured):
            assert [share for _, share in ordered] == sorted((share for _, share in ordered), reverse=True)
        strengths = [row["strength"] for row in own if row["cluster"] >= 0]
        assert one.strength == (pytest.approx(np.mean(strengths), abs=1e-5) if strengths else None)
    never, always = found[0], found[-1]
    assert (never.habit.name, never.habit.steadiness, never.strength, never.clusters) == (None, 0.0, None, ())
    assert (always.habit.name, always.habit.steadiness) == ("local band", 1.0)


def test_how_tags_are_cut_into_files_does_not_matter(tmp_path):
    rows = drawn(30, seed=1)
    found = []
    for shards in (1, 5):
        folder = tmp_path / str(shards)
        folder.mkdir()
        found.append(summarize_heads(write(rows, folder, shards)))
    assert found[0] == found[1]


def test_a_record_has_the_values_by_name(tmp_path):
    (first, *_) = found = summarize_heads(write(drawn(9), tmp_path))
    records = head_records(found)
    assert len(records) == 6
    assert records[0]["tags"] == 9 and records[0]["name"] is None and records[0]["strength"] is None
    assert records[0]["unknown"] == [{"reason": reason, "share": share} for reason, share in first.unknown]
    assert records[-1]["clusters"] == [{"cluster": 0, "share": 1.0}]
    assert records[-1]["tasks"]["eol"] == {"tags": 3, "name": "local band", "steadiness": 1.0, "known": 1.0}
