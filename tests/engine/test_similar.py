"""Similar patterns from a study, a file and memory: found again, refused before the search, printed, drawn."""

import json
import shutil

import numpy as np
import pytest

from apmae.artifacts import fingerprint, read_table
from apmae.atlas.kinds import measured_names
from apmae.config import SimilarConfig
from apmae.engine.prompts import load_prompts
from apmae.engine.similar import print_similar, similar, write_similar
from apmae.engine.similar_checks import parse_query
from apmae.errors import CaptureError, ConfigError
from apmae.lm.load import load
from apmae.lm.stream import capture_prompts
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import score
from apmae.report.similar import draw_similar
from apmae.study.reader import Study
from apmae.study.tags import Tags

CONFIG = SimilarConfig(count=5, controls=30)


@pytest.fixture(scope="module")
def encoder(real_study):
    return str(real_study.folder / "encoder")


@pytest.fixture(scope="module")
def captured(real_study):
    """The patterns of one prompt of the study, captured again."""
    study, lm = Study(real_study.folder), load(real_study.config.lm)
    prompts = load_prompts(real_study.folder / "prompts.parquet")[:1]
    (batch,) = capture_prompts(lm, prompts, real_study.config.encode.capture, size=study.encoded.counts["pattern_size"])
    return batch.patterns


@pytest.mark.parametrize("saved", ["safetensors", "npy", None])
def test_patterns_captured_elsewhere_find_themselves(real_study, encoder, captured, tmp_path, saved):
    some = captured[[3, 29, 44]]
    query = some
    if saved == "safetensors":
        some.save(tmp_path / "mine.safetensors")
        query = str(tmp_path / "mine.safetensors")
    elif saved:
        np.save(tmp_path / "mine.npy", some.probabilities())
        query = str(tmp_path / "mine.npy")
    looked = similar(query, [real_study.folder], CONFIG, encoder=encoder)
    first = [row for row in looked.found.patterns.to_pylist() if row["rank"] == 1]
    places = list(zip(some.layer.tolist(), some.head.tolist(), strict=True))
    assert [(row["prompt"], row["layer"], row["head"]) for row in first] == [(0, *place) for place in places]
    low, *_ = looked.found.usual
    assert all(row["distance"] < low / 4 and row["controls"] == 0 for row in first)
    if saved != "npy":
        assert [label.split(" (")[0] for label in looked.labels] == [f"prompt 0, head {la}.{he}" for la, he in places]
        scores = score(some)
        does = measured_names(scores.values, scores.key_kinds)
        assert [label.split(" (")[1] for label in looked.labels] == [f"{name})" for name in does]


def test_what_no_head_does_is_far(real_study, encoder):
    """Random rows: near to nothing, and said to be without structure."""
    draw = np.random.default_rng(0)
    array = np.tril(draw.random((1, 64, 64)) ** 8)
    looked = similar(
        Patterns.from_probabilities(array / array.sum(-1, keepdims=True)), [real_study.folder], CONFIG, encoder=encoder
    )
    first = looked.found.patterns.to_pylist()[0]
    assert first["distance"] > looked.found.usual[1] and first["controls"] > 0.8
    assert "have no structure" in looked.notes[0] and "64 rows" in looked.notes[-1]


def test_a_head_of_a_study(real_study, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder, outs = real_study.folder, {"json": tmp_path / "x.json", "picture": tmp_path / "x.png"}
    looked = write_similar(f"{folder}:3.5", [folder], CONFIG, **outs)
    prompts = len(load_prompts(folder / "prompts.parquet"))
    assert len(looked.labels) == prompts and looked.labels[0].startswith(f"{folder.name}:0.3.5 (")
    assert all((row["layer"], row["head"]) != (3, 5) for row in looked.found.heads.to_pylist())
    record = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda value: pytest.fail(value))
    assert record["format"] == "apmae.similar" and len(record["heads"]) == 5
    assert record["heads"][0]["mean"] == looked.found.heads["mean"][0].as_py()
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    print_similar(looked)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "over all their prompts" in printed
    one = similar(f"{folder}:1.3.5", [folder], CONFIG)
    assert one.found.patterns.equals(
        similar(f"{folder}:1.3.5", [folder], CONFIG.model_copy(update={"queries": 1})).found.patterns
    )
    print_similar(one)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and f"{folder.name}:1.3.5" in printed
    some = similar(f"{folder}:3.5", [folder], CONFIG.model_copy(update={"queries": 2}))
    assert len(some.labels) == 2 and some.notes[0].startswith(f"2 of {prompts} patterns were drawn")


def test_queries_as_users_write_them(tmp_path):
    assert parse_query("a/b:c:7.3.5")[1:] == (parse_query("a/b:c:3.5").study, 7, 3, 5)
    assert str(parse_query("a/b:c:3.5").study) == "a/b:c" and parse_query("a/b:c:3.5").prompt is None
    np.save(tmp_path / "x:1.2.npy", np.zeros(1))
    assert parse_query(str(tmp_path / "x:1.2.npy")).study is None
    with pytest.raises(CaptureError, match="expected a file of patterns at study:3, found none"):
        parse_query("study:3")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda array: np.where(np.eye(16, dtype=bool), np.nan, array), "expected finite probabilities"),
        (lambda array: array * 0.5, "expected rows that sum to 1, one is off by 0.5"),
        (lambda array: array[:, :8], r"expected probabilities of shape"),
        (lambda array: np.full((1, 16, 16), 1 / 16), "expected causal patterns for this AP-MAE, got square ones"),
        (lambda array: np.tile(np.tril(np.eye(300)), (1, 1, 1)), "at most .* rows, as the studies' are, got 300"),
    ],
)
def test_arrays_that_hold_no_such_patterns_are_refused(real_study, encoder, tmp_path, made, said):
    array = np.tril(np.ones((1, 16, 16)))
    np.save(tmp_path / "x.npy", made(array / array.sum(-1, keepdims=True)))
    with pytest.raises(CaptureError, match=said):
        similar(str(tmp_path / "x.npy"), [real_study.folder], CONFIG, encoder=encoder)


def test_square_patterns_are_refused_by_a_study_of_descriptors(real_study, tmp_path):
    for part in ("embeddings", "atlas"):
        shutil.copytree(real_study.folder / part, tmp_path / part)
    record = json.loads((tmp_path / "embeddings" / "manifest.json").read_text())
    record["counts"]["representation"] = "descriptor"
    (tmp_path / "embeddings" / "manifest.json").write_text(json.dumps(record))
    clustered = json.loads((tmp_path / "atlas" / "manifest.json").read_text())
    clustered["inputs"]["encode"] = fingerprint(tmp_path / "embeddings")
    (tmp_path / "atlas" / "manifest.json").write_text(json.dumps(clustered))
    square = Patterns.from_probabilities(np.full((1, 16, 16), 1 / 16), causal=False)
    with pytest.raises(CaptureError, match="expected causal patterns, as those of .* got square ones"):
        similar(square, [tmp_path], CONFIG)


def test_studies_that_cannot_be_compared_are_refused(real_study, encoder, captured, tmp_path):
    folder = real_study.folder
    for name, where, key, value, said in (
        ("kind", "embeddings", "representation", "cls", "the same representation"),
        ("size", "embeddings", "pattern_size", 128, "the same pattern size"),
    ):
        shutil.copytree(folder, tmp_path / name)
        path = tmp_path / name / where / "manifest.json"
        record = json.loads(path.read_text())
        record["counts"][key] = value
        path.write_text(json.dumps(record))
        atlas = tmp_path / name / "atlas" / "manifest.json"
        clustered = json.loads(atlas.read_text())
        clustered["inputs"]["encode"] = fingerprint(tmp_path / name / "embeddings")
        atlas.write_text(json.dumps(clustered))
        for query, studies in ((f"{folder}:1.3.5", [tmp_path / name]), (captured[:1], [folder, tmp_path / name])):
            with pytest.raises(ConfigError, match=f"expected studies with {said}"):
                similar(query, studies, CONFIG, encoder=encoder)
    with pytest.raises(ConfigError, match=r"expected the encoder of the studies .* is another .*--encoder"):
        similar(captured[:1], [folder], CONFIG, encoder="bundled")
    with pytest.raises(ConfigError, match=r"head with patterns in .*, 9\.1 has none"):
        similar(f"{folder}:9.1", [folder], CONFIG)
    with pytest.raises(ConfigError, match=r"expected a prompt on which head 3\.5 .*, got 999"):
        similar(f"{folder}:999.3.5", [folder], CONFIG)
    with pytest.raises(CaptureError, match="at least one pattern"):
        similar(captured[:0], [folder], CONFIG, encoder=encoder)
    assert read_table(folder / "atlas" / "points.parquet").num_rows


def test_tags_are_searched_and_asked_for_as_studies_are(real_study, real_tags):
    """The same prompt's pattern of the same head, once encoded and once tagged, is the nearest by far."""
    looked = similar(f"{real_study.folder}:1.3.5", [real_tags.folder], CONFIG)
    first = looked.found.patterns.to_pylist()[0]
    assert (first["prompt"], first["layer"], first["head"], first["study"]) == (1, 3, 5, "tags")
    assert first["distance"] < looked.found.usual[0] / 4
    back = similar(f"{real_tags.folder}:1.3.5", [real_study.folder], CONFIG)
    assert back.found.patterns.to_pylist()[0]["distance"] == pytest.approx(first["distance"], abs=1e-3)
    own = similar(f"{real_tags.folder}:3.5", [real_tags.folder, real_study.folder], CONFIG)
    assert all((row["study"], row["head"]) != ("tags", 5) or row["layer"] != 3 for row in own.found.heads.to_pylist())
    draw_similar(looked.found, looked.squares, {"tags": Tags(real_tags.folder)})
