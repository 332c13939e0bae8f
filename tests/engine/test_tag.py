import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

import apmae
from apmae import bundled
from apmae.artifacts import matrix, read_table
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import CaptureConfig, LMConfig
from apmae.engine.prompts import load_prompts
from apmae.engine.tag import tag, tag_file, tag_prompt
from apmae.errors import ConfigError
from apmae.lm.outcome import window_of
from apmae.lm.stream import capture_batch
from apmae.model.mae import APMAE
from apmae.prompts.line import text_prompt
from apmae.schema import SCORES, TAGS

JAVA = "class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n"


@pytest.fixture(scope="module")
def mae(real_study):
    return APMAE.from_pretrained(real_study.folder / "encoder")


@pytest.fixture(scope="module")
def atlas(real_study):
    return Atlas.load(real_study.folder / "atlas")


@pytest.fixture
def fresh_lm():
    return apmae.load_lm("bundled", check=False)


@pytest.fixture
def java(tmp_path):
    path = tmp_path / "A.java"
    path.write_text(JAVA)
    return path


def capture(lm, text):
    """The patterns that tag sees."""
    windows = [window_of(lm, text_prompt(text, "\n", None), 256)]
    prompts = [text_prompt(text, "\n", None)]
    return capture_batch(lm, prompts, windows, CaptureConfig(batch=1), size=256).patterns


# -- tags --------------------------------------------------------------------------------------------------------------


def test_every_head_gets_a_tag_in_one_forward(bundled_lm, mae, atlas):
    forwards = []
    hook = bundled_lm.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        tags = tag(bundled_lm, "int x = ", suffix=";\n", mae=mae, atlas=atlas)
    finally:
        hook.remove()
    assert len(forwards) == 1
    assert tags.schema.equals(TAGS)
    heads = list(zip(tags["layer"].to_pylist(), tags["head"].to_pylist(), strict=True))
    assert heads == [(layer, head) for layer in range(6) for head in range(8)]
    assert set(tags["cluster"].to_pylist()) <= set(atlas.names)
    assert not any(structure < 4.5 for structure in tags["structure"].to_pylist()), "too short to be judged"
    for cluster, name in zip(tags["cluster"].to_pylist(), tags["name"].to_pylist(), strict=True):
        whole, said = (text.split(", ") for text in (atlas.names[cluster], name))
        assert said[0] == whole[0] and set(said) <= set(whole), "only qualifiers that are true of the pattern"
    for near, far in zip(tags["nearest"].to_pylist(), tags["distances"].to_pylist(), strict=True):
        assert len(near) == len(far) <= 3
        assert far == sorted(far) and set(near) <= set(atlas.names.values()) - {"unknown"}
    reasons, known = tags["reason"].to_pylist(), tags["cluster"].to_numpy() >= 0
    assert [reason == "" for reason in reasons] == known.tolist()
    assert set(reasons) <= {"", "vote", "name", "far"}
    strength = tags["strength"].to_numpy()
    assert ((strength > 0) & (strength <= 1 + 1e-6)).all()
    assert all(tags["measured"].to_pylist())


def test_each_head_has_its_clusters_stability_and_exemplars(bundled_lm, mae, atlas):
    clusters = {row["cluster"]: min(row["stability"], row["seed_stability"]) for row in atlas.clusters.to_pylist()}
    for row in tag(bundled_lm, JAVA * 10, suffix=JAVA, mae=mae, atlas=atlas).to_pylist():
        assert row["stability"] == (None if row["cluster"] < 0 else clusters[row["cluster"]])
        far = [exemplar["distance"] for exemplar in row["exemplars"]]
        assert far == sorted(far) and len(far) <= 3 and (far or row["cluster"] < 0)
        for exemplar in row["exemplars"]:
            assert row["cluster"] in (-1, exemplar["cluster"])
            assert exemplar["model"] == "bundled" and exemplar["variant"] is None


def test_exemplars_are_drawn_where_the_study_kept_them(bundled_lm, real_study, tmp_path, java):
    folder, prompts = real_study.folder, load_prompts(real_study.folder / "prompts.parquet")
    kept = pa.concat_tables(
        read_table(path, ["prompt", "layer", "head"])
        for path in sorted((folder / "embeddings").glob("exemplars-*.parquet"))
    ).to_pylist()
    own = prompts[kept[0]["prompt"]]  # its own pattern is the nearest
    (tmp_path / "B.java").write_text(own.prefix + own.completion + (own.suffix or ""))
    line, column = own.prefix.count("\n") + 1, len(own.prefix) - own.prefix.rfind("\n")
    given = {"encoder": str(folder / "encoder"), "atlas": str(folder / "atlas"), "html": tmp_path / "t.html"}
    tag_file(LMConfig(source="bundled"), tmp_path / "B.java", line, column=column, json=tmp_path / "t.json", **given)
    heads = json.loads((tmp_path / "t.json").read_text())["heads"]
    shown = [exemplar for head in heads for exemplar in head["exemplars"]]
    places = {tuple(one.values()) for one in kept}
    drawn = sum((one["prompt"], one["layer"], one["head"]) in places for one in shown)
    assert drawn > 0
    page = (tmp_path / "t.html").read_text()
    assert page.count('alt="a pattern like that of head') == drawn
    assert page.count(" radii)") >= len(shown)


def test_padding_a_batch_with_the_models_tokenizer_changes_no_tag(fresh_lm, mae, atlas):
    before = tag(fresh_lm, "int x = ", suffix=";\n", mae=mae, atlas=atlas)
    fresh_lm.tokenizer(["int x;", "int"], padding=True, truncation=True, max_length=2)
    assert fresh_lm.tokenizer.backend_tokenizer.padding is not None
    after = tag(fresh_lm, "int x = ", suffix=";\n", mae=mae, atlas=atlas)
    assert after["strength"].equals(before["strength"]) and after["measured"].equals(before["measured"])


def test_a_prompts_tags_are_what_encode_and_place_say_of_it(bundled_lm, mae, atlas, real_study):
    prompts = load_prompts(real_study.folder / "prompts.parquet")
    table = pa.concat_tables(
        read_table(path) for path in sorted((real_study.folder / "embeddings").glob("embeddings-*.parquet"))
    )
    unseen = bool(atlas.models) and bundled_lm.name not in atlas.models
    for number in (0, 5, len(prompts) - 1):
        tagged = tag_prompt(bundled_lm, prompts[number], mae=mae, atlas=atlas)
        own = table.filter(pa.compute.equal(table["prompt"], number))
        structure = own["structure"].to_numpy()
        measured = Measured(
            np.stack([own[f"score_{name}"].to_numpy() for name in SCORES], axis=1),
            matrix(own["key_kinds"]),
            matrix(own["query_kinds"]),
        )
        placed = atlas.place(matrix(own["embedding"]), structured=~(structure < 4.5), measured=measured, unseen=unseen)
        np.testing.assert_allclose(tagged.tags["structure"].to_numpy(), structure, rtol=0.02, atol=0.05)
        # Alone in its forward a prompt has no padding, and fp16 rounds: a head at a border may fall on its other side.
        assert (tagged.tags["cluster"].to_numpy() == placed.cluster).mean() > 0.95
        np.testing.assert_allclose(tagged.tags["strength"].to_numpy(), placed.strength, atol=0.05)
        for name in SCORES:
            ours, theirs = tagged.tags[f"score_{name}"].to_numpy(), own[f"score_{name}"].to_numpy()
            np.testing.assert_allclose(ours, theirs, atol=2e-3)
        assert set(own["outcome"].to_pylist()) == {tagged.answer.outcome}
        texts = tagged.window.tokens
        pairs = zip(tagged.tags["sinks"].to_pylist(), tagged.tags["sink_tokens"].to_pylist(), strict=True)
        assert all([texts[position] for position in sinks] == words for sinks, words in pairs)
        pairs = zip(tagged.tags["sinks"].to_pylist(), own["sinks"].to_pylist(), strict=True)
        assert np.mean([ours == theirs for ours, theirs in pairs]) > 0.95


def test_an_atlas_of_other_constants_is_refused(bundled_lm):
    atlas = Atlas.load()
    atlas.constants = "c" * 64
    with pytest.raises(ConfigError, match="expected an atlas of descriptors with this version's constants"):
        tag(bundled_lm, "int x = ", atlas=atlas)


def test_the_expected_token_decides_the_outcome_alone(bundled_lm, mae, atlas):
    free = tag_prompt(bundled_lm, text_prompt("int x = ", "\n", ";\n"), mae=mae, atlas=atlas)
    answer = free.answer.predicted
    right = tag_prompt(bundled_lm, text_prompt("int x = ", answer, ";\n"), mae=mae, atlas=atlas)
    wrong = tag_prompt(bundled_lm, text_prompt("int x = ", "@Override", ";\n"), mae=mae, atlas=atlas)
    assert (right.answer.outcome, wrong.answer.outcome) == ("correct", "incorrect")
    assert repr(right.tags.to_pylist()) == repr(wrong.tags.to_pylist()), "as text: a NaN is not equal to itself"
    assert right.window.text == answer


def test_text_around_the_cursor_changes_what_is_seen(bundled_lm, mae, atlas):
    left = tag_prompt(bundled_lm, text_prompt("int x = ", "1", None), mae=mae, atlas=atlas)
    both = tag_prompt(bundled_lm, text_prompt("int x = ", "1", ";\n"), mae=mae, atlas=atlas)
    assert len(both.window.ids) > len(left.window.ids)
    long = tag_prompt(bundled_lm, text_prompt(JAVA * 100, "1", JAVA * 100), mae=mae, atlas=atlas)
    assert len(long.window.ids) == mae.config.pattern_size


def test_heads_that_fail_the_gate_are_named_for_it(fresh_lm, mae, atlas):
    """Without queries a head attends evenly: its rows are the same however they are shuffled."""
    queries = fresh_lm.model.get_submodule("model.layers.5.self_attn.q_proj")
    with torch.no_grad():
        for parameter in queries.parameters():
            parameter.zero_()
    tags = tag(fresh_lm, JAVA * 10, suffix=JAVA, mae=mae, atlas=atlas).to_pylist()
    for row in tags:
        assert (row["structure"] < 4.5) == (row["layer"] == 5)
        if row["layer"] == 5:
            assert (row["cluster"], row["name"], row["reason"]) == (-1, "uniform", "structure")
            assert row["score_uniform"] > 0.97
        else:
            assert row["name"].split(", ")[0] == atlas.names[row["cluster"]].split(", ")[0]


@pytest.mark.parametrize("kind", ["descriptor", "cls"])
def test_tags_are_placed_by_the_representation_of_the_atlas(bundled_lm, mae, kind):
    patterns = capture(bundled_lm, JAVA)
    own = Atlas.fit(apmae.represent(patterns, mae, kind), seed=0, encoder=mae, representation=kind)
    placed = own.place(apmae.represent(patterns, mae, kind))
    tags = tag(bundled_lm, JAVA, mae=mae, atlas=own)
    assert tags["cluster"].to_pylist() == placed.cluster.tolist()
    np.testing.assert_allclose(tags["strength"].to_numpy(), placed.strength, atol=0.02)


def test_an_atlas_of_rows_that_tag_does_not_make_is_refused_before_the_model_runs(bundled_lm, mae):
    """Of CLS, and not told so: rows of the default representation do not fit."""
    own = Atlas.fit(mae.encode(capture(bundled_lm, JAVA)), seed=0, encoder=mae)
    hook = bundled_lm.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(ConfigError, match=r"of 160 dimensions.* got 301 \(joint\); .*Atlas.fit\(..., represent"):
            tag(bundled_lm, JAVA, mae=mae, atlas=own)
    finally:
        hook.remove()


def test_a_file_is_told_if_the_atlas_was_fitted_on_other_models(java, tmp_path, capsys):
    for source, told in (("bundled", False), (str(bundled.language_model()), False), (str(tmp_path / "other"), True)):
        if told:
            shutil.copytree(bundled.language_model(), source)
        tag_file(LMConfig(source=source), java, 3, json=tmp_path / "t.json", html=tmp_path / "t.html")
        first = "The atlas was fitted on other models (bundled-small"
        assert capsys.readouterr().out.startswith(first) == told
        record = json.loads((tmp_path / "t.json").read_text())
        assert record["note"].startswith(first) == told
        assert [head["reason"] == "" for head in record["heads"]] == [head["cluster"] >= 0 for head in record["heads"]]
        assert (first in (tmp_path / "t.html").read_text()) == told


def test_without_encoder_and_atlas_the_bundled_ones_are_taken(bundled_lm):
    tags = apmae.tag(bundled_lm, "int x = ", suffix=";\n")
    assert tags.num_rows == 48
    named = apmae.tag(bundled_lm, "int x = ", suffix=";\n", mae=APMAE.from_pretrained(), atlas=Atlas.load())
    assert repr(tags.to_pylist()) == repr(named.to_pylist())
