import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

import apmae
import apmae.bundled
from apmae.errors import ConfigError
from apmae.patterns.planted import planted

HEAVY = "{'torch', 'transformers', 'numpy', 'pyarrow', 'pydantic', 'sklearn', 'umap', 'matplotlib'}"


def in_a_new_process(code):
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_loads_nothing():
    assert in_a_new_process(f"import sys, apmae; print(sorted({HEAVY} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize(
    "rooms",
    [
        ("config", "schema", "artifacts", "recipes", "seeding", "progress", "errors", "bundled"),
        ("corpus.parse", "prompts.files", "prompts.fim", "prompts.draw", "prompts.line", "engine.sources"),
        ("engine.prompts", "engine.settings"),
        ("atlas.atlas", "atlas.clusterers", "atlas.names", "atlas.place", "analyze.locations"),
        ("analyze.answers", "analyze.prediction_tables", "analyze.head_features", "engine.prediction"),
        ("report.page", "report.sheet_page", "report.heads", "study.reader", "report.terminal", "engine.report"),
    ],
    ids=lambda rooms: rooms[0],
)
def test_these_rooms_do_without_torch(rooms):
    imports = "; ".join(f"import apmae.{room}" for room in rooms)
    loaded = in_a_new_process(f"{imports}; import sys; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))")
    assert loaded == "[]"


def test_every_public_name_is_there_and_documented():
    assert sorted(apmae.__all__) == sorted(
        ["APMAE", "ApmaeError", "Atlas", "Patterns", "capture", "edit", "load_lm", "represent", "score", "show", "tag"]
        + ["train"]
    )
    assert dir(apmae) == sorted(apmae.__all__)
    for name in apmae.__all__:
        assert getattr(apmae, name).__doc__, name
    with pytest.raises(AttributeError, match="module 'apmae' has no attribute 'nothing'"):
        apmae.nothing  # noqa: B018


@pytest.mark.parametrize("first", ["import apmae.train.loop", "apmae.train"])
def test_train_can_be_called_whichever_is_imported_first(first):
    code = (
        f"import apmae; {first}; import apmae.train.loop; print(callable(apmae.train), apmae.train.loop.fit.__name__)"
    )
    assert in_a_new_process(code) == "True fit"


def test_the_example_of_the_design_runs(real_study, tmp_path):
    """Section 9 as written, with the study's encoder instead of the bundled one."""
    lm = apmae.load_lm("bundled", device="cpu", dtype="float32")
    assert (lm.num_layers, lm.num_heads) == (6, 8)
    encoded = lm.tokenizer(["int x = 1;\n", "return a + b;"], return_tensors="pt", padding=True)
    with apmae.capture(lm.model, heads="all") as tap:
        lm.model(encoded.input_ids, attention_mask=encoded.attention_mask)
    patterns = tap.patterns
    assert isinstance(patterns, apmae.Patterns)
    assert len(patterns) == 2 * 48
    assert patterns.prompt.shape == patterns.layer.shape == patterns.head.shape == (96,)
    probabilities, scaled = patterns.probabilities(), patterns.scaled()
    length = encoded.input_ids.shape[1]
    assert probabilities.shape == scaled.shape == (96, length, length)
    assert probabilities.dtype == scaled.dtype == np.float32
    real = encoded.attention_mask.bool().numpy()[patterns.prompt]
    np.testing.assert_allclose(probabilities.sum(-1)[real], 1, atol=1e-4)
    assert (np.triu(probabilities, 1) == 0).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert len(patterns[:10]) == 10
    captured_elsewhere = apmae.Patterns.from_probabilities(probabilities[:48])
    np.testing.assert_allclose(captured_elsewhere.probabilities(), probabilities[:48], atol=1e-6)

    mae = apmae.APMAE.from_pretrained(real_study.folder / "encoder")
    z = mae.encode(patterns)
    assert z.shape == (96, 160)
    assert z.dtype == np.float32
    mae.save_pretrained(tmp_path / "encoder")
    np.testing.assert_array_equal(apmae.APMAE.from_pretrained(str(tmp_path / "encoder")).encode(patterns), z)

    cls, z = z, apmae.represent(patterns, mae, kind="joint")
    assert z.shape == (96, 141 + 160) and z.dtype == np.float32
    np.testing.assert_array_equal(apmae.represent(patterns, mae, kind="cls"), cls)
    np.testing.assert_array_equal(apmae.represent(patterns, mae, kind="descriptor"), z[:, :141])

    atlas = apmae.Atlas.fit(z, seed=0)
    assert atlas.labels_.shape == (96,)
    assert isinstance(atlas.clusters, pa.Table)
    assert {"name", "size"} <= set(atlas.clusters.column_names)
    placed = atlas.place(z)
    assert placed.cluster.shape == placed.strength.shape == (96,)
    assert placed.coordinates.shape == (96, 4)
    atlas.save(tmp_path / "atlas")
    np.testing.assert_array_equal(apmae.Atlas.load(tmp_path / "atlas").place(z).cluster, placed.cluster)

    tags = apmae.tag(lm, "int x = ", suffix=";\n", mae=mae, atlas=atlas)
    assert {"layer", "head", "cluster", "name", "strength"} <= set(tags.column_names)
    assert tags.num_rows == 48


def test_training_takes_patterns_or_a_stream_of_them():
    patterns, _ = planted(2, size=64)
    mae = apmae.train(patterns, recipe="debug", steps=3, seed=0)
    assert mae.encode(patterns).shape == (len(patterns), 160)
    streamed = apmae.train((patterns for _ in range(9)), recipe="debug", steps=3, seed=0)
    assert streamed.encode(patterns).shape == (len(patterns), 160)
    again = apmae.train(patterns, recipe="debug", steps=3, seed=0)
    for ours, theirs in zip(mae.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_one_error_catches_every_mistake():
    with pytest.raises(apmae.ApmaeError):
        apmae.load_lm("/no/such/model")
    with pytest.raises(apmae.ApmaeError):
        apmae.APMAE.from_pretrained("/no/such/encoder")
    with pytest.raises(apmae.ApmaeError):
        apmae.Atlas.load("/no/such/atlas")
    with pytest.raises(apmae.ApmaeError):
        apmae.Patterns.from_probabilities(np.ones((1, 4, 4)))
    with pytest.raises(apmae.ApmaeError) as refused:
        apmae.Atlas.fit(np.zeros((1, 4)))
    assert isinstance(refused.value, ConfigError)


def test_an_atlas_refuses_the_embeddings_of_another_encoder(bundled_lm, tmp_path):
    patterns, _ = planted(2, size=64)
    mine, other = (apmae.train(patterns, recipe="debug", steps=1, seed=seed) for seed in (0, 1))
    z = mine.encode(patterns)
    apmae.Atlas.fit(z, seed=0, encoder=mine, representation="cls").save(tmp_path / "mine")
    atlas = apmae.Atlas.load(tmp_path / "mine")
    assert atlas.encoder == mine.fingerprint
    assert np.array_equal(atlas.place(z, encoder=mine).cluster, atlas.place(z).cluster)
    for pair in ({"mae": other, "atlas": atlas}, {"atlas": atlas}, {"mae": mine}):  # the bundled one by default
        with pytest.raises(ConfigError, match=r"expected the encoder that the atlas was fitted with \(.* got another"):
            apmae.tag(bundled_lm, "int x = ", **pair)
    with pytest.raises(ConfigError, match="that belong together"):
        atlas.place(other.encode(patterns), encoder=other)
    bare = apmae.Atlas.fit(z, seed=0)
    assert bare.encoder is None
    assert bare.place(other.encode(patterns), encoder=other).cluster.shape == (len(patterns),), "taken as they are"
    with pytest.raises(ConfigError, match="expected embeddings of 160 dimensions"):
        bare.place(z[:, 1:])
    assert apmae.tag(bundled_lm, "int x = ", mae=mine, atlas=atlas).num_rows == 48


def test_the_bundled_artifacts_fit_together(bundled_lm):
    mae, atlas = apmae.APMAE.from_pretrained(), apmae.Atlas.load()
    assert atlas.encoder == mae.fingerprint
    assert mae.config.pattern_size <= bundled_lm.max_length
    java = (apmae.bundled.java() / "ledger" / "Money.java").read_text()
    tags = apmae.tag(bundled_lm, java[:3000], suffix=java[3010:], mae=mae, atlas=atlas)
    assert tags.num_rows == 48
    assert sum(cluster >= 0 for cluster in tags["cluster"].to_pylist()) > 12, "a quarter of the heads is known"
