"""The pages: everything is in them, they fetch nothing, and strangers' text stays text."""

import io
import re
import shutil
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pytest
from matplotlib.image import imread
from pages import Reader, check

from apmae.artifacts import manifest_path, read_manifest
from apmae.engine.report import write_report
from apmae.report.display import prompt_pieces
from apmae.report.page import report_of, tag_page
from apmae.schema import SCORES, TAGS

EVIL = "</code><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}&\u202e"
FIGURES = ("reconstruction", "embedding_steps", "pattern_examples", "cluster_variation", "head_maps")
TABLES = ("clustering", "locations", "clusters", "heads", "outcomes")


@pytest.fixture(scope="module")
def page(report):
    return report.read_text(encoding="utf-8")


def test_the_report_is_whole(report, page):
    reader = check(page)
    words = ("What was found", "Heads", "Clusters", "Patterns", "Tasks", "How the clusters were made", "Provenance")
    numbered = ("Table 4", "Table 5", "Figure 3", "Figure 6", "Figure 8", "Figure 9", "Figure 10", "Outcomes")
    for heading in words + numbered:
        assert heading in reader.text, heading
    assert "320 patterns of 40 prompts over 2 \u00d7 4 heads of tiny-lm." in reader.text
    assert "4 named clusters hold 70.9% of the patterns." in reader.text
    assert "first-token sink" in reader.text
    manifest = read_manifest(report.parent, "report")
    wanted = {f"figures/{name}.png" for name in FIGURES} | {f"tables/{name}.csv" for name in TABLES} | {"index.html"}
    assert set(manifest.files) == wanted
    assert set(manifest.inputs) == {"encode", "cluster"}


def test_every_cluster_has_a_section_that_the_grid_leads_to(page):
    links = set(re.findall(r'href="#(cluster-\d+)"', page))
    assert links == {f"cluster-{number}" for number in range(4)}
    assert page.count('alt="a pattern of cluster ') == 4
    assert re.search(r'title="1\.3: unknown in 100% of 40 patterns; 0% in any of 0 clusters"', page)


def test_pictures_in_the_page_are_the_files_and_are_not_blank(report, page):
    inside = [b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    for name in FIGURES:
        content = (report.parent / "figures" / f"{name}.png").read_bytes()
        assert content in inside
    for content in inside:
        image = imread(io.BytesIO(content))
        assert np.ptp(image[..., :3]) > 0.5


def test_provenance_names_seeds_versions_and_hashes(folder, page):
    text = Reader(page).text
    assert "seed 7" in text
    assert "seed 3" in text
    assert "numpy " in text
    assert read_manifest(folder / "atlas", "cluster").inputs["encode"] in text


def test_equal_studies_give_equal_bytes(folder, report, tmp_path, write_study):
    other = write_report(write_study(tmp_path / "elsewhere"))
    assert other == tmp_path / "elsewhere" / "report" / "index.html"
    for name in [*read_manifest(report.parent, "report").files, "manifest.json"]:
        assert (other.parent / name).read_bytes() == (report.parent / name).read_bytes(), name


def test_a_report_is_made_again_when_the_study_changed(folder, report, tmp_path, write_study):
    copy = tmp_path / "report"
    shutil.copytree(report.parent, copy)
    (copy / "figures" / "head_maps.png").unlink()
    assert write_report(folder, copy).read_bytes() == report.read_bytes()
    other = write_study(tmp_path / "b", prompts=12)
    write_report(other, copy)
    assert "96 patterns of 12 prompts" in (copy / "index.html").read_text()
    read_manifest(copy, "report")


def test_a_broken_study_leaves_the_earlier_report(tmp_path, write_study):
    study = write_study(tmp_path, prompts=8)
    page = write_report(study)
    before = page.read_bytes()
    manifest_path(study / "atlas").unlink()
    with pytest.raises(Exception, match="finished cluster artifact"):
        write_report(study)
    assert page.read_bytes() == before


def test_strangers_text_stays_text(tmp_path, write_study):
    study = write_study(
        tmp_path,
        prompts=8,
        tokens=["<fim_prefix>", EVIL, "\x00", "<fim_suffix>", "\n"],
        path=f"src/{EVIL}",
        names=(EVIL, "b", "c", "d"),
        model=EVIL,
    )
    page = write_report(study).read_text(encoding="utf-8")
    reader = check(page)
    assert reader.text.count("<script>alert(1)</script>") >= 4
    assert "<script" not in page
    assert "49" not in re.findall(r"onerror=alert\(2\)&gt;.{0,40}", page)[0]


def test_a_study_without_clusters(tmp_path, write_study):
    page = write_report(write_study(tmp_path, clustered=False)).read_text(encoding="utf-8")
    text = check(page).text
    assert "No cluster was found" in text
    assert "Figure 10" in text


def test_a_study_without_exemplars(tmp_path, write_study):
    text = check(write_report(write_study(tmp_path, exemplars=0.0)).read_text(encoding="utf-8")).text
    assert "none kept" in text


@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (40, 48)])
def test_grids_of_small_and_large_models(tmp_path, layers, heads, write_study):
    page = write_report(
        write_study(tmp_path, prompts=4, layers=layers, heads=heads, exemplars=0.01, shard=2)
    ).read_text(encoding="utf-8")
    check(page)
    grid = re.search(r'<table class="heads.*?</table>', page, re.S)[0]
    assert grid.count("<td>") == layers * heads
    assert grid.count('<th scope="row">') == layers


def tag_rows(layers, heads, name="columns on ';'"):
    where = [(layer, head) for layer in range(layers) for head in range(heads)][:-1]
    same = {"strength": 0.8, "reason": "", "unstable": False, "measured": "diffuse", "coordinates": [0.0, 1.0]}
    seen = {"cluster": 0, "model": "opt", "prompt": 12, "path": "src/A.java", "task": "eol", "layer": 3, "head": 5}
    same |= {"stability": 0.73, "exemplars": [seen | {"variant": "first 40 tokens", "distance": 0.41}]}
    same |= {"structure": 20.0, "nearest": ["previous token", "self"], "distances": [1.74, 3.0]}
    same |= {f"score_{score}": 0.1 for score in SCORES} | {"sinks": [3, 0], "sink_tokens": [";\n", "<fim_prefix>"]}
    kinds = [(layer + head) % 3 for layer, head in where]
    rows = [
        {"layer": layer, "head": head, "cluster": kind - 1, "name": name if kind else "unknown", **same}
        for (layer, head), kind in zip(where, kinds, strict=True)
    ]
    assert set(rows[0]) == set(TAGS.names)
    return rows


def cells(page, header):
    """A column of the list of heads."""
    (table,) = (table for table in re.findall(r"<table.*?</table>", page, re.S) if f"{header}</th>" in table)
    place = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table, re.S).index(header)
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", table, re.S)[1:]]
    return [row[place] for row in rows]


def test_a_tag_page_flags_unstable_clusters_in_both_lists():
    rows = [row | {"unstable": row["cluster"] == 1} for row in tag_rows(3, 2)]
    said = {"predicted": "c", "expected": "c", "outcome": "correct"}
    page = tag_page(title="t", tokens=["a", "b"], rows=rows, heads_by_layer=[2] * 3, **said).decode()
    flags = {(int(row["cluster"]), row["unstable"]) for row in rows if row["cluster"] >= 0}
    assert flags == {(0, False), (1, True)}
    names, listed = (table for table in re.findall(r"<table.*?</table>", page, re.S) if "cluster</th>" in table)
    assert names.count("(unstable)") == 1
    assert listed.count("(unstable)") == sum(row["unstable"] for row in rows)


def test_a_tag_page_has_the_nearest_cluster_of_unknown_heads():
    rows = tag_rows(2, 2)
    rows[0] |= {"name": "unstructured", "cluster": -1, "exemplars": []}
    rows[2] |= {"name": "uniform", "cluster": -1, "nearest": [], "distances": []}
    said = {"predicted": "c", "expected": "c", "outcome": "correct"}
    page = tag_page(title="t", tokens=["a", "b"], rows=rows, heads_by_layer=[2, 2], **said).decode()
    assert [row["cluster"] for row in rows] == [-1, 0, -1]
    assert "fitted on" not in page
    noted = tag_page(title="t", tokens=["a"], rows=rows, heads_by_layer=[2, 2], **said, note="fitted on <b>other</b>")
    assert b'<p class="note">fitted on &lt;b&gt;other&lt;/b&gt;</p>' in noted
    assert cells(page, "nearest") == ["previous token (1.7 radii)", "\u2013", "\u2013"]
    assert cells(page, "strength") == ["80.0%"] * 3
    assert check(page).text.count("unstructured") == 3, "in the grid, in the list and among the names"
    assert "2 of 3" not in check(page).text and "1 of 3" in check(page).text


@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (6, 12), (40, 48)])
def test_a_tag_page(layers, heads):
    tokens = ["<fim_prefix>", "int x = ", "<fim_suffix>", ";\n", "<fim_middle>"]
    rows = tag_rows(layers, heads)
    texts = {"title": "Main.java, line 3", "predicted": "\n", "expected": " 1", "outcome": "incorrect"}
    page = tag_page(tokens=tokens, rows=rows, heads_by_layer=[heads] * layers, **texts).decode()
    text = check(page).text
    assert "Main.java, line 3" in text
    assert "columns on ';'" in text
    assert "3 ;\u21b5, 0 <fim_prefix>" in text
    assert "\u24231" in text
    assert "the model says (incorrect)" in text
    assert f"{sum(row['cluster'] >= 0 for row in rows)} of {len(rows)}" in text
    code = re.search(r"<pre class=\"code\">.*?</pre>", page, re.S)[0]
    assert re.search(r"fim_suffix&gt;</span><mark", code)  # the hole is the completion position
    grid = re.search(r'<table class="heads.*?</table>', page, re.S)[0]
    assert grid.count("<td>") == layers * heads
    assert grid.count('class="none"') == 1


def test_a_tag_page_has_exemplars_in_words_and_pictures():
    rows, said = tag_rows(2, 2), {"predicted": "c", "expected": "c", "outcome": "correct"}
    rows[1] |= {"exemplars": []}
    rows[2]["exemplars"] = [rows[2]["exemplars"][0] | {"head": 6, "model": None, "path": None, "variant": None}]
    pattern = np.log(np.tril(np.full((40, 40), 0.5)), where=np.tri(40, dtype=bool), out=np.full((40, 40), -np.inf))
    given = {"title": "t", "tokens": ["a"], "rows": rows, "heads_by_layer": [2, 2], **said}
    page = tag_page(**given, patterns={(12, 3, 5): pattern}).decode()
    text = check(page).text
    assert text.count("opt 3.5, prompt 12 of src/A.java, first 40 tokens (0.4 radii)") == 1
    assert text.count("3.6, prompt 12 (0.4 radii)") == 1
    assert page.count('alt="a pattern like that of head') == 1, "one of the two was kept"
    assert cells(page, "stability") == ["0.73"] * 3
    assert (
        "Exemplars"
        not in tag_page(**given | {"rows": [row | {"exemplars": []} for row in rows]}).decode().split("<footer>")[0]
    )


def test_a_prompt_without_sentinels_is_completed_at_its_end():
    rows = tag_rows(2, 2)
    said = {"predicted": "c", "expected": "c", "outcome": "correct"}
    page = tag_page(title="t", tokens=["a", "b"], rows=rows, heads_by_layer=[2, 2], **said)
    assert re.search(r"<code>ab<mark[^>]*>c</mark></code>", page.decode())


@pytest.mark.parametrize(
    "arranged",
    [
        "<fim_prefix> L <fim_suffix> @ R <fim_middle>",
        "<\uff5cfim\u2581begin\uff5c> L <\uff5cfim\u2581hole\uff5c> @ R <\uff5cfim\u2581end\uff5c>",
        "[SUFFIX] R [PREFIX] L @",
        "<[fim-suffix]> R <[fim-prefix]> L @ <[fim-middle]>",
        "<fim_prefix> <fim_suffix> R <fim_middle> L @",
        "<s> L @",
    ],
)
def test_the_completion_position_is_found_in_every_arrangement(arranged):
    pieces = prompt_pieces([token for token in arranged.split() if token != "@"])
    assert ["@" if piece["kind"] == "hole" else piece["text"] for piece in pieces] == arranged.split()


def test_the_answer_of_an_encoder_is_at_its_first_mask():
    tokens = ["[CLS]", " a", "[MASK]", "[MASK]", " b", "[SEP]"]
    kinds = ["sentinel", "text", "hole", "sentinel", "text", "sentinel"]
    assert [piece["kind"] for piece in prompt_pieces(tokens)] == kinds
    unanswered = prompt_pieces(tokens, answered=False)
    assert [piece["text"] for piece in unanswered] == tokens
    rows, said = tag_rows(2, 2), {"predicted": None, "expected": "c", "outcome": None}
    page = tag_page(title="t", tokens=tokens, rows=rows, heads_by_layer=[2, 2], **said).decode()
    text = check(page).text
    assert "<mark" not in page
    assert "the model says" not in text
    assert "An encoder without a head for masked tokens says nothing in their place." in text


def test_the_report_of_an_encoder_without_a_head(encoder_study):
    made = report_of(encoder_study)
    page = made.files["index.html"].decode()
    text = check(page).text
    assert "None" not in text
    assert "the model says" not in text
    assert "answers nothing, so no outcome is known" in text
    assert '<span class="sentinel">[MASK]</span>' in page
    square = imread(io.BytesIO(made.files["figures/pattern_examples.png"]))
    assert square.std() > 0.05


def test_a_hostile_tag_page():
    texts = {"title": EVIL, "predicted": EVIL, "expected": EVIL, "outcome": EVIL}
    page = tag_page(tokens=[EVIL, "\x00\ud800"], rows=tag_rows(2, 3, EVIL), heads_by_layer=[3, 3], **texts).decode()
    check(page)
    assert "<script" not in page


def test_the_report_needs_no_torch(folder, tmp_path):
    code = f"""
import sys
from pathlib import Path
from apmae.engine.report import write_report
write_report(Path({str(folder)!r}), Path({str(tmp_path)!r}))
print(sorted(set(sys.modules) & {{"torch", "transformers", "matplotlib.pyplot", "umap", "hdbscan", "sklearn"}}))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
