"""The circuit stage on a model whose circuit is known: tables, a run stopped after any shard, tags, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from known_circuit import HEADS, LAYERS, make_known

from apmae.artifacts import read_manifest, read_tables
from apmae.config import PatchingConfig
from apmae.engine import circuit as engine
from apmae.engine.circuit import find_circuit
from apmae.engine.circuit_checks import circuit_lm, circuit_task, expect_counterfactuals
from apmae.engine.prompts import load_prompts
from apmae.errors import ArtifactError, CaptureError, ConfigError, ModelError, SourceError
from apmae.lm.load import load_lm
from apmae.lm.pairs import Batch, pairs_of
from apmae.lm.patching import patch_each, see_clean
from apmae.prompts.files import write_jsonl
from apmae.schema import CIRCUIT_EFFECTS, CIRCUIT_PAIRS, CIRCUIT_SCORES

CONFIG = PatchingConfig(share=0.2, context=24, batch=3, shard_pairs=4, exact="all", edge_heads=3, resamples=50)
PAIRS = 10


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A model, its prompts under two tasks, and two prompts without a counterfactual or of another length."""
    made = make_known(tmp_path_factory.mktemp("known"), seed=3, pairs=PAIRS)
    prompts = load_prompts(made.prompts)
    mixed = [replace(prompt, task=f"task-{number % 2}") for number, prompt in enumerate(prompts)]
    longer = replace(prompts[0], id="longer", counterfactual=f"w1 {prompts[0].counterfactual}")
    write_jsonl(made.prompts, [*mixed, replace(prompts[0], id="plain", counterfactual=None), longer])
    return made, load_lm(made.folder)


@pytest.fixture(scope="module")
def found(known, tmp_path_factory):
    made, lm = known
    out = tmp_path_factory.mktemp("circuit") / "out"
    return find_circuit(lm, made.prompts, out, CONFIG, json=out.parent / "circuit.json"), out


def files_of(folder):
    """Everything but the manifest, which has the time that the run took."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_tables_are_what_each_pair_shows_alone(known, found):
    made, lm = known
    pairs, _ = pairs_of(lm, load_prompts(made.prompts), 24)
    assert [pair.prompt.task for pair in pairs] == ["task-0"] * 5 + ["task-1"] * 5
    scores, effects, rows = (read_tables(found[1], "circuit", name) for name in ("scores", "effects", "pairs"))
    schemas = (scores.schema, effects.schema, rows.schema)
    assert all(own.equals(k) for own, k in zip(schemas, (CIRCUIT_SCORES, CIRCUIT_EFFECTS, CIRCUIT_PAIRS), strict=True))
    heads = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    for number, pair in enumerate(pairs):
        single = Batch(lm, [pair])
        own = effects["effect"].to_numpy().reshape(PAIRS, -1)[number]
        np.testing.assert_allclose(own, patch_each(single, heads)[0], atol=1e-3)
        flow = scores["flow"].to_numpy().reshape(PAIRS, -1)[number]
        np.testing.assert_allclose(flow, see_clean(single).flow[0], atol=1e-5)
        row = rows.slice(number, 1).to_pylist()[0]
        assert (row["id"], row["task"], row["group"]) == (pair.prompt.id, pair.prompt.task, pair.prompt.path)
        assert (row["tokens"], row["changed"]) == (len(pair.clean.ids), 2) and row["clean"] > 1 > row["counterfactual"]


def test_the_circuit_is_on_top_in_each_task_and_its_edges_too(known, found):
    (before, induction, copy), circuit = known[0].circuit, found[0]
    for task in ("task-0", "task-1"):
        rows = [row for row in circuit.heads.to_pylist() if row["task"] == task]
        best = {(row["layer"], row["head"]) for row in rows if row["rank"] <= 3}
        assert len(rows) == LAYERS * HEADS and best == set(known[0].circuit)
        assert sum(row["shortlisted"] for row in rows) == 5, "a fifth of 21, rounded up"
        edges = [row for row in circuit.edges.to_pylist() if row["task"] == task]
        ends = [((row["layer"], row["head"]), (row["to_layer"], row["to_head"])) for row in edges]
        assert set(ends[:2]) == {(before, induction), (induction, copy)} and len(ends) == 3
    assert [row["halves_10"] is not None for row in circuit.tasks.to_pylist()] == [True, True]
    counts = circuit.counts
    assert counts["pairs"] == {"task-0": 5, "task-1": 5}
    assert counts["left_out"] == {
        "have no counterfactual": 1, "have a counterfactual of another number of tokens": 1,
    }  # fmt: skip
    assert (counts["forwards"], counts["forwards_all"], counts["patched"]) == (4 + 2 + 5, 23, 21)
    assert counts["seconds"].keys() == {"flow", "attribution", "patch"}
    record = json.loads((found[1].parent / "circuit.json").read_text())
    assert record["heads"] == circuit.heads.to_pylist() and record["counts"]["lm"] == counts["lm"]
    assert any("no intervals, because the prompts come from 5 groups" in line for line in record["findings"])
    assert all(row["low"] is None for row in circuit.heads.to_pylist())


@pytest.mark.parametrize("killed", ["scores_shard", "effects_shard", "edges_shard", "_write_tables"])
def test_a_run_that_was_killed_ends_with_the_same_bytes(known, found, tmp_path, monkeypatch, killed):
    made, lm = known
    work, done = getattr(engine, killed), []

    def stops(*arguments, **some):
        if killed == "_write_tables" or done:
            raise Killed
        done.append(1)
        return work(*arguments, **some)

    with monkeypatch.context() as patch:
        patch.setattr(engine, killed, stops)
        with pytest.raises(Killed):
            find_circuit(lm, made.prompts, tmp_path / "out", CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert kept and not (tmp_path / "out" / "manifest.json").exists()
    find_circuit(lm, made.prompts, tmp_path / "out", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert files_of(tmp_path / "out") == files_of(found[1])


def test_a_second_run_reads_and_other_settings_are_refused(known, found):
    made, lm = known
    circuit, out = found
    again = find_circuit(lm, made.prompts, out, CONFIG)
    assert again.heads.equals(circuit.heads) and again.counts == circuit.counts
    with pytest.raises(ArtifactError, match="direction was 'noising', now 'denoising'"):
        find_circuit(lm, made.prompts, out, CONFIG.model_copy(update={"direction": "denoising"}))


def test_damaged_files_are_made_again(known, found, tmp_path):
    from shutil import copytree

    made, lm = known
    copytree(found[1], tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    for name in ("effects-00001.parquet", "recall.parquet", "exports/task-0.eap_ig.json"):
        (tmp_path / "out" / name).write_bytes(b"")
    find_circuit(lm, made.prompts, tmp_path / "out", CONFIG)
    assert files_of(tmp_path / "out") == files_of(found[1])
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_shortlist_alone_gives_the_same_effects_and_no_recall(known, found, tmp_path):
    made, lm = known
    config = PatchingConfig(context=24, batch=3, filter="flow", share=0.5, resamples=50)
    some = find_circuit(lm, made.prompts, tmp_path / "out", config)
    assert some.recall.num_rows == some.edges.num_rows == 0
    assert read_manifest(tmp_path / "out", "circuit").counts["patched"] == 11
    for row, own in zip(found[0].heads.to_pylist(), some.heads.to_pylist(), strict=True):
        if own["shortlisted"]:
            assert own["effect"] == pytest.approx(row["effect"], abs=1e-3)
        else:
            assert own["effect"] is own["rank"] is own["share"] is None
    assert set(known[0].circuit) <= {(r["layer"], r["head"]) for r in some.heads.to_pylist() if r["shortlisted"]}


def test_single_heads_are_patched_and_those_that_do_not_exist_refused(known, tmp_path):
    made, lm = known
    config = PatchingConfig(context=24, exact=((2, 1), (0, 3)), resamples=50)
    rows = find_circuit(lm, made.prompts, tmp_path / "out", config).heads.to_pylist()
    assert {(row["layer"], row["head"]) for row in rows if row["effect"] is not None} == {(0, 3), (2, 1)}
    with pytest.raises(CaptureError, match=r"got \(3, 0\)"):
        find_circuit(lm, made.prompts, tmp_path / "none", PatchingConfig(context=24, exact=((3, 0),)))
    assert not (tmp_path / "none").exists()


def test_tags_say_which_heads_change_their_cluster(bundled_lm, tmp_path):
    """Against the tags of both texts, one prompt at a time."""
    from apmae.atlas.atlas import Atlas
    from apmae.engine.tag import tag_prompt
    from apmae.model.mae import APMAE
    from apmae.prompts.circuits import circuit_prompts

    prompts = circuit_prompts("induction", bundled_lm.backend_tokenizer, count=2)
    write_jsonl(tmp_path / "pairs.jsonl", prompts)
    config = PatchingConfig(filter="tags", share=0.05, resamples=50)
    find_circuit(bundled_lm, tmp_path / "pairs.jsonl", tmp_path / "out", config, tags=("bundled", "bundled"))
    found = read_tables(tmp_path / "out", "circuit", "scores")["tags"].to_numpy().reshape(2, 48)
    mae, atlas = APMAE.from_pretrained("bundled"), Atlas.load("bundled")
    for number, prompt in enumerate(prompts):
        sides = [
            tag_prompt(bundled_lm, replace(prompt, prefix=prefix), mae=mae, atlas=atlas).tags["cluster"].to_numpy()
            for prefix in (prompt.prefix, prompt.counterfactual)
        ]
        assert (found[number] == (sides[0] != sides[1])).mean() > 0.95, "but for rounding in another batch"
    assert 0 < found.mean() < 0.5


def test_what_has_no_pairs_is_refused(known, bundled_lm, encoder_folder, train_prompts, tmp_path):
    made, lm = known
    with pytest.raises(SourceError, match="none of 8 has both"):
        expect_counterfactuals(train_prompts)
    with pytest.raises(SourceError, match="found none .8 have no counterfactual"):
        find_circuit(bundled_lm, train_prompts, tmp_path / "out")
    with pytest.raises(ConfigError, match="expected --atlas for the filter 'tags'"):
        find_circuit(lm, made.prompts, tmp_path / "out", PatchingConfig(filter="tags"))
    with pytest.raises(ModelError, match="is an encoder; take a decoder"):
        find_circuit(load_lm(encoder_folder("bert")), made.prompts, tmp_path / "out")
    with pytest.raises(CaptureError, match="24 positions, got 256"):
        find_circuit(lm, made.prompts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_gives_its_prompts_and_says_if_the_model_is_another(real_study, known):
    from apmae.config import LMConfig

    own = circuit_task(real_study.folder, None, None, real_study.config.lm)
    assert (own.prompts, own.out) == (real_study.folder / "prompts.parquet", real_study.folder / "circuit")
    assert own.note == ""
    another = LMConfig(source=str(known[0].folder))
    with pytest.raises(ConfigError, match="expected the study's model, bundled, got .*: give it with --out"):
        circuit_task(real_study.folder, None, None, another)
    other = circuit_task(real_study.folder, None, real_study.folder / "mine", another)
    assert other.note.startswith("The study is of bundled") and "those of the other model" in other.note
    assert circuit_lm(real_study.folder, None, {}) == real_study.config.lm
    assert circuit_lm(real_study.folder, None, {"dtype": "bfloat16"}).dtype == "bfloat16"
    assert circuit_lm(real_study.folder, "./mine", {}).source == "./mine"
    assert circuit_lm(None, None, {}).source == "bundled"
    with pytest.raises(ConfigError, match="made stage by stage; give its language model"):
        circuit_lm(known[0].folder, None, {})
    with pytest.raises(ConfigError, match="expected a study, or --prompts with counterfactuals and --out"):
        circuit_task(None, known[0].prompts, None, real_study.config.lm)


def test_the_report_of_a_study_has_a_section(real_study, found, tmp_path):
    from shutil import copytree

    from apmae.engine.report import write_report

    folder = tmp_path / "study"
    copytree(real_study.folder, folder)
    assert "Heads that carry a task" not in write_report(folder).read_text()
    copytree(found[1], folder / "circuit")
    page = write_report(folder).read_text()
    assert "Heads that carry a task" in page and "no intervals, because the prompts come from 5 groups" in page
    names = {path.name for part in ("figures", "tables") for path in (folder / "report" / part).iterdir()}
    assert {"circuit.png", "circuit.csv", "circuit_recall.csv", "circuit_edges.csv"} <= names
