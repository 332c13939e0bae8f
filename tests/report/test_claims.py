"""Each cluster's section of the page: what its name claims, and how far that is so."""

import json
import re
from html import unescape
from math import inf

import pytest

from apmae.report.claims import cluster_sections
from apmae.report.page import report_of
from apmae.report.tables import clusters_table
from apmae.study.reader import Study

WIDTH = {"feature": "score_local_width", "low": 3.0, "high": 5.0, "words": "width 3 to 5"}
QUERIES = {"feature": "query_newline", "low": 0.12, "high": inf, "words": "from newlines"}
NAMES = (
    "local band + first-token sink, width 3 to 5",
    "columns on ';', unnamed 1",
    "columns on ';', from newlines",
    "mixed",
)
CLAIMS = (
    (["local band", "first-token sink"], [WIDTH]),
    (["columns on ';'"], []),
    (["columns on ';'"], [QUERIES]),
    (["mixed"], []),
)


@pytest.fixture(scope="module")
def named(tmp_path_factory, write_study):
    return write_study(tmp_path_factory.mktemp("named"), prompts=8, names=NAMES, claims=CLAIMS)


def articles(folder):
    """The text of each cluster's section, by the cluster's number."""
    page = report_of(Study(folder)).files["index.html"].decode()
    found = re.findall(r'<article class="cluster" id="cluster-(\d+)"[^>]*>(.*?)</article>', page, re.S)
    assert len(found) == len(set(found))
    return {int(number): " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split()) for number, text in found}


def test_each_part_of_a_name_is_shown_with_what_it_claims_and_what_the_members_score(named):
    text = articles(named)[0]
    assert text.count(NAMES[0]) == 1
    for row in (
        "local band attention nearby, but not on the previous token or itself (score local) at least 0.325 "
        "(0.55 where score uniform is at least 0.75) \u2013",
        "first-token sink attention on the first token (score first_token) at least 0.265 0.62",
        "width 3 to 5 tokens back that draw half of what is not on the first token (score local_width) from 3 to 5 4.2",
    ):
        assert row in text


def test_it_says_for_how_many_members_a_name_is_true_and_how_many_others_satisfy_it(named):
    found = articles(named)
    size = {row["cluster"]: row["size"] for row in Study(named).clusters.to_pylist()}
    assert (
        f"All parts hold together for 95.0% of the {size[0]} members, so each part alone for at least as many."
        in found[0]
    )
    assert re.search(r"No other cluster has the same kinds. Confidence 0.8[56]\.", found[0]), "0.855"
    assert "Of another cluster" not in found[0]
    assert "Of another cluster of the same kinds, at most 10.0% of the members satisfy it too." in found[2]
    assert "attention from newlines at least 0.12 more than the mean query's" in found[2]
    assert "Unnamed: nothing that is measured separates it" in found[1]
    assert "Unnamed" not in found[2]
    assert "no kind is clear, and none is claimed" in found[3] and "So it is true of any pattern." in found[3]


def test_clusters_of_the_same_kinds_lead_to_each_other(named):
    study = Study(named)
    sections = cluster_sections(study, clusters_table(study))
    assert [one["like"] for one in sections] == [[], [2], [1], []]


def test_stability_and_token_kinds_are_shown(named):
    found = articles(named)
    assert "0.90 in halves of the prompts, 0.95 over seeds (stable)" in found[0]
    assert "0.70 in halves of the prompts, 0.95 over seeds (unstable: under 0.75)" in found[2]
    assert f"{NAMES[2]} (unstable)" in found[2]
    assert "looks at (keys) ';'" in found[2]
    assert "looks at (keys) no token kind stands out looks from (queries) no token kind stands out" in found[0]


def test_without_scores_nothing_is_claimed(folder):
    text = articles(folder)[0]
    assert "It is called by its number: its patterns have no scores, so there is nothing to check." in text
    assert "claims of a pattern" not in text


def test_a_name_given_by_hand_is_told_from_what_was_found(tmp_path, write_study):
    folder = write_study(tmp_path, prompts=8, names=NAMES, claims=CLAIMS)
    (folder / "atlas" / "names.json").write_text(json.dumps({"0": "<b>mine</b>"}))
    text = articles(folder)[0]
    assert "0: <b>mine</b>" in text, "escaped, so still there without the tags"
    assert "The name was given by hand; what is checked is what was found of the cluster, above." in text
    assert "width 3 to 5" in text
    assert "given by hand" not in articles(folder)[1]


def test_what_an_atlas_says_stays_text(tmp_path, write_study):
    evil = "</table><script>alert(1)</script>"
    claims = ((["local band", evil], [WIDTH | {"words": evil}]), *CLAIMS[1:])
    folder = write_study(tmp_path, prompts=8, names=NAMES, claims=claims)
    page = report_of(Study(folder)).files["index.html"].decode()
    assert "<script" not in page
    assert articles(folder)[0].count(evil) == 2
    assert "no kind of this version" in articles(folder)[0]
