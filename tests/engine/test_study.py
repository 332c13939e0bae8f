"""All stages of a study together: what is reused, what is made again, and what is refused."""

import json
import shutil
from pathlib import Path

import duckdb
import pytest

from apmae.artifacts import fingerprint, read_json, read_manifest, read_table
from apmae.config import EncodeConfig, PromptsConfig, StudyConfig
from apmae.engine import study
from apmae.errors import ArtifactError, ConfigError

TINY = PromptsConfig(per_task=3, tasks=("identifier", "eol"))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def copy(real_study, tmp_path):
    """A copy of the study to write in."""
    folder = tmp_path / "study"
    shutil.copytree(real_study.folder, folder)
    return folder


def config_of(real_study, folder, **changes):
    return StudyConfig(**{**real_study.config.model_dump(), "out": folder, **changes})


def test_a_finished_study_is_reused_whole(real_study, copy):
    before = {path: when for path, when in files(copy).items() if path.suffix != ".html" and "report" not in path.parts}
    page = study.run_study(config_of(real_study, copy))
    after = files(copy)
    changed = {path.name for path, when in before.items() if after[path] != when}
    assert changed <= {"study.json"}
    assert page == copy / "report" / "index.html"
    assert read_json(copy / "study.json")["out"] == str(copy)


def test_stages_after_a_lost_one_are_reused_if_it_comes_out_the_same(real_study, copy):
    prompts = (copy / "prompts.parquet").read_bytes()
    for name in ("prompts.parquet", "prompts.manifest.json"):
        (copy / name).unlink()
    kept = files(copy / "embeddings")
    study.run_study(config_of(real_study, copy))
    assert (copy / "prompts.parquet").read_bytes() == prompts
    assert files(copy / "embeddings") == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": {"per_task": 7}}, r"prompts.parquet was made with .*config.per_task was 6, now 7"),
        ({"train": {"steps": 30}}, r"encoder was made with .*config.steps was 20, now 30"),
        ({"encode": {"seed": 5}}, r"embeddings was made with .*config.seed was 0, now 5"),
        ({"atlas": {"neighbors": 9}}, r"atlas was made with .*config.neighbors was 15, now 9"),
    ],
)
def test_a_study_whose_configuration_changed_is_refused_and_loses_nothing(real_study, copy, change, message):
    values = real_study.config.model_dump()
    for section, fields in change.items():
        values[section] = {**values[section], **fields}
    before = files(copy)
    with pytest.raises(ArtifactError, match=message):
        study.run_study(StudyConfig(**{**values, "out": copy}))
    assert files(copy) == before


def test_a_study_takes_anyones_prompts(real_study, copy, tmp_path):
    rows = [{"prompt": "int a = ", "completion": "1", "suffix": ";\n"}, {"prompt": "String s = ", "completion": '"x"'}]
    jsonl = tmp_path / "mine.jsonl"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = StudyConfig(
        out=tmp_path / "own",
        sources=(str(jsonl),),
        encoder=str(copy / "encoder"),
        encode=EncodeConfig(exemplars_per_head=1),
    )
    page = study.run_study(config)
    assert page.is_file()
    assert not (tmp_path / "own" / "prompts.parquet").exists()
    encoded = read_manifest(tmp_path / "own" / "embeddings", "encode")
    assert (encoded.counts["prompts"], encoded.counts["patterns"]) == (2, 96)
    assert encoded.inputs["prompts"] == fingerprint(jsonl)


def test_duckdb_opens_a_study_directly(real_study, monkeypatch):
    monkeypatch.chdir(real_study.folder)
    with duckdb.connect() as database:
        named = database.execute("""
            SELECT c.name, count(*) AS patterns, any_value(c.size), avg(p.max_probability), avg(e.score_previous)
            FROM 'atlas/points.parquet' AS a
            JOIN 'atlas/clusters.parquet' AS c USING (cluster)
            JOIN 'embeddings/prompts-*.parquet' AS p USING (prompt)
            JOIN 'embeddings/embeddings-*.parquet' AS e USING (prompt, layer, head)
            GROUP BY c.cluster, c.name
        """).fetchall()
        total, points = database.execute(
            "SELECT (SELECT count(*) FROM 'embeddings/embeddings-*.parquet'), "
            "(SELECT count(*) FROM 'atlas/points.parquet')"
        ).fetchone()
        tasks = database.execute("SELECT DISTINCT task FROM 'prompts.parquet' ORDER BY 1").fetchall()
    assert total == points == 12 * 48
    assert tasks == [("closing_bracket",), ("identifier",)]
    assert len(named) == read_manifest(real_study.folder / "atlas", "cluster").counts["clusters"]
    for _, patterns, size, probability, _ in named:
        assert patterns == size
        assert 0 < probability <= 1


def test_points_are_the_embeddings_rows_in_order(real_study):
    points = read_table(real_study.folder / "atlas" / "points.parquet")
    with duckdb.connect() as database:
        rows = database.execute(
            f"SELECT prompt, layer, head, task, outcome FROM '{real_study.folder}/embeddings/embeddings-*.parquet' "
            "ORDER BY filename, file_row_number",
        ).fetchall()
    ours = points.select(["prompt", "layer", "head", "task", "outcome"]).to_pylist()
    assert [tuple(row.values()) for row in ours] == rows


def test_prompts_of_ones_own_cannot_train_an_encoder_and_no_model_is_loaded_to_say_so(real_study, tmp_path):
    config = config_of(real_study, tmp_path / "out", sources=("mine.jsonl",), lm=str(tmp_path / "no-model"))
    with pytest.raises(ConfigError, match="expected source files, got the prompts mine.jsonl"):
        study.run_study(config)
    assert not (tmp_path / "out").exists()
