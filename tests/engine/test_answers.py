"""The answers stage: what each prompt shows when it is read alone, resumed to the same bytes, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from apmae.artifacts import matrix, read_manifest, read_tables
from apmae.config import AnswersConfig
from apmae.engine import answers as engine
from apmae.engine.answers import read_heads_of_answers
from apmae.engine.prompts import load_prompts
from apmae.errors import ArtifactError, CaptureError, ModelError, SourceError
from apmae.lm.load import load_lm
from apmae.lm.outcome import window_of
from apmae.lm.reading import read_batch
from apmae.lm.tracing import find_readout
from apmae.patterns.answer_row import describe_rows
from apmae.prompts.files import write_jsonl
from apmae.schema import ANSWERED, ENCODED_PROMPTS, answer_heads, answer_states

CONFIG = AnswersConfig(context=96, batch=3, shard_prompts=4, eigenvalues=3)
PROMPTS = 7


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def path(train_prompts, tmp_path_factory):
    """Prompts of several lengths, so that batches are padded."""
    path = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    prompts = load_prompts(train_prompts)[:PROMPTS]
    cut = [replace(own, prefix=own.prefix[-50 * n - 20 :], suffix=own.suffix[:60]) for n, own in enumerate(prompts)]
    write_jsonl(path, cut)
    return path


@pytest.fixture(scope="module")
def made(bundled_lm, path, tmp_path_factory):
    out = tmp_path_factory.mktemp("answers") / "out"
    read_heads_of_answers(bundled_lm, path, out, CONFIG)
    return out


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_what_each_prompt_shows_alone(bundled_lm, path, made):
    heads, asked, states = (read_tables(made, "answers", name) for name in ANSWERED)
    assert heads.schema.equals(answer_heads(3)) and asked.schema.equals(ENCODED_PROMPTS)
    assert states.schema.equals(answer_states(192))
    assert (heads.num_rows, asked.num_rows, states.num_rows) == (PROMPTS * 48, PROMPTS, PROMPTS)
    assert heads["layer"].to_pylist() == [layer for _ in range(PROMPTS) for layer in range(6) for _ in range(8)]
    assert heads["head"].to_pylist() == list(range(8)) * 6 * PROMPTS
    readout, columns = find_readout(bundled_lm), {}
    for name in heads.column_names[3:-1]:
        columns[name] = heads[name].to_numpy().reshape(PROMPTS, 48)
    eigenvalues = matrix(heads["laplacian"]).reshape(PROMPTS, 48, 3)
    for number, prompt in enumerate(load_prompts(path)):
        window = window_of(bundled_lm, prompt, 96)
        alone = read_batch(bundled_lm, [window], readout, eigenvalues=3)
        expected = describe_rows(alone.rows[0], window, alone.answers[0].predicted_id)
        expected |= {"flow": alone.flow[0].numpy(), "attribution": alone.attribution[0].numpy()}
        assert list(expected) == list(columns)
        for name, values in expected.items():
            np.testing.assert_allclose(columns[name][number], values, rtol=1e-2, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(eigenvalues[number], alone.eigenvalues[0], rtol=1e-2, atol=1e-3)
        for name in ("middle", "final"):
            row = matrix(states[name])[number].astype(np.float32)
            np.testing.assert_allclose(row, getattr(alone, name)[0], rtol=1e-2, atol=1e-2)
        row, answer = asked.slice(number, 1).to_pylist()[0], alone.answers[0]
        assert (row["prompt"], row["id"], row["tokens"]) == (number, prompt.id, list(window.tokens))
        assert (row["predicted"], row["outcome"]) == (answer.predicted, answer.outcome)
        assert row["log_probability"] == pytest.approx(answer.log_probability, abs=1e-3)
    assert len(set(map(len, asked["tokens"].to_pylist()))) > 1, "some are padded"


def test_the_manifest_counts(bundled_lm, made):
    counts, outcomes = read_manifest(made, "answers").counts, read_tables(made, "answers", "prompts")["outcome"]
    assert (counts["prompts"], counts["heads_read"], counts["context"]) == (PROMPTS, PROMPTS * 48, 96)
    assert counts["correct"] == outcomes.to_pylist().count("correct")
    assert counts["heads_by_layer"] == [8] * 6 and counts["lm"] == bundled_lm.name
    assert (counts["attribution"], counts["without"]) == (48, {})
    assert (counts["drawn"], counts["natural_rate"]) == ("unknown", None), "nothing lies beside a JSONL"


@pytest.mark.parametrize("shards", [0, 1])
def test_a_run_that_was_killed_ends_with_the_same_bytes(bundled_lm, path, made, tmp_path, monkeypatch, shards):
    write, done = engine.answers_shard, []

    def answers_shard(shard, **some):
        if len(done) == shards:
            raise Killed
        done.append(shard)
        return write(shard, **some)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "answers_shard", answers_shard)
        with pytest.raises(Killed):
            read_heads_of_answers(bundled_lm, path, tmp_path / "out", CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("heads-*")}
    assert len(kept) == shards and not (tmp_path / "out" / "manifest.json").exists()
    read_heads_of_answers(bundled_lm, path, tmp_path / "out", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_a_second_run_reads_and_other_settings_are_refused(bundled_lm, path, made):
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert read_heads_of_answers(bundled_lm, path, made, CONFIG) == read_manifest(made, "answers").counts
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before
    with pytest.raises(ArtifactError, match="eigenvalues was 3, now 4"):
        read_heads_of_answers(bundled_lm, path, made, CONFIG.model_copy(update={"eigenvalues": 4}))


def test_two_forwards_for_each_batch_and_two_to_find_the_readout(bundled_lm, path, tmp_path):
    forwards = []
    hook = bundled_lm.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        read_heads_of_answers(bundled_lm, path, tmp_path / "out", CONFIG)
    finally:
        hook.remove()
    assert len(forwards) == 2 * 3 + 2


def test_an_encoder_is_read_at_its_first_mask(encoder_folder, path, tmp_path):
    """Its patterns are square and its heads' outputs are normed: no eigenvalues and no attribution, and it says why."""
    lm = load_lm(encoder_folder("bert"))
    counts = read_heads_of_answers(lm, path, tmp_path / "out", CONFIG)
    heads = read_tables(tmp_path / "out", "answers", "heads")
    assert counts["attribution"] == 0 and "more than additions" in counts["without"]["all"]
    assert np.isnan(heads["attribution"].to_numpy()).all() and np.isnan(matrix(heads["laplacian"])).all()
    readout = find_readout(lm)
    assert isinstance(readout, str)
    window = window_of(lm, load_prompts(path)[0], 96)
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor([window.ids])}
        eager = load_lm(encoder_folder("bert"), attention="eager").model(**inputs, output_attentions=True).attentions
    masses = torch.cat([layer[0, :, window.masks[0]] for layer in eager])[:, list(window.prefix)].sum(-1)
    own = heads["row_prefix"].to_numpy()[: len(masses)]
    np.testing.assert_allclose(own, masses, atol=1e-3)


def test_what_cannot_be_read_is_refused(bundled_lm, encoder_folder, path, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SourceError, match="expected at least one prompt, found none"):
        read_heads_of_answers(bundled_lm, tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(ModelError, match="expected a model that says which tokens are probable"):
        read_heads_of_answers(load_lm(encoder_folder("sentence")), path, tmp_path / "out")
    with pytest.raises(CaptureError, match="positions"):
        read_heads_of_answers(bundled_lm, path, tmp_path / "out", AnswersConfig(context=1 << 20))
    assert not (tmp_path / "out").exists()
