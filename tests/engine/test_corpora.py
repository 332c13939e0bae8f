"""Folders of tags of a real model side by side: read again, refused where they differ, printed in 80 columns."""

import json
import shutil

import pytest

from apmae.analyze.corpora import compare_corpora
from apmae.config import LocationsConfig, TagsConfig
from apmae.engine.corpora import locate_corpora, print_corpora
from apmae.engine.prompts import load_prompts
from apmae.engine.tags import tag_corpus
from apmae.errors import ArtifactError, ConfigError
from apmae.prompts.files import write_jsonl
from apmae.report.corpora import corpora_findings
from apmae.study.tags import Tags

CONFIG = LocationsConfig(permutations=40)


@pytest.fixture(scope="module")
def folders(bundled_lm, real_study, tmp_path_factory):
    home = tmp_path_factory.mktemp("corpora")
    prompts = load_prompts(real_study.folder / "prompts.parquet")
    for number, name in enumerate(("one", "two")):
        write_jsonl(home / f"{name}.jsonl", prompts[number::2][:6])
        encoder, atlas = str(real_study.folder / "encoder"), str(real_study.folder / "atlas")
        tag_corpus(bundled_lm, encoder, atlas, home / f"{name}.jsonl", home / name, TagsConfig(shard_prompts=4))
    return [home / "one", home / "two"]


def test_the_tables_are_those_of_the_analysis_and_are_read_again(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = locate_corpora(folders, tmp_path / "out", CONFIG)
    made = compare_corpora({folder.name: Tags(folder) for folder in folders}, CONFIG)
    assert all(ours.equals(theirs) for ours, theirs in zip(found, made, strict=True))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = locate_corpora(folders, tmp_path / "out", CONFIG)
    assert all(ours.equals(theirs) for ours, theirs in zip(found, again, strict=True))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(ArtifactError, match="permutations was 40, now 41"):
        locate_corpora(folders, tmp_path / "out", CONFIG.model_copy(update={"permutations": 41}))
    print_corpora(found)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    said = corpora_findings(found)
    assert len(said) == 4 and said[0].startswith("one: ") and all(line[:20] in printed for line in said)


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("lm", "expected tags with the same language model, one has .* and two has 000000000000"),
        ("atlas", "expected tags with the same atlas"),
        ("names", "expected tags with the same names of clusters, one has None"),
        ("dtype", "expected tags with the same settings, dtype is 'float32' in one and '0000"),
        ("prompts", "expected other prompts in each of one, two, two have the same"),
    ],
)
def test_tags_that_cannot_be_compared_are_refused(folders, tmp_path, role, said):
    shutil.copytree(folders[1], tmp_path / "two")
    record = json.loads((tmp_path / "two" / "manifest.json").read_text())
    part = "config" if role == "dtype" else "inputs"
    own = json.loads((folders[0] / "manifest.json").read_text())["inputs"]["prompts"]
    record[part][role] = own if role == "prompts" else "0" * 64
    (tmp_path / "two" / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=said):
        locate_corpora([folders[0], tmp_path / "two"], tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
