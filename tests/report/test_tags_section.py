"""Tags of other prompts in a study's report: what heads do there and which changed, counted by plain loops."""

import shutil
from collections import Counter

import pytest
from pages import check

from apmae.artifacts import fingerprint, read_tables
from apmae.engine.report import write_report
from apmae.report.tags_section import tags_sections
from apmae.study.reader import Study


@pytest.fixture(scope="module")
def study(real_study, real_tags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("section") / "study"
    shutil.copytree(real_study.folder, folder, ignore=shutil.ignore_patterns("report"))
    shutil.copytree(real_tags.folder, folder / "tags" / "six")
    return folder


def main_name(names):
    """The most frequent name, and its share of all."""
    known = Counter(name for name in names if name != "unknown")
    if not known:
        return None, 0.0
    name = min(known, key=lambda name: (-known[name], name))
    return name, known[name] / len(names)


def test_heads_that_changed_are_those_of_plain_loops(study, real_tags):
    opened = Study(study)
    before, here = {}, {}
    for row in opened.points.to_pylist():
        before.setdefault((row["layer"], row["head"]), []).append(opened.names[row["cluster"]].split(", ")[0])
    for row in read_tables(real_tags.folder, "tag", "tags").to_pylist():
        here.setdefault((row["layer"], row["head"]), []).append(row["name"].split(", ")[0])
    every, changed = 0, {}
    for place, names in here.items():
        then, share = main_name(before[place])
        kept = names.count(then) / len(names)
        every += share > 0.5
        if share > 0.5 and kept <= 0.5:
            changed[f"{place[0]}.{place[1]}"] = then, pytest.approx(share), pytest.approx(kept)
    (section,) = tags_sections(opened)
    assert {row[0]: row[1:4] for row in section.changed.rows} == changed and every > 5
    assert section.finding.startswith(f"Of {every} heads with one name on most of the study's patterns")
    assert f"patterns, {len(changed)} ha" in section.finding
    assert sum(row[1] for row in section.names.rows) <= 48 and section.opening.startswith("6 prompts, ")


def test_the_report_shows_them_leads_to_their_page_and_names_their_hash(study):
    page = write_report(study).read_text(encoding="utf-8")
    assert '<a href="../tags/six/index.html">' in page
    text = check(page.replace('href="../', 'href="#found" data-was="../')).text
    assert "The same heads on other prompts" in text and fingerprint(study / "tags" / "six") in text
    provenance = text.split("Provenance")[-1]
    stages = ["prompts", "train", "encode", "cluster", "tag"]
    places = [provenance.index(f"Settings, counts and inputs of {stage}") for stage in stages]
    assert places == sorted(places)
