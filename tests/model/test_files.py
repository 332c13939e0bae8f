"""Checkpoints that are damaged, of another format, shape or kind: each is refused in one line that says what to do."""

import json
import resource
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from apmae import bundled
from apmae.errors import ModelError
from apmae.model.folder import FORMAT
from apmae.model.mae import APMAE
from apmae.patterns.whitening import Whitening


@pytest.fixture
def saved(tiny, tmp_path):
    tiny().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def saved_once(tiny, tmp_path_factory):
    """For hypothesis, which runs a test many times: a checkpoint, and a folder for broken copies."""
    folder, broken = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("broken")
    tiny().save_pretrained(folder)
    shutil.copytree(folder, broken, dirs_exist_ok=True)
    return folder, broken


def change(folder, **fields):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **fields}))


def refused(folder, message):
    with pytest.raises(ModelError, match=message) as caught:
        APMAE.from_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# -- the format --------------------------------------------------------------------------------------------------------


def test_a_saved_model_says_its_format(saved):
    assert json.loads((saved / "config.json").read_text())["format"] == FORMAT == 2


def test_files_without_a_format_number_are_read(tiny, saved):
    values = json.loads((saved / "config.json").read_text())
    del values["format"]
    (saved / "config.json").write_text(json.dumps(values))
    assert APMAE.from_pretrained(saved).fingerprint == tiny().fingerprint
    change(saved, format=1)
    assert APMAE.from_pretrained(saved).fingerprint == tiny().fingerprint


@pytest.mark.parametrize("found", [FORMAT + 1, 999, 0, -1, "1", 1.0, True, None, [1]])
def test_another_format_is_refused_by_its_number(saved, found):
    change(saved, format=found)
    message = refused(saved, f"expected an AP-MAE of format {FORMAT} or older in .*config.json, got format ")
    assert f"got format {found!r}; install the version of apmae that wrote it" in message


# -- the constants of CLS ----------------------------------------------------------------------------------------------


@pytest.fixture
def whitening(tiny):
    """Constants that belong to nothing, but have the shapes of a model of 12 dimensions."""
    draw = np.random.default_rng(0)
    return Whitening(*(draw.normal(size=shape).astype(np.float32) for shape in ((12,), (12,), (12, 12))))


def test_the_constants_of_a_models_cls_come_with_it(tiny, tmp_path, whitening):
    model = tiny()
    assert model.whitening is None
    model.whitening = whitening
    model.save_pretrained(tmp_path)
    loaded = APMAE.from_pretrained(tmp_path)
    assert loaded.whitening is not None
    for name, array in whitening._asdict().items():
        assert np.array_equal(getattr(loaded.whitening, name), array)
    assert loaded.fingerprint == tiny().fingerprint, "they are not what an atlas compares"


def test_the_constants_of_a_model_that_was_there_before_are_removed(tiny, tmp_path, whitening):
    first = tiny()
    first.whitening = whitening
    first.save_pretrained(tmp_path)
    tiny(seed=1).save_pretrained(tmp_path)
    assert APMAE.from_pretrained(tmp_path).whitening is None


def test_constants_that_cannot_be_read_or_do_not_fit_are_refused(tiny, saved, whitening):
    path = saved / "whitening.safetensors"
    whitening.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    refused(saved, "expected the constants of a CLS in .*whitening.safetensors: .*; delete it to compute them again")
    save_file({"mean": torch.zeros(12)}, path)
    refused(saved, "expected the constants of a CLS in .*; delete it to compute them again")
    whitening._replace(whiten=np.ones((12, 11), np.float32)).save(path)
    refused(saved, "expected constants for 12 dimensions in .*whitening.safetensors, got shapes .*; delete it")
    path.unlink()
    assert APMAE.from_pretrained(saved).whitening is None


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON in .*config.json, it is damaged"),
        (b'{"model_type": "apmae"', "expected JSON in .*config.json, it is damaged.*or give another folder"),
        (b"\xff\xfe{}", "expected JSON in .*config.json, it is damaged"),
        (b"[]", "expected an AP-MAE's settings in .*config.json, got a JSON list; check the file"),
        (b"null", "got a JSON NoneType"),
        (b'"apmae"', "got a JSON str"),
        (b"{}", "expected an AP-MAE config, ours or the published one; this has no "),
    ],
)
def test_a_file_that_is_not_a_configuration(saved, content, message):
    (saved / "config.json").write_bytes(content)
    refused(saved, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 7}, "patch_size 7 does not divide pattern_size 40"),
        ({"patch_size": 0}, "patch_size: .*greater than or equal to 1, got 0"),
        ({"mask_ratio": 1.5}, "mask_ratio: .*less than 1, got 1.5"),
        ({"scaling": "unknown"}, "scaling: .*log_normalize"),
        ({"encoder_depth": 3}, "encoder_depth: Extra inputs are not permitted"),
        ({"encoder_dim": "wide"}, "encoder_dim: .*got 'wide'"),
    ],
)
def test_impossible_settings(saved, fields, message):
    change(saved, **fields)
    assert "is this an AP-MAE?" in refused(saved, message)


def test_a_missing_configuration(saved, tmp_path):
    (saved / "config.json").unlink()
    refused(saved, "it has no config.json; was its training finished")
    (saved / "config.json").mkdir()
    refused(saved, "it has no config.json; was its training finished")


# -- the weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"encoder_dim": 14}, {"encoder_layers": 3}, {"encoder_layers": 1}, {"grid": "square"}, {"patch_size": 4}],
)
def test_weights_of_another_shape(saved, fields):
    change(saved, **fields)
    refused(saved, "expected weights that fit .*config.json, they do not: ")


@given(share=st.floats(0, 1, exclude_max=True))
def test_weights_cut_short_anywhere(saved_once, share):
    folder, broken = saved_once
    whole = (folder / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    refused(broken, "expected whole AP-MAE weights in .*model.safetensors: .*; copy, download or train them again")


def test_missing_weights(saved):
    (saved / "model.safetensors").unlink()
    refused(saved, "expected whole AP-MAE weights in ")
    (saved / "model.safetensors").mkdir()
    refused(saved, "expected whole AP-MAE weights in ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(saved, value):
    weights = load_file(saved / "model.safetensors")
    weights["encoder.mlps.1.up.weight"].flatten()[[3, 5]] = value
    save_file(weights, saved / "model.safetensors")
    refused(saved, "encoder.mlps.1.up.weight has 2 of 192 that are not; take an earlier checkpoint")


def test_weights_that_float16_cannot_hold(tiny, tmp_path):
    model = tiny()
    with torch.no_grad():
        model.mask_token[0] = 1e6
    model.save_pretrained(tmp_path, dtype=torch.float16)
    refused(tmp_path, "mask_token has 1 of 10 that are not; .*save in another dtype if these were float16")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("decoder_dim", 1_611_392, r"decoder_positions has shape \(1, .*\), not \(1, .*, 1611392\)"),
        ("encoder_layers", 10**7, "its layers have at least .* numbers, all weights together"),
        ("encoder_mlp_dim", 10**12, "its layers have at least"),
        ("decoder_heads", 10**9, "its layers have at least"),
        ("pattern_size", 2**40, "pattern_size: Input should be less than or equal to 65536"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken_for_them(saved, name, value, said):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, name: value}))
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(saved, said)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started < 100_000, "kilobytes"


# -- whatever a stranger writes ----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data(), published=st.booleans())
def test_no_setting_ends_in_anything_but_a_model_error(saved_once, data, published):
    folder, broken = saved_once
    values = json.loads((folder / "config.json").read_text())
    if published:
        names = {"pattern_size": "max_length", "encoder_head_dim": "encoder_dim_head"}
        names |= {"decoder_head_dim": "decoder_dim_head"}
        values = {names.get(name, name): value for name, value in values.items()}
        values |= {"model_type": "ap_mae", "hidden_act": "gelu", "encoder_heads": 1, "encoder_dim_head": 12}
    name = data.draw(st.sampled_from(sorted(values)))
    (broken / "config.json").write_text(json.dumps({**values, name: data.draw(JSON)}))
    shutil.copy(folder / "model.safetensors", broken)
    try:
        APMAE.from_pretrained(broken)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1


# -- what it is --------------------------------------------------------------------------------------------------------


def test_a_model_is_the_same_wherever_its_files_lie(tiny, saved, tmp_path):
    (saved / "notes.txt").write_text("what lies beside changes nothing")
    assert APMAE.from_pretrained(saved).fingerprint == tiny().fingerprint
    shutil.copytree(bundled.encoder(), tmp_path / "copy")
    (tmp_path / "copy" / "metrics.jsonl").unlink()
    assert APMAE.from_pretrained(tmp_path / "copy").fingerprint == APMAE.from_pretrained().fingerprint
    tiny(seed=1).save_pretrained(saved)
    assert APMAE.from_pretrained(saved).fingerprint != tiny().fingerprint
    tiny().save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert APMAE.from_pretrained(tmp_path / "half").fingerprint != tiny().fingerprint, "its embeddings differ too"
