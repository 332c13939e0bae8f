"""The prune stage: heads are ranked on one half, it resumes to the same bytes, and the saved model is the edit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from apmae.ablation import Windows
from apmae.analyze.pruning import order_of, pruned_heads
from apmae.artifacts import read_manifest, read_table, read_tables
from apmae.config import LMConfig, PruneConfig
from apmae.engine import pruning as engine
from apmae.engine.ablation import read_means
from apmae.engine.prompts import load_prompts
from apmae.engine.pruned import save_pruned, saved_lines
from apmae.engine.pruning import prune
from apmae.engine.pruning_checks import PRUNED_FILE, Saving
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.edit import edit
from apmae.lm.importance import importance_of
from apmae.lm.load import load_lm
from apmae.lm.outcome import window_of
from apmae.lm.removal import Removal, replies_under
from apmae.prompts.files import write_jsonl
from apmae.schema import HEAD_READINGS, PRUNED_SETS, PRUNING, RANKED_HEADS, REMOVED

CONFIG = PruneConfig(context=64, batch=3, shard_prompts=4, doses=(6, 24), draws=2, every=2)
PROMPTS = 8


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def path(real_study, tmp_path_factory):
    """Prompts of several lengths, half of them correct, each of a file of its own."""
    path = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    prompts = load_prompts(real_study.folder / "prompts.parquet")
    named = {name: [own for own in prompts if own.outcome == name] for name in ("correct", "incorrect")}
    right, wrong = (own[: PROMPTS // 2] for own in named.values())
    mixed = [own for pair in zip(right, wrong, strict=True) for own in pair]
    own = [replace(one, path=f"{n}.java", suffix=(one.suffix or "")[: 40 + 30 * n]) for n, one in enumerate(mixed)]
    write_jsonl(path, own)
    return path


@pytest.fixture(scope="module")
def made(bundled_lm, path, tmp_path_factory):
    out = tmp_path_factory.mktemp("prune") / "out"
    prune(bundled_lm, path, out, CONFIG)
    return out


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def halves_of(made):
    measured = sorted(set(read_tables(made, "prune", "removed")["prompt"].to_pylist()))
    return [number for number in range(PROMPTS) if number not in measured], measured


def reply(lm, path, number, edits):
    window = window_of(lm, load_prompts(path)[number], 64)
    return replies_under(lm, [window], lambda _rows: edits, every=2)[0]


def test_scores_are_of_the_ranking_half_alone(bundled_lm, path, made):
    ranking, measured = halves_of(made)
    counts = read_manifest(made, "prune").counts
    assert (counts["ranking"], counts["measuring"]) == (len(ranking), len(measured))
    readings = read_tables(made, "prune", "readings")
    assert readings.schema.equals(HEAD_READINGS) and readings.num_rows == len(ranking) * 48
    means = read_means(made / "means.safetensors")
    prompts = load_prompts(path)
    for number in ranking:
        own = importance_of(bundled_lm, [window_of(bundled_lm, prompts[number], 64)], means)
        rows = readings.filter(np.array(readings["prompt"]) == number)
        np.testing.assert_allclose(rows["gradient"], own.gradient[0], atol=1e-3)
        np.testing.assert_allclose(rows["attribution"], own.attribution[0], atol=1e-3)
        assert np.all(np.array(rows["first_token"]) <= 1)


def test_the_exact_ranking_is_what_each_removal_costs(bundled_lm, path, made):
    ranking, _ = halves_of(made)
    alone = read_tables(made, "prune", "alone")
    assert alone.schema.equals(REMOVED) and set(alone["prompt"].to_pylist()) == set(ranking)
    ranked = read_table(made / "rankings.parquet")
    assert ranked.schema.equals(RANKED_HEADS)
    rows = [row for row in ranked.to_pylist() if row["ranking"] == "exact"]
    means = read_means(made / "means.safetensors")
    for row in rows[::16]:
        head = row["layer"], row["head"]
        costs = [
            reply(bundled_lm, path, number, {}).log_probability
            - reply(bundled_lm, path, number, {head: means[head]}).log_probability
            for number in ranking
        ]
        assert row["score"] == pytest.approx(np.mean(costs), abs=2e-3)
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)


def test_sets_are_removed_on_the_other_half(bundled_lm, path, made):
    _, measured = halves_of(made)
    sets, removed = read_table(made / "sets.parquet"), read_tables(made, "prune", "removed")
    curves = read_table(made / "pruning.parquet")
    assert sets.schema.equals(PRUNED_SETS) and curves.schema.equals(PRUNING)
    distinct = pruned_heads(sets)
    assert removed.num_rows == len(distinct) * len(measured)
    means = read_means(made / "means.safetensors")
    for row in removed.to_pylist()[::41]:
        own = reply(bundled_lm, path, row["prompt"], {head: means[head] for head in distinct[row["set"]]})
        assert row["log_probability"] == pytest.approx(own.log_probability, abs=2e-3)
        assert row["correct"] == own.answer.correct
    names = ["exact", "gradient", "attribution", "flow", "first_token", "weight"]
    assert list(dict.fromkeys(curves["ranking"].to_pylist())) == ["exact", "random", *names[1:]]
    found = read_manifest(made, "prune").counts
    assert found["left_out"] == {"unknown": "no study of this model gives tags"}


def test_a_study_says_which_heads_are_unknown(real_study, bundled_lm, tmp_path):
    from apmae.study.reader import Study

    config = PruneConfig(rankings=("unknown", "weight"), doses=(6,), draws=2, context=64)
    prompts = real_study.folder / "prompts.parquet"
    found = prune(bundled_lm, prompts, tmp_path / "out", config, study=real_study.folder)
    assert found.rankings == ["unknown", "weight"] and found.counts["left_out"] == {}
    points = Study(real_study.folder).points.to_pylist()
    measured = set(read_tables(tmp_path / "out", "prune", "removed")["prompt"].to_pylist())
    rows = [row for row in found.ranked.to_pylist() if row["ranking"] == "unknown"]
    for row in rows[::10]:
        own = [p for p in points if p["prompt"] not in measured]
        own = [p for p in own if (p["layer"], p["head"]) == (row["layer"], row["head"])]
        assert row["score"] == pytest.approx(np.mean([p["cluster"] == -1 for p in own]))
    assert "cluster" in read_manifest(tmp_path / "out", "prune").inputs
    with pytest.raises(ConfigError, match=r"rankings that can be made, unknown \(no study of this model gives tags\)"):
        prune(bundled_lm, prompts, tmp_path / "alone", config)


@pytest.mark.parametrize(("function", "shards"), [("readings_shard", 0), ("removed_shard", 1)])
def test_a_run_that_was_killed_ends_with_the_same_bytes(
    bundled_lm, path, made, tmp_path, monkeypatch, function, shards
):
    write, done = getattr(engine, function), []

    def shard_of(shard, **some):
        if len(done) == shards:
            raise Killed
        done.append(shard)
        return write(shard, **some)

    with monkeypatch.context() as patch:
        patch.setattr(engine, function, shard_of)
        with pytest.raises(Killed):
            prune(bundled_lm, path, tmp_path / "out", CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert kept and not (tmp_path / "out" / "manifest.json").exists()
    found = prune(bundled_lm, path, tmp_path / "out", CONFIG, json=tmp_path / "found.json")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert bytes_of(tmp_path / "out") == bytes_of(made)
    assert json.loads((tmp_path / "found.json").read_text())["curves"] == found.curves.to_pylist()


@pytest.fixture(scope="module")
def saved(bundled_lm, path, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    return folder, save_pruned(bundled_lm, path, made, Saving(folder, 12, "gradient"))


@torch.no_grad()
def test_the_saved_model_is_the_edit(bundled_lm, path, made, saved):
    folder, record = saved
    heads = order_of(read_table(made / "rankings.parquet"), "gradient")[:12]
    assert record["heads"] == sorted(map(list, heads)) and record["mode"] == "mean" and not record["taken_out"]
    assert json.loads((folder / PRUNED_FILE).read_text()) == record
    lm = load_lm(folder, check=False)
    means = read_means(made / "means.safetensors")
    window = window_of(bundled_lm, load_prompts(path)[2], 64)
    ids = torch.tensor([window.ids])
    with edit(bundled_lm.model, {head: means[head] for head in heads}):
        expected = bundled_lm.model(input_ids=ids).logits
    torch.testing.assert_close(lm.model(input_ids=ids).logits, expected, atol=1e-3, rtol=1e-3)
    text = "int x = foo(1);\n"
    assert lm.tokenizer(text).input_ids == bundled_lm.tokenizer(text).input_ids
    assert lm.sentinels == bundled_lm.sentinels
    assert not [own.name for own in folder.parent.iterdir() if own.name != "model"], "nothing else is left"
    assert all(own.suffix not in (".bin", ".pt", ".pkl") for own in folder.iterdir())


def test_its_record_says_what_was_measured(bundled_lm, path, made, saved):
    folder, record = saved
    _, measured = halves_of(made)
    heads = {tuple(head) for head in record["heads"]}
    means = read_means(made / "means.safetensors")
    right = [reply(bundled_lm, path, n, {h: means[h] for h in heads}).answer.correct for n in measured]
    before = [reply(bundled_lm, path, n, {}).answer.correct for n in measured]
    accuracy = record["accuracy"]
    assert (accuracy["pruned"], accuracy["original"]) == pytest.approx((np.mean(right), np.mean(before)))
    assert accuracy["prompts"] == len(measured) == accuracy["groups_of_files"]
    size, seconds = record["size"], record["seconds_per_forward"]
    assert size["pruned"] == size["original"], "zeroed heads are still there"
    assert 0 < seconds["ratio_least"] <= seconds["ratio"] <= seconds["ratio_most"]
    card = (folder / "README.md").read_text()
    assert "without 12 of its 48" in card and "ranking `gradient`" in card and record["zeroed_because"] in card
    assert any("zeroed (" in line for line in saved_lines(record, folder))


def test_even_choices_are_taken_out(bundled_lm, path, made, tmp_path):
    saving = Saving(tmp_path / "model", 12, "attribution", even=True)
    record = save_pruned(bundled_lm, path, made, saving)
    assert record["taken_out"] and record["size"]["pruned"]["parameters"] < record["size"]["original"]["parameters"]
    lm = load_lm(tmp_path / "model")
    assert lm.heads == dict.fromkeys(range(6), 6) and len(record["heads"]) == 12
    with pytest.raises(ConfigError, match="got 13; the nearest: 12 or 24. Or leave out --even"):
        save_pruned(bundled_lm, path, made, Saving(tmp_path / "other", 13, None, even=True))


def test_folders_are_not_overwritten(bundled_lm, path, made, saved, tmp_path):
    folder, _ = saved
    with pytest.raises(ArtifactError, match="holds one; --overwrite replaces it"):
        save_pruned(bundled_lm, path, made, Saving(folder, 2, None))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="exists and is no model that apmae pruned"):
        save_pruned(bundled_lm, path, made, Saving(tmp_path / "mine", 2, None), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    again = tmp_path / "model"
    first = save_pruned(bundled_lm, path, made, Saving(again, 2, None))
    second = save_pruned(bundled_lm, path, made, Saving(again, 3, None), overwrite=True)
    assert (len(first["heads"]), len(second["heads"])) == (2, 3) and first["ranking"] == "exact"
    assert json.loads((again / PRUNED_FILE).read_text()) == second


def test_what_cannot_be_saved_is_refused(bundled_lm, path, made, tmp_path):
    for saving, words in (
        (Saving(tmp_path / "model", 0, None), "--remove of 1 or more heads, got 0"),
        (Saving(tmp_path / "model", 48, None), "less than all 48 heads, got 48"),
        (Saving(tmp_path / "model", 4, "unknown"), "one of the rankings exact, gradient"),
        (Saving(made, 4, None), "a folder for the model other than that of the tables"),
    ):
        with pytest.raises(ConfigError, match=words):
            save_pruned(bundled_lm, path, made, saving)
    small = LMConfig(source="bundled-small")
    with pytest.raises(ArtifactError, match="they have another lm; run apmae prune on it first"):
        save_pruned(small, path, made, Saving(tmp_path / "model", 4, None))
    assert not (tmp_path / "model").exists()


def test_a_saved_model_that_does_something_else_is_not_kept(bundled_lm, path, made, tmp_path, monkeypatch):
    from apmae.engine import pruned

    def half(lm, heads, means=None):
        return pruned_of(lm, heads[:1], means)

    pruned_of = pruned.pruned_model
    monkeypatch.setattr(pruned, "pruned_model", half)
    with pytest.raises(ArtifactError, match="expected the saved model to do what the edit does"):
        save_pruned(bundled_lm, path, made, Saving(tmp_path / "model", 24, "exact"))
    assert list(tmp_path.iterdir()) == []


def test_halves_are_those_of_ablate(bundled_lm, path, made):
    from apmae.analyze.effects import halve
    from apmae.engine.pruning import halved

    windows, split = halved(bundled_lm, load_prompts(path), CONFIG)
    assert isinstance(windows, Windows) and np.flatnonzero(split.ranks).tolist() == halves_of(made)[0]
    prompts = load_prompts(path)
    texts = ["".join(window_of(bundled_lm, own, 64).tokens) for own in prompts]
    config = CONFIG.removing()
    other = halve([p.task for p in prompts], [p.path for p in prompts], texts, config.similar, config.seed)
    assert (other.ranks == split.ranks).all()
    assert Removal(CONFIG.mode).mode == config.modes[0]
