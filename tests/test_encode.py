import shutil
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
import torch
from safetensors.numpy import load_file

from apmae import bundled, schema
from apmae.artifacts import Stage, cut, matrix, read_manifest, read_table, read_tables, run_shards
from apmae.config import CaptureConfig, EncodeConfig
from apmae.encode import encode_shard, reconstructions, unpack_exemplars
from apmae.engine.prompts import load_prompts
from apmae.errors import CaptureError
from apmae.lm.stream import capture_prompts, window_length
from apmae.model.mae import APMAE
from apmae.model.represent import represent
from apmae.patterns.descriptor import describe
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import score
from apmae.prompts.prompt import Answer
from apmae.seeding import unit_hash

LAYERS, HEADS = 6, 8
DESCRIPTOR, CLS = 141, 160


@pytest.fixture(scope="module")
def mae(real_study):
    return APMAE.from_pretrained(real_study.folder / "encoder")


@pytest.fixture(scope="module")
def prompts(real_study):
    return load_prompts(real_study.folder / "prompts.parquet")


@pytest.fixture(scope="module")
def embeddings(real_study):
    return read_tables(real_study.folder / "embeddings", "encode", "embeddings")


@pytest.fixture(scope="module")
def exemplars(real_study):
    return read_tables(real_study.folder / "embeddings", "encode", "exemplars")


@pytest.fixture(scope="module")
def captured(bundled_lm, prompts):
    """The study's patterns, batch by batch, captured again in one thread as in the study."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield [
        batch
        for first in range(0, 12, 4)
        for batch in capture_prompts(
            bundled_lm, prompts[first : first + 4], CaptureConfig(batch=4), size=256, first=first
        )
    ]
    torch.set_num_threads(threads)


class Killed(Exception):
    pass


def encode_to(out, lm, mae, prompts, stop_after=None, asked=False, **changes):
    """Encodes prompts in a stage; with ``stop_after`` it stops like a killed run after so many shards."""
    config = EncodeConfig(**{"batch": 2, "shard_prompts": 2, "exemplars_per_head": 1, **changes})
    with Stage.open(out, "encode", config.model_dump(mode="json"), {}) as stage:

        def work(shard):
            if shard.number == stop_after:
                raise Killed
            return encode_shard(shard, lm=lm, mae=mae, prompts=prompts, config=config, root=stage.root, asked=asked)

        shards = cut(len(prompts), config.shard_prompts, schema.ENCODED)
        if stop_after is None:
            run_shards(stage, shards, work)
            stage.finish()
        else:
            with pytest.raises(Killed):
                run_shards(stage, shards, work)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_head_of_every_prompt_is_one_row(embeddings, prompts):
    assert embeddings.schema.equals(schema.embeddings(DESCRIPTOR + CLS))
    places = list(zip(*(embeddings[name].to_pylist() for name in ("prompt", "layer", "head")), strict=True))
    assert places == [(p, layer, h) for p in range(len(prompts)) for layer in range(LAYERS) for h in range(HEADS)]
    tasks = [prompt.task for prompt in prompts for _ in range(LAYERS * HEADS)]
    assert embeddings["task"].to_pylist() == tasks


def whitened(values, path):
    """The formula of ``patterns/whitening.py`` in double precision, from the constants on disk."""
    constants = {name: array.astype(np.float64) for name, array in load_file(path).items()}
    z = (values.astype(np.float64) - constants["mean"]) / constants["deviation"]
    return np.clip(z, -4, 4) @ constants["whiten"]


@pytest.fixture(scope="module")
def parts(captured, mae, real_study):
    """Of each pattern the whitened descriptor, CLS as it is and whitened, and the gate's statistic."""
    described = [describe(batch.patterns) for batch in captured]
    cls = np.concatenate([mae.encode(batch.patterns) for batch in captured])
    descriptor = whitened(np.concatenate([own.values for own in described]), bundled.descriptor(True))
    own = whitened(cls, real_study.folder / "encoder" / "whitening.safetensors")
    return descriptor, cls, own, np.concatenate([own.structure for own in described])


def test_embeddings_are_descriptor_and_cls_side_by_side_in_half_precision(embeddings, parts):
    descriptor, _, own, structure = parts
    stored = matrix(embeddings["embedding"])
    assert stored.dtype == np.float16
    z = np.concatenate([descriptor, 0.5 * own], axis=1)
    np.testing.assert_allclose(stored.astype(np.float32), z, atol=1e-2, rtol=1e-2)
    measured = np.abs(z).mean(0) > 0.01
    assert measured.sum() == len(measured) - 3, "all but what lies ahead, which no causal pattern has"
    assert len(np.unique(stored, axis=0)) > len(stored) / 2
    np.testing.assert_allclose(embeddings["structure"].to_numpy(), structure, rtol=1e-3)
    assert np.ptp(structure) > 10


@pytest.mark.parametrize(("kind", "width"), [("descriptor", DESCRIPTOR), ("cls", CLS)])
def test_one_of_the_two_may_be_left_out(tmp_path, bundled_lm, mae, prompts, parts, kind, width):
    encode_to(tmp_path, bundled_lm, mae, prompts[:4], representation=kind, batch=4)
    table = read_tables(tmp_path, "encode", "embeddings")
    assert table.schema.equals(schema.embeddings(width))
    descriptor, cls, _, structure = parts
    wanted = (descriptor if kind == "descriptor" else cls)[: 4 * LAYERS * HEADS]
    np.testing.assert_allclose(matrix(table["embedding"]).astype(np.float32), wanted, atol=1e-2, rtol=1e-2)
    np.testing.assert_allclose(table["structure"].to_numpy(), structure[: len(wanted)], rtol=1e-3)


def test_each_pattern_is_scored_over_its_own_tokens(embeddings, captured):
    row = 0
    for batch in captured:
        for number, window in enumerate(batch.windows):
            own = batch.patterns[batch.patterns.prompt == batch.patterns.prompt[0] + number]
            size = len(window.ids)
            dense = own.probabilities()[:, :size, :size]
            np.testing.assert_allclose(dense.sum(-1), 1, atol=2e-3)
            alone = Patterns.from_probabilities(dense, prompt=[0] * len(own))
            by_hand = score(alone, [window.ids], [window.tokens])
            part = embeddings.slice(row, LAYERS * HEADS)
            for name in schema.SCORES:
                np.testing.assert_allclose(part[f"score_{name}"].to_numpy(), by_hand[name], atol=2e-5)
            assert part["sinks"].to_pylist() == [list(sinks) for sinks in by_hand.sinks]
            np.testing.assert_allclose(matrix(part["key_kinds"]), by_hand.key_kinds, atol=1e-5)
            np.testing.assert_allclose(matrix(part["query_kinds"]), by_hand.query_kinds, atol=1e-5)
            row += LAYERS * HEADS
    assert row == embeddings.num_rows


def test_prompts_carry_what_the_model_saw_and_answered(real_study, prompts, captured):
    table = read_tables(real_study.folder / "embeddings", "encode", "prompts")
    assert table.schema.equals(schema.ENCODED_PROMPTS)
    rows = table.to_pylist()
    answers = [
        (window, answer) for batch in captured for window, answer in zip(batch.windows, batch.answers, strict=True)
    ]
    assert len(rows) == len(prompts) == len(answers)
    for number, (row, prompt, (window, answer)) in enumerate(zip(rows, prompts, answers, strict=True)):
        assert (row["prompt"], row["id"], row["task"], row["path"]) == (number, prompt.id, prompt.task, prompt.path)
        assert row["tokens"] == list(window.tokens)
        assert (row["expected"], row["outcome"]) == (window.text, answer.outcome)
        assert (row["expected"] == row["predicted"]) or row["outcome"] == "incorrect"
        assert row["max_probability"] == pytest.approx(answer.max_probability, abs=1e-4)
        assert row["max_probability"] >= row["expected_probability"] - 1e-6
        assert 0 <= row["entropy"] <= np.log(4096)
    assert {row["outcome"] for row in rows} <= {"correct", "incorrect"}


ANSWER = [name for name in Answer._fields if name in schema.ENCODED_PROMPTS.names]


def test_answers_of_a_prompts_stage_that_asked_the_model_are_kept(real_study):
    rows = read_tables(real_study.folder / "embeddings", "encode", "prompts").select(["id", "outcome", *ANSWER])
    assert rows.to_pylist() == read_table(real_study.folder / "prompts.parquet").select(rows.column_names).to_pylist()
    assert None not in rows["log_probability"].to_pylist()
    assert set(rows["exact"].to_pylist()) == {True, False}


def test_other_answers_are_asked_for_again(tmp_path, bundled_lm, mae, prompts):
    """The caller decides whether the prompts' answers are kept: here they are values that no model would give."""
    claimed = [replace(prompt, answer=prompt.answer._replace(margin=0.123)) for prompt in prompts[:3]]
    unasked = [replace(prompt, outcome=None, answer=None) for prompt in prompts[:3]]
    encode_to(tmp_path / "kept", bundled_lm, mae, claimed, asked=True)
    encode_to(tmp_path / "again", bundled_lm, mae, claimed)
    encode_to(tmp_path / "none", bundled_lm, mae, unasked, asked=True)
    kept, again, none = (
        read_tables(tmp_path / name, "encode", "prompts").to_pylist() for name in ("kept", "again", "none")
    )
    assert [row["margin"] for row in kept] == pytest.approx([0.123] * 3)
    assert again == none
    for row, prompt in zip(again, prompts, strict=False):
        assert row["outcome"] == prompt.outcome
        for name in ANSWER:
            value = getattr(prompt.answer, name)
            assert row[name] == (value if isinstance(value, (str, bool)) else pytest.approx(value, abs=1e-4))


def test_outcomes_are_the_prompts_own(real_study):
    folder = real_study.folder / "embeddings"
    with duckdb.connect() as database:
        joined, wrong = database.execute(
            "SELECT count(*), count(*) FILTER (e.outcome <> p.outcome OR e.task <> p.task) "
            f"FROM '{folder}/embeddings-*.parquet' e JOIN '{folder}/prompts-*.parquet' p USING (prompt) "
        ).fetchone()
    assert (joined, wrong) == (12 * 48, 0)
    counts = read_manifest(real_study.folder / "embeddings", "encode").counts
    table = read_tables(real_study.folder / "embeddings", "encode", "prompts")
    assert counts["correct"] == table["outcome"].to_pylist().count("correct")
    assert (counts["prompts"], counts["patterns"]) == (12, 12 * 48)
    assert (counts["representation"], counts["dim"]) == ("joint", DESCRIPTOR + CLS)
    assert (counts["layers"], counts["heads"], counts["pattern_size"]) == (LAYERS, HEADS, 256)


def test_duckdb_reads_half_precision_embeddings(real_study, embeddings):
    with duckdb.connect() as database:
        (total,) = database.execute(
            f"SELECT sum(list_sum(embedding)) FROM '{real_study.folder}/embeddings/embeddings-*.parquet'"
        ).fetchone()
    assert total == pytest.approx(float(matrix(embeddings["embedding"]).astype(np.float64).sum()), rel=1e-3)


def test_whole_patterns_are_kept_only_for_a_seeded_sample(exemplars, captured):
    assert exemplars.schema.equals(schema.EXEMPLARS)
    kept = set(zip(*(exemplars[name].to_pylist() for name in ("prompt", "layer", "head")), strict=True))
    share = 2 / 12
    every = [(p, layer, head) for p in range(12) for layer in range(LAYERS) for head in range(HEADS)]
    assert kept == {place for place in every if unit_hash(0, "exemplar", *place) < share}
    expected, deviation = share * len(every), np.sqrt(share * (1 - share) * len(every))
    assert abs(len(kept) - expected) < 4 * deviation
    patterns = {batch.patterns.prompt[0]: batch.patterns for batch in captured}
    for row in exemplars.to_pylist():
        batch = patterns[row["prompt"] // 4 * 4]
        own = batch[(batch.prompt == row["prompt"]) & (batch.layer == row["layer"]) & (batch.head == row["head"])]
        assert (row["size"], row["patch"]) == (own.size, own.patch)
        stored = np.frombuffer(row["log_pattern"], "<f2").astype(np.float32)
        fresh = own.log_patches.float().numpy().ravel()
        assert np.array_equal(np.isfinite(stored), np.isfinite(fresh))
        np.testing.assert_allclose(stored[np.isfinite(stored)], fresh[np.isfinite(fresh)], atol=0.02, rtol=2e-3)


def test_unpacked_exemplars_are_patterns_again(exemplars, mae, embeddings):
    patterns = unpack_exemplars(exemplars)
    assert len(patterns) == exemplars.num_rows
    sums = patterns.probabilities().sum(-1)
    assert ((np.abs(sums - 1) < 5e-3) | (sums == 0)).all()
    z = represent(patterns, mae)
    rows = (patterns.prompt * LAYERS + patterns.layer) * HEADS + patterns.head
    stored = matrix(embeddings["embedding"]).astype(np.float32)[rows]
    np.testing.assert_allclose(z, stored, atol=2e-2, rtol=1e-2)


def test_whole_patterns_are_kept_nowhere_but_in_the_sample(real_study, exemplars):
    folder = real_study.folder / "embeddings"
    names = {path.name.split("-")[0].split(".")[0] for path in folder.iterdir()}
    assert names == {"embeddings", "prompts", "exemplars", "reconstructions", "manifest"}
    for path in folder.glob("embeddings-*"):
        widest = max(
            field.type.list_size for field in read_table(path).schema if pa.types.is_fixed_size_list(field.type)
        )
        assert widest == DESCRIPTOR + CLS
    assert exemplars.num_rows < 12 * 48 / 2


@pytest.fixture(scope="module")
def whole(bundled_lm, mae, prompts, tmp_path_factory):
    """The bytes of a run over five prompts that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    encode_to(out, bundled_lm, mae, prompts[:5])
    return bytes_of(out)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_run_that_stopped_ends_with_the_same_bytes(tmp_path, bundled_lm, mae, prompts, whole, stop_after):
    out = tmp_path / "stopped"
    encode_to(out, bundled_lm, mae, prompts[:5], stop_after=stop_after)
    shards = sorted(out.glob("*.parquet")) if out.exists() else []
    assert len(shards) == 3 * stop_after
    before = {path: path.stat().st_mtime_ns for path in shards}
    encode_to(out, bundled_lm, mae, prompts[:5])
    assert {path: path.stat().st_mtime_ns for path in shards} == before, "whole shards are not made again"
    assert bytes_of(out) == whole


def test_a_shard_that_lost_one_of_its_files_is_made_again(tmp_path, bundled_lm, mae, prompts, whole):
    out = tmp_path / "stopped"
    encode_to(out, bundled_lm, mae, prompts[:5], stop_after=1)
    (out / "prompts-00000.parquet").unlink()
    encode_to(out, bundled_lm, mae, prompts[:5])
    assert bytes_of(out) == whole


def test_a_share_of_heads_is_redrawn_for_each_prompt(tmp_path, bundled_lm, mae, prompts):
    encode_to(tmp_path / "out", bundled_lm, mae, prompts[:4], heads=0.25, exemplars_per_head=0)
    table = read_tables(tmp_path / "out", "encode", "embeddings")
    assert table.num_rows == 4 * LAYERS * 2
    with duckdb.connect() as database:
        rows = database.execute(
            f"SELECT prompt, layer, list(head ORDER BY head) FROM '{tmp_path}/out/embeddings-*.parquet' GROUP BY ALL"
        ).fetchall()
    assert all(len(set(heads)) == 2 for _, _, heads in rows)
    drawn = {prompt: [heads for p, _, heads in sorted(rows) if p == prompt] for prompt in range(4)}
    assert len({str(heads) for heads in drawn.values()}) == 4


def test_no_exemplars_are_kept_if_none_are_wanted(tmp_path, bundled_lm, mae, prompts):
    encode_to(tmp_path / "out", bundled_lm, mae, prompts[:2], exemplars_per_head=0)
    table = read_tables(tmp_path / "out", "encode", "exemplars")
    assert table.num_rows == 0
    assert table.schema.equals(schema.EXEMPLARS)
    encode_to(tmp_path / "all", bundled_lm, mae, prompts[:2], exemplars_per_head=99)
    assert read_tables(tmp_path / "all", "encode", "exemplars").num_rows == 2 * 48


def test_reconstructions_change_only_the_masked_patches(real_study, exemplars, mae):
    table = read_table(real_study.folder / "embeddings" / "reconstructions.parquet")
    assert table.schema.equals(schema.RECONSTRUCTIONS)
    assert table.num_rows == 12
    assert reconstructions(mae, unpack_exemplars(exemplars), seed=0).num_rows == 12
    for row in table.to_pylist():
        masked = np.frombuffer(row["masked"], np.uint8)
        original, predicted = (
            np.frombuffer(row[name], "<f2").reshape(36, 32, 32).astype(np.float32) for name in ("original", "predicted")
        )
        assert (masked.sum(), len(masked)) == (18, 36)
        np.testing.assert_array_equal(original[masked == 0], predicted[masked == 0])
        assert all(not np.array_equal(original[i], predicted[i]) for i in np.flatnonzero(masked))
        assert (original >= 0).all()
        assert (original <= 1).all()
        # The loss is over the pixels on or below the diagonal, which is the first 32 of each diagonal patch's rows.
        rows, columns = np.tril_indices(8)
        real = np.where((rows == columns)[:, None, None], np.tri(32, dtype=bool), True)
        inside = real & (masked == 1)[:, None, None]
        by_hand = np.square(original - predicted)[inside].mean()
        assert row["loss"] == pytest.approx(float(by_hand), rel=2e-2)


def test_an_encoder_longer_than_the_models_inputs_is_refused(bundled_lm):
    assert window_length(bundled_lm, 512, None) == 512 == bundled_lm.max_length
    assert window_length(bundled_lm, 256, 400) == 400
    with pytest.raises(CaptureError, match="at most 512, the positions of the language model, got 513; use or train"):
        window_length(bundled_lm, 513, None)
    with pytest.raises(CaptureError, match="a context of at most 512, .* got 600; take a shorter one"):
        window_length(bundled_lm, 256, 600)


@pytest.mark.parametrize("long", ["pool", "crop"])
def test_windows_longer_than_a_pattern(tmp_path, bundled_lm, mae, prompts, long):
    """The stored embeddings are those of the pooled or cropped patterns of the long windows."""
    few = prompts[:3]
    encode_to(tmp_path, bundled_lm, mae, few, context=400, long=long)
    table = read_tables(tmp_path, "encode", "embeddings")
    windows = read_tables(tmp_path, "encode", "prompts")["tokens"].to_pylist()
    assert max(map(len, windows)) > 256
    for number, window in enumerate(windows):
        stored = matrix(table.filter(pa.compute.equal(table["prompt"], number))["embedding"])
        batch = next(
            capture_prompts(bundled_lm, [few[number]], CaptureConfig(context=400, batch=1, long=long), size=256)
        )
        assert batch.patterns.lengths == {0: len(window)}
        assert batch.patterns.reach == (long if len(window) > 256 else "whole")
        assert np.abs(stored - represent(batch.patterns, mae)).max() < 0.02
        assert np.isnan(table["score_induction"].to_numpy()).any() == (long == "pool")


def test_a_study_can_be_moved(real_study, tmp_path):
    """In another place, every table is still found by its manifest."""
    shutil.copytree(real_study.folder, tmp_path / "moved")
    assert read_tables(tmp_path / "moved" / "embeddings", "encode", "embeddings").num_rows == 576
    assert read_manifest(tmp_path / "moved" / "atlas", "cluster").counts["patterns"] == 576
