"""The top stage on a real study: attended tokens against a capture of each prompt, resumed bytes, refusals, pages."""

import shutil

import numpy as np
import pytest
import torch

from apmae.analyze.top import prompts_of, top_prompts
from apmae.artifacts import fingerprint, read_json, read_manifest, read_table, read_tables, write_json, write_table
from apmae.config import LMConfig, TopConfig
from apmae.engine import top as engine
from apmae.engine.chosen import choose_top, print_chosen
from apmae.engine.prompts import load_prompts
from apmae.engine.report import write_report
from apmae.engine.similar_checks import named_studies
from apmae.engine.top import make_top, print_made
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.load import load
from apmae.lm.outcome import window_of
from apmae.lm.tap import capture
from apmae.schema import ATTENDED, TOP_TEXTS
from apmae.study.reader import Study

CONFIG = TopConfig(by="induction", heads=((3, 5), (1, 0)), count=2, per_decile=1, pairs=4, batch=2, shard_prompts=4)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def study(real_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("top") / "study"
    shutil.copytree(real_study.folder, folder)
    return folder


@pytest.fixture(scope="module")
def lm(real_study):
    return load(real_study.config.lm)


@pytest.fixture(scope="module")
def made(lm, study):
    return make_top(lm, study, CONFIG)


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_attended_to_is_what_a_capture_of_the_prompt_shows(lm, study, made):
    of = Study(study)
    assert made.chosen.rows.equals(top_prompts(of, CONFIG).rows) and made.attended.schema.equals(ATTENDED)
    prompts = load_prompts(study / "prompts.parquet")
    rows = {(row["prompt"], row["layer"], row["head"]): row for row in made.chosen.rows.to_pylist()}
    found = {(row["prompt"], row["layer"], row["head"]): row for row in made.attended.to_pylist()}
    assert rows.keys() == found.keys()
    for (number, layer, head), row in rows.items():
        one, ids = found[number, layer, head], window_of(lm, prompts[number], of.encoded.counts["context"]).ids
        with capture(lm.model, heads=[(layer, head)]) as tap, torch.no_grad():
            lm.model(input_ids=torch.tensor([ids]))
        array = tap.patterns.probabilities()[0][: len(ids), : len(ids)]
        np.testing.assert_allclose(one["received"], array.sum(0), rtol=5e-3, atol=5e-3)
        array[0] = 0
        for which in ("", "away_"):
            if which:
                array[:, [0, *row["sinks"]]] = 0
            pairs = list(zip(*(one[which + part] for part in ("queries", "keys", "weights")), strict=True))
            assert len(pairs) == min(4, np.count_nonzero(array))
            np.testing.assert_allclose([weight for *_, weight in pairs], [array[q, k] for q, k, _ in pairs], atol=2e-3)
            np.testing.assert_allclose(
                [weight for *_, weight in pairs], np.sort(array.ravel())[: -len(pairs) - 1 : -1], atol=2e-3
            )


def test_the_texts_are_the_tokens_that_the_study_has(study, made):
    asked = {row["prompt"]: row for row in read_tables(study / "embeddings", "encode", "prompts").to_pylist()}
    prompts = load_prompts(study / "prompts.parquet")
    assert made.texts.schema.equals(TOP_TEXTS)
    rows = made.texts.to_pylist()
    assert [row["prompt"] for row in rows] == prompts_of(made.chosen.rows)
    for row in rows:
        own = asked[row["prompt"]]
        assert row["texts"] == own["tokens"] and row["line"] == prompts[row["prompt"]].line
        assert all(row[name] == own[name] for name in ("id", "task", "path", "expected", "predicted", "outcome"))


@pytest.mark.parametrize("shards", [0, 1])
def test_a_run_that_was_killed_ends_with_the_same_bytes(lm, study, made, tmp_path, monkeypatch, shards):
    write, done = engine.attend_shard, []

    def attend_shard(shard, **some):
        if len(done) == shards:
            raise Killed
        done.append(shard)
        return write(shard, **some)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "attend_shard", attend_shard)
        with pytest.raises(Killed):
            make_top(lm, study, CONFIG, out=tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert len(kept) == 2 + 2 * shards
    make_top(lm, study, CONFIG, out=tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert bytes_of(tmp_path / "out") == bytes_of(made.page.parent)


@pytest.mark.parametrize("name", ["heads/3.5.html", "index.html", "top.parquet", "attended-00001.parquet"])
def test_a_file_that_was_damaged_is_made_again(lm, study, made, tmp_path, name):
    shutil.copytree(made.page.parent, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"cut")
    make_top(lm, study, CONFIG, out=tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(made.page.parent)


def test_asked_again_it_is_read_and_other_settings_are_refused(lm, study, made):
    before = {path: path.stat().st_mtime_ns for path in made.page.parent.iterdir()}
    again = make_top(lm, study, CONFIG)
    assert again.attended.equals(made.attended) and again.chosen.rows.equals(made.chosen.rows)
    assert {path: path.stat().st_mtime_ns for path in made.page.parent.iterdir()} == before
    assert made.page == study / "top" / "induction" / "index.html"
    assert read_manifest(made.page.parent, "top").inputs.keys() == {"encode", "cluster", "lm", "prompts"}
    with pytest.raises(ArtifactError, match=r"count was 2, now 3"):
        make_top(lm, study, CONFIG.model_copy(update={"count": 3}))


def test_values_of_ones_own_are_an_input(lm, study, tmp_path):
    points = read_table(study / "atlas" / "points.parquet", ["prompt", "layer", "head"])
    write_table(tmp_path / "effects.parquet", points.append_column("effect", points["prompt"].cast("float")))
    config = CONFIG.model_copy(update={"by": "effect", "per_decile": 0})
    made = make_top(lm, study, config, values=tmp_path / "effects.parquet")
    last = len(load_prompts(study / "prompts.parquet")) - 1
    assert {row["prompt"] for row in made.chosen.rows.to_pylist()} == {last, last - 1}
    assert "values" in read_manifest(study / "top" / "effect", "top").inputs


def test_another_model_precision_or_prompts_are_refused(lm, study, tmp_path):
    with pytest.raises(ConfigError, match=r"expected the language model that .*study was made with .*is another"):
        make_top(LMConfig(source="bundled-small" if lm.name != "bundled-small" else "bundled-medium"), study, CONFIG)
    with pytest.raises(ConfigError, match=r"with infill '.*', got 'none'; give --infill as then"):
        make_top(LMConfig(source=lm.config.source, infill="none"), study, CONFIG, out=tmp_path / "out")
    other = tmp_path / "study"
    shutil.copytree(study, other, ignore=shutil.ignore_patterns("prompts.parquet", "prompts.manifest.json", "top"))
    with pytest.raises(ArtifactError, match=r"expected the prompts of .*, found none: .*--prompts"):
        make_top(lm, other, CONFIG)
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(ConfigError, match=r"mine\.jsonl has others"):
        make_top(lm, other, CONFIG, prompts=tmp_path / "mine.jsonl")
    assert make_top(lm, other, CONFIG, prompts=study / "prompts.parquet").attended.num_rows
    assert not (tmp_path / "out").exists()


def test_the_report_shows_them_and_leads_to_the_pages(real_study, study, made):
    assert "apmae top STUDY" in (real_study.folder / "report" / "index.html").read_text()
    page = write_report(study).read_text()
    assert 'href="../top/induction/index.html"' in page and page.count('href="../top/induction/heads/3.5.html"') == 2
    first = next(row for row in made.chosen.rows.to_pylist() if (row["layer"], row["head"]) == (3, 5))
    shown = page.split('<td><a href="../top/induction/heads/3.5.html">3.5</a></td>')[1].split("</tr>")[0]
    assert f">{first['value']:.3g}<" in shown and first["task"].replace("_", " ") in shown
    assert 'href="../top/induction/heads/3.4.html"' not in page, "it has no page"
    digest = fingerprint(made.page.parent)
    assert f'<h3>top</h3>\n<p class="note"><code>top/induction/manifest.json</code>, SHA-256 <code>{digest}' in page
    manifest = made.page.parent / "manifest.json"
    text = manifest.read_text()
    cluster = read_manifest(made.page.parent, "top").inputs["cluster"]
    manifest.write_text(text.replace(cluster, "0" * 64))
    assert "induction" not in Study(study).tops, "of another atlas"
    manifest.write_text(text)


def test_the_pages_and_the_terminal_say_what_the_tables_have(study, made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    pages = {path.name: path.read_text() for path in made.page.parent.rglob("*.html")}
    assert pages.keys() == {"index.html", "3.5.html", "1.0.html"}
    assert 'href="heads/3.5.html"' in pages["index.html"] and "<script" not in "".join(pages.values())
    first = next(row for row in made.chosen.rows.to_pylist() if row["layer"] == 3)
    assert f"induction {first['value']:.3g}, rank 1" in pages["3.5.html"]
    length = next(len(row["texts"]) for row in made.texts.to_pylist() if row["prompt"] == first["prompt"])
    assert f"prompt {first['prompt']}, {length} rows. Cluster" in pages["3.5.html"]
    assert "Drawn from tenth 1<" in pages["3.5.html"] and all("default-src 'none'" in page for page in pages.values())
    print_made(study, CONFIG, made)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "Head 3.5" in printed and "attends to" in printed and "\u2192" in printed
    chosen = choose_top(study, TopConfig(by="strength"))
    print_chosen(study, TopConfig(by="strength"), chosen)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert (
        "These are the 40 heads" in printed
        and "Head 3.5" not in printed
        and "0.5 as far from it" in " ".join(printed.split())
    )


def test_prompts_of_tags_are_ordered_as_those_of_a_study(real_tags, capsys):
    config = TopConfig(by="induction", heads=((3, 5),), count=3, per_decile=0)
    chosen = choose_top(real_tags.folder, config)
    rows = read_tables(real_tags.folder, "tag", "embeddings").to_pylist()
    own = [(-row["score_induction"], row["prompt"]) for row in rows if (row["layer"], row["head"]) == (3, 5)]
    expected = [(prompt, -value) for value, prompt in sorted(own)[:3]]
    assert list(zip(*(chosen.rows[name].to_pylist() for name in ("prompt", "value")), strict=True)) == expected
    print_chosen(real_tags.folder, config, chosen)
    assert "Head 3.5" in capsys.readouterr().out


def test_the_strength_of_tags_is_how_near_they_are_to_the_centre(real_tags):
    chosen = choose_top(real_tags.folder, TopConfig(count=6, per_decile=0))
    clusters = {}
    for row in read_tables(real_tags.folder, "tag", "tags").to_pylist():
        if row["cluster"] >= 0:
            place = row["prompt"], row["layer"], row["head"]
            clusters.setdefault(row["cluster"], {})[place] = np.array(row["coordinates"], np.float64)
    found = {(row["prompt"], row["layer"], row["head"]): row["value"] for row in chosen.rows.to_pylist()}
    assert found.keys() == {place for own in clusters.values() for place in own}
    for own in clusters.values():
        centre = np.mean(list(own.values()), axis=0)
        apart = {place: np.linalg.norm(at - centre) for place, at in own.items()}
        middle = np.mean(list(apart.values()))
        for place, far in apart.items():
            assert found[place] == pytest.approx(middle / (middle + far) if middle + far else 1.0, abs=1e-4)


def test_attended_tokens_of_tags(lm, study, real_tags, tmp_path):
    """Of the same prompts, those of the study."""
    config = CONFIG.model_copy(update={"heads": ((3, 5),), "count": 6, "per_decile": 0})
    with pytest.raises(ArtifactError, match=r"expected the prompts of .*, found none: .*--prompts"):
        make_top(lm, real_tags.folder, config, out=tmp_path / "top")
    made = make_top(lm, real_tags.folder, config, out=tmp_path / "top", prompts=real_tags.prompts)
    wanted = make_top(lm, study, config.model_copy(update={"count": 1000}), out=tmp_path / "all")
    theirs = {row["prompt"]: row for row in wanted.attended.to_pylist()}
    assert made.attended.num_rows == 6
    for row in made.attended.to_pylist():
        np.testing.assert_allclose(row["received"], theirs[row["prompt"]]["received"], rtol=5e-3, atol=5e-3)
    assert set(read_manifest(tmp_path / "top", "top").inputs) == {"tag", "lm", "prompts"}


def test_tags_without_embeddings_have_no_scores(real_tags, tmp_path):
    shutil.copytree(real_tags.folder, tmp_path / "tags", ignore=shutil.ignore_patterns("embeddings-*"))
    manifest = tmp_path / "tags" / "manifest.json"
    record = read_json(manifest)
    record["files"] = {name: file for name, file in record["files"].items() if not name.startswith("embeddings-")}
    write_json(manifest, record)
    with pytest.raises(ArtifactError, match=r"expected embeddings-\*.parquet in .*tags, it was tagged without"):
        choose_top(tmp_path / "tags", TopConfig(by="induction"))
    with pytest.raises(ArtifactError, match=r"expected embeddings-\*.parquet"):
        named_studies([tmp_path / "tags"])
