"""The sentences at the top of the page agree with the tables."""

import numpy as np
import pyarrow as pa
import pytest

from apmae.report.page import _tables
from apmae.report.summary import summarize
from apmae.study.reader import Study


@pytest.fixture
def summarized(write_study, tmp_path):
    """Summarise a study with other points: rows of (prompt, layer, head, task, outcome, cluster)."""

    def tell(rows, **changes):
        study = Study(write_study(tmp_path, prompts=8, layers=2, heads=6))
        names = ("prompt", "layer", "head", "task", "outcome", "cluster")
        study.__dict__["points"] = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
        clusters = study.clusters.to_pylist()[: changes.pop("clusters", 2)]
        for row in clusters:
            row["size"] = sum(entry[5] == row["cluster"] for entry in rows)
        study.__dict__["clusters"] = pa.Table.from_pylist(clusters, schema=study.clusters.schema)
        study.clustered.config.update({"clusterer": changes.pop("clusterer", "stable")})
        study.clustered.counts.update(changes)
        return summarize(study, {table.name: table for table in _tables(study)})

    return tell


def test_steady_heads_names_and_layers(summarized):
    rows = [(prompt, 0, 0, "eol", "correct", 0) for prompt in range(10)]
    rows += [(prompt, 0, 1, "eol", "correct", 0 if prompt < 9 else -1) for prompt in range(10)]
    rows += [(prompt, 1, 0, "eol", "correct", 0 if prompt < 8 else 1) for prompt in range(10)]
    rows += [(prompt, 1, 1, "random", "correct", -1) for prompt in range(9)] + [(9, 1, 1, "random", "correct", 1)]
    summary = summarized(rows, dropped={"wide": 0, "small": 0})
    assert summary.opening == "40 patterns of 8 prompts over 2 \u00d7 6 heads of tiny-lm."
    assert summary.clusters == "2 named clusters hold 75.0% of the patterns."
    assert summary.steady_heads == 2
    assert summary.steady[0].endswith(": 0.0, 0.1")
    assert [line.split(": ")[1] for line in summary.names] == [
        "67.5% of all patterns, in 1 cluster",
        "7.5% of all patterns, in 1 cluster",
    ]
    assert summary.next == (
        "Heads whose pattern depends most on the prompt, by distinct clusters: 1.0\u00a0(2).",
        "Layer 1 is the least understood (55% of its patterns are in a cluster), layer 0 the most (95%).",
        "The task with the most unique pattern locations is eol: 4 that no other task has (Table 5).",
    )


def test_a_single_cluster_is_in_the_singular(summarized):
    summary = summarized([(0, 0, 0, "eol", "correct", 0)], clusters=1, dropped={"wide": 2, "small": 0})
    assert summary.clusters == "1 named cluster holds 100.0% of the patterns. Left out: 2 too wide."


@pytest.mark.parametrize(
    ("clusterer", "said", "silent"),
    [
        ("stable", {"min_cluster_size", "--preset paper"}, {"epsilon", "max_mean_distance"}),
        ("paper", {"min_cluster_size", "epsilon", "max_mean_distance"}, {"--preset"}),
        ("per_head", {"min_cluster_size", "epsilon", "max_mean_distance"}, {"--preset"}),
    ],
)
def test_without_a_cluster_the_page_says_what_to_try(summarized, clusterer, said, silent):
    """Of the settings that this clusterer reads."""
    summary = summarized([(0, 0, 0, "eol", "correct", -1)], clusters=0, dropped={}, clusterer=clusterer)
    (advice,) = summary.next
    assert all(name in advice for name in said) and not any(name in advice for name in silent)
    assert summary.clusters == "No cluster was found, so there is nothing to name."
    assert "Figure 6" in summary.next[0]
    assert summary.names == summary.steady == ()


def test_long_lists_of_heads_are_cut(summarized):
    rows = [(0, layer, head, "eol", "correct", 0) for layer, head in np.ndindex(2, 6)]
    assert summarized(rows).steady[0].endswith(": 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.1 and 4 more")
