from pathlib import Path

import pytest

from apmae.corpus.local import FolderSource
from apmae.engine.sources import Given, parse_sources
from apmae.errors import ConfigError, SourceError


def test_sources_are_of_three_kinds(tmp_path):
    given = parse_sources(["bundled", str(tmp_path)])
    assert [(type(source), source.name) for source in given.files] == [
        (FolderSource, "java"),
        (FolderSource, tmp_path.name),
    ]
    assert given == Given(files=given.expect_files())
    for name in ("mine.jsonl", "prompts.parquet"):  # whether it exists is checked when it is read
        assert parse_sources([name]) == Given(prompts=Path(name))
    assert parse_sources(["circuit:ioi", "circuit:induction"]) == Given(circuits=("ioi", "induction"))
    (tmp_path / "mine.jsonl").write_text("")
    beside = parse_sources([str(tmp_path / "mine.jsonl"), "bundled"])
    assert [source.name for source in beside.files] == ["mine.jsonl", "java"], "a file of prompts comes alone"


@pytest.mark.parametrize(
    ("sources", "kind", "message"),
    [
        ([], ConfigError, "expected sources, got none; give folders, files, zips or tars, or 'bundled'"),
        (["bundled", "nowhere"], SourceError, "expected source files at nowhere, found nothing there"),
        (["bundled", "circuit:ioi"], ConfigError, "expected circuits only, got bundled as well: make two files"),
        (["circuit:ioi", "mine.jsonl"], ConfigError, "expected circuits only, got mine.jsonl as well"),
    ],
)
def test_nothing_and_mixed_kinds_are_refused(sources, kind, message):
    with pytest.raises(kind, match=message):
        parse_sources(sources)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "circuit:ioi",
            "expected source files, got circuit:ioi: .* prompts circuit:ioi --lm MODEL .*as the only source",
        ),
        ("mine.jsonl", "expected source files, got the prompts mine.jsonl"),
    ],
)
def test_where_prompts_are_drawn_only_source_files_will_do(source, message):
    with pytest.raises(ConfigError, match=message):
        parse_sources([source]).expect_files()
