"""The ablate stage: rows are what each prompt shows alone, it resumes to the same bytes, and says what it cannot."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.ablation import distinct_sets
from apmae.artifacts import Stage, read_json, read_manifest, read_table, read_tables, sha256_file
from apmae.config import AblateConfig
from apmae.engine import ablation as engine
from apmae.engine.ablation import ablate, drawn_for, read_means
from apmae.engine.prompts import load_prompts
from apmae.errors import ArtifactError, CaptureError, ConfigError, ModelError, SourceError
from apmae.lm.load import load_lm
from apmae.lm.outcome import window_of
from apmae.lm.removal import Removal, replies_under
from apmae.prompts.files import to_table, write_jsonl
from apmae.schema import ABLATED, EFFECTS, ENCODED_PROMPTS, HEAD_SETS, REMOVED, UNEDITED

HEADS = ((0, 1), (2, 4), (3, 3), (5, 0))
CONFIG = AblateConfig(
    modes=("mean", "zero"), heads=HEADS, context=64, batch=3, shard_prompts=4, doses=(1, 2), draws=2, every=2
)
PROMPTS = 8


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def path(real_study, tmp_path_factory):
    """Prompts of several lengths, half of them correct, each of a file of its own."""
    path = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    prompts = load_prompts(real_study.folder / "prompts.parquet")
    some = [own for outcome in ("correct", "incorrect") for own in prompts if own.outcome == outcome]
    right = [own for own in some if own.outcome == "correct"][: PROMPTS // 2]
    wrong = [own for own in some if own.outcome == "incorrect"][: PROMPTS // 2]
    mixed = [own for pair in zip(right, wrong, strict=True) for own in pair]
    own = [replace(one, path=f"{n}.java", suffix=(one.suffix or "")[: 40 + 30 * n]) for n, one in enumerate(mixed)]
    write_jsonl(path, own)
    return path


@pytest.fixture(scope="module")
def made(bundled_lm, path, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablate") / "out"
    ablate(bundled_lm, path, out, CONFIG)
    return out


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def alone(lm, path, made, number, mode, heads):
    """The reply to one prompt, outside of any batch."""
    window = window_of(lm, load_prompts(path)[number], 64)
    removal = Removal("mean", means=read_means(made / "means.safetensors")) if mode == "mean" else Removal("zero")
    return replies_under(lm, [window], removal.edits(heads, [window], [number], [number]), every=2)[0]


def expect_row(row, reply):
    assert row["log_probability"] == pytest.approx(reply.log_probability, abs=2e-3)
    assert row["elsewhere"] == pytest.approx(reply.elsewhere, abs=2e-3)
    assert row["correct"] == reply.answer.correct


def test_rows_are_what_each_prompt_shows_alone(bundled_lm, path, made):
    unedited, asked, effects = (read_tables(made, "ablate", name) for name in (*ABLATED, "effects"))
    assert unedited.schema.equals(UNEDITED) and asked.schema.equals(ENCODED_PROMPTS) and effects.schema.equals(EFFECTS)
    assert unedited["prompt"].to_pylist() == asked["prompt"].to_pylist() == list(range(PROMPTS))
    assert effects.num_rows == PROMPTS * 2 * len(HEADS)
    for number, prompt in enumerate(load_prompts(path)):
        plain = replies_under(bundled_lm, [window_of(bundled_lm, prompt, 64)], every=2)[0]
        expect_row(unedited.slice(number, 1).to_pylist()[0], plain)
        assert asked["outcome"][number].as_py() == plain.answer.outcome
    for row in effects.to_pylist()[::5]:
        expect_row(row, alone(bundled_lm, path, made, row["prompt"], row["mode"], [(row["layer"], row["head"])]))


def test_sets_are_removed_on_the_half_that_did_not_rank_them(bundled_lm, path, made):
    sets, removed = read_table(made / "sets.parquet"), read_tables(made, "ablate", "removed")
    assert sets.schema.equals(HEAD_SETS) and removed.schema.equals(REMOVED)
    distinct, counts = distinct_sets(sets), read_manifest(made, "ablate").counts
    measured = sorted(set(removed["prompt"].to_pylist()))
    assert len(measured) == counts["measuring"] == PROMPTS - counts["ranking"]
    assert removed.num_rows == len(measured) * len(distinct) and counts["sets"] == len(distinct)
    effects = read_tables(made, "ablate", "effects").to_pylist()
    before = dict(enumerate(read_tables(made, "ablate", "unedited")["log_probability"].to_pylist()))
    change = {}
    for row in effects:
        if row["mode"] == "mean" and row["prompt"] not in measured:
            own = change.setdefault((row["layer"], row["head"]), [])
            own.append(row["log_probability"] - before[row["prompt"]])
    worst = min(change, key=lambda head: np.mean(change[head]))
    first = next(
        row
        for row in sets.to_pylist()
        if (row["mode"], row["ranking"], row["by"], row["dose"], row["control"])
        == ("mean", "helpful", "log_probability", 1, "")
    )
    assert (first["layers"][0], first["heads"][0]) == worst
    for row in removed.to_pylist()[::7]:
        mode, heads = distinct[row["set"]]
        expect_row(row, alone(bundled_lm, path, made, row["prompt"], mode, heads))


def test_means_are_of_the_ranking_half_alone(bundled_lm, path, made):
    from apmae.lm.record import mean_outputs

    measured = set(read_tables(made, "ablate", "removed")["prompt"].to_pylist())
    prompts = load_prompts(path)
    ranking = [window_of(bundled_lm, prompts[n], 64) for n in range(PROMPTS) if n not in measured]
    expected, found = mean_outputs(bundled_lm, ranking), read_means(made / "means.safetensors")
    assert set(found) == set(expected)
    for head in HEADS:
        np.testing.assert_allclose(found[head].values, expected[head].values, rtol=1e-4, atol=1e-5)


def test_the_manifest_counts_and_tables_come_back(bundled_lm, path, made):
    counts = read_manifest(made, "ablate").counts
    assert (counts["prompts"], counts["files"], counts["heads_removed"]) == (PROMPTS, PROMPTS, 4)
    assert counts["correct"] == sum(read_tables(made, "ablate", "unedited")["correct"].to_pylist())
    assert (counts["drawn"], counts["natural_rate"], counts["whole_forwards"]) == ("unknown", None, None)
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    found = ablate(bundled_lm, path, made, CONFIG, json=made.parent / "found.json")
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before
    assert found.modes == ["mean", "zero"] and found.counts == counts
    assert read_json(made.parent / "found.json")["sets"] == found.sets.to_pylist()
    with pytest.raises(ArtifactError, match="draws was 2, now 3"):
        ablate(bundled_lm, path, made, CONFIG.model_copy(update={"draws": 3}))


@pytest.mark.parametrize(("function", "shards"), [("unedited_shard", 1), ("effects_shard", 1), ("removed_shard", 0)])
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
            ablate(bundled_lm, path, tmp_path / "out", CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert kept and not (tmp_path / "out" / "manifest.json").exists()
    ablate(bundled_lm, path, tmp_path / "out", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_later_heads_cost_their_own_layers_only(bundled_lm, path, tmp_path):
    """Layer 0 runs for both batches as they are, one that is timed, both to be recorded, and for its own head."""
    forwards, config = [], AblateConfig(modes=("zero",), heads=HEADS, context=64, batch=4, doses=())
    hook = bundled_lm.model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: forwards.append(1))
    try:
        from apmae.lm.restart import Restart

        Restart(bundled_lm)
        trial = len(forwards)
        ablate(bundled_lm, path, tmp_path / "out", config)
    finally:
        hook.remove()
    assert len(forwards) - 2 * trial == 2 + 1 + 2 + 2


def test_heads_can_be_removed_without_sets(bundled_lm, path, tmp_path):
    config = AblateConfig(modes=("zero",), heads=HEADS[:2], context=64, doses=())
    found = ablate(bundled_lm, path, tmp_path / "out", config)
    assert found.heads.num_rows == 3 * 2 and found.sets.num_rows == 0 and found.counts["sets"] == 0
    assert not (tmp_path / "out" / "means.safetensors").exists(), "no mode needs them"


def test_resampled_heads_take_outputs_of_other_files(bundled_lm, path, tmp_path):
    config = AblateConfig(modes=("resample",), heads=HEADS[:2], context=64, doses=(), donors=3)
    found = ablate(bundled_lm, path, tmp_path / "out", config)
    effects = read_tables(tmp_path / "out", "ablate", "effects")
    assert found.modes == ["resample"] and effects.num_rows == 2 * PROMPTS
    before = read_tables(tmp_path / "out", "ablate", "unedited")["log_probability"].to_numpy()
    own = effects.filter(pa.compute.equal(effects["layer"], 2)).sort_by("prompt")["log_probability"].to_numpy()
    assert (np.abs(own - before) > 1e-4).sum() >= PROMPTS - 1, "no prompt is its own donor"


def test_another_model_gets_a_line_that_says_what_transfers(bundled_lm, path, made, tmp_path, capsys):
    assert read_manifest(made, "ablate").counts["transfers"] == ""
    config = AblateConfig(modes=("zero",), heads=HEADS[:1], context=64, doses=())
    found = ablate(bundled_lm, path, tmp_path / "out", config, study_lm="f" * 64, study_lm_name="other-lm")
    line = found.counts["transfers"]
    assert "is not the study's model, other-lm: prompts and their windows transfer" in line
    assert line in capsys.readouterr().err
    same = ablate(
        bundled_lm, path, tmp_path / "same", config, study_lm=bundled_lm.fingerprint, study_lm_name=bundled_lm.name
    )
    assert same.counts["transfers"] == ""


def test_outcomes_of_another_model_give_no_rate(path, tmp_path):
    prompts = tmp_path / "prompts.parquet"
    counts = {"prompts": {"eol": {"correct": 2, "incorrect": 2}}, "rejected": {"surplus_correct": 4}}
    with Stage.open(prompts, "prompts", {"outcome": "balanced"}, {"lm": "ours"}) as stage:
        stage.write_tables({prompts.name: to_table(load_prompts(path))})
        stage.finish({**counts, "outcomes": {"eol": {"correct": 6, "incorrect": 2}}})
    inputs = {"lm": "ours", "prompts": sha256_file(prompts)}
    own = drawn_for(prompts, inputs)
    assert (own.how, own.natural, dict(own.by_task)) == ("balanced", 0.75, {"eol": 6.5 / 9})
    other = drawn_for(prompts, inputs | {"lm": "theirs"})
    assert (other.how, other.natural, dict(other.by_task)) == ("by another model", None, {})
    assert drawn_for(path, inputs).how == "unknown", "nothing lies beside a JSONL"


def test_the_cost_is_said_before_it_begins(bundled_lm, path, tmp_path, capsys):
    ablate(bundled_lm, path, tmp_path / "out", AblateConfig(modes=("zero",), heads=HEADS[:2], context=64, doses=()))
    said = capsys.readouterr().err
    assert "ablate: 2 forwards for each of 8 prompts (2 heads, zero), then no sets: about " in said
    assert said.index("ablate: 2 forwards") < said.index("ablate each head: 0 of 16 forwards")


def test_what_cannot_be_ablated_is_refused(bundled_lm, encoder_folder, path, tmp_path):
    out, prompts = tmp_path / "out", load_prompts(path)
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SourceError, match="expected at least one prompt, found none"):
        ablate(bundled_lm, tmp_path / "none.jsonl", out)
    write_jsonl(tmp_path / "one.jsonl", [replace(prompt, path="one.java") for prompt in prompts])
    with pytest.raises(ConfigError, match="prompts of two files or more"):
        ablate(bundled_lm, tmp_path / "one.jsonl", out, CONFIG)
    with pytest.raises(CaptureError, match=r"layers 0-5 and heads 0-7, got \(6, 0\)"):
        ablate(bundled_lm, path, out, AblateConfig(heads=((0, 0), (6, 0))))
    with pytest.raises(CaptureError, match="positions"):
        ablate(bundled_lm, path, out, AblateConfig(context=1 << 20))
    with pytest.raises(ModelError, match="expected a model that says which tokens are probable"):
        ablate(load_lm(encoder_folder("sentence")), path, out, AblateConfig(context=64))
    assert not out.exists()
    write_jsonl(tmp_path / "right.jsonl", [prompt for number, prompt in enumerate(prompts) if number % 2 == 0])
    config = AblateConfig(modes=("zero",), heads=HEADS[:1], context=64, doses=())
    with pytest.raises(ConfigError, match="all 4 are correct; take more prompts, or draw them with --set outcome=bal"):
        ablate(bundled_lm, tmp_path / "right.jsonl", out, config)
    assert not list(out.glob("effects-*")), "before anything is removed"
