"""Saved patterns come back exactly, other tools' files are read, damaged files are refused with one line."""

import json
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from apmae.errors import ArtifactError, CaptureError
from apmae.patterns.patterns import Patterns


def dense(*shape, causal=True, seed=0):
    weights = np.exp(np.random.default_rng(seed).normal(0, 2, shape))
    weights = np.tril(weights) if causal else weights
    return weights / weights.sum(-1, keepdims=True)


def same(first, second):
    """Whether two are equal in everything."""
    arrays = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("prompt", "layer", "head"))
    names = ("size", "causal", "reach", "tokens", "lengths", "rows")
    return (
        arrays
        and first.log_patches.dtype == second.log_patches.dtype
        and torch.equal(first.log_patches, second.log_patches)
        and all(getattr(first, name) == getattr(second, name) for name in names)
    )


TEXTS = st.lists(st.text(st.characters(), max_size=3), max_size=36)


@given(
    causal=st.booleans(),
    size=st.integers(1, 12),
    patch=st.integers(1, 5),
    more=st.integers(0, 4),
    prompts=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    reach=st.sampled_from(["whole", "pool", "crop"]),
    tokens=st.none() | st.dictionaries(st.sampled_from([0, 1]), TEXTS),
    lengths=st.none() | st.dictionaries(st.sampled_from([2, 3]), st.integers(0, 36)),
)
def test_what_is_saved_comes_back_exactly(causal, size, patch, more, prompts, dtype, reach, tokens, lengths):
    """For every dtype and reach, causal and square, with and without texts (with surrogates too)."""
    made = Patterns.from_probabilities(dense(len(prompts), size, size, causal=causal), patch=patch, causal=causal)
    if reach == "whole":
        tokens = tokens and {prompt: texts[:size] for prompt, texts in tokens.items()}
        lengths = lengths and {prompt: min(length, size) for prompt, length in lengths.items()}
    patterns = Patterns(
        made.log_patches.to(dtype),
        size,
        prompt=np.array(prompts, np.int64),
        layer=made.layer + 2,
        head=made.head + 2**40,
        causal=causal,
        tokens=tokens,
        reach=reach,
        lengths=lengths,
    ).resized(size + more)
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder) / "new" / "a.safetensors", Path(folder) / "b.safetensors"
        patterns.save(path)
        assert same(Patterns.load(path), patterns)
        Patterns.load(path).save(again)
        assert path.read_bytes() == again.read_bytes()
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_slice_saves_only_its_own_patterns(tmp_path):
    patterns = Patterns.from_probabilities(dense(8, 32, 32), tokens={i: ["x"] * 32 for i in range(8)})
    patterns[2].save(tmp_path / "one.safetensors")
    assert (tmp_path / "one.safetensors").stat().st_size < 2 * 32 * 32 * 4
    assert Patterns.load(tmp_path / "one.safetensors").tokens == {2: ("x",) * 32}


def test_any_reader_of_safetensors_reads_our_files(tmp_path):
    patterns = Patterns.from_probabilities(dense(2, 5, 5), patch=4, layer=[3, 4], tokens={0: list("hello")})
    patterns.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert np.array_equal(file.get_tensor("log_patches"), patterns.log_patches.numpy())
        assert file.get_tensor("layer").tolist() == [3, 4]
        assert json.loads(file.get_tensor("texts").tobytes())["tokens"] == {"0": list("hello")}
        about = json.loads(file.metadata()["apmae"])
    assert about == {"artifact": "patterns", "format": 1, "size": 5, "causal": True, "reach": "whole"}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".NPY"])
@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 3, 6, 6), (2, 2, 3, 6, 6), (0, 6, 6)])
def test_probabilities_of_other_tools_are_read(tmp_path, suffix, shape, causal):
    array = dense(*shape, causal=causal).astype(np.float32)
    path = tmp_path / f"attention{suffix}"
    write(path, {"any name": array})
    patterns = Patterns.load(path)
    assert patterns.causal == (causal or not len(array))
    assert np.abs(patterns.probabilities() - array.reshape(-1, 6, 6)).max(initial=0) < 1e-6
    for number, place in enumerate(np.ndindex(shape[:-2])):
        expected = (place[0], 0, 0) if len(shape) == 3 else (0, 0, *place)[-3:]
        assert (patterns.prompt[number], patterns.layer[number], patterns.head[number]) == expected


def write(path, arrays):
    if path.suffix.lower() == ".npy":
        with path.open("wb") as file:
            np.save(file, next(iter(arrays.values())))
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_attention_that_a_model_rounded_is_read(tmp_path, dtype):
    array = torch.from_numpy(dense(4, 24, 24)).to(dtype)
    save_file({"attention": array}, tmp_path / "a.safetensors")
    assert np.abs(Patterns.load(tmp_path / "a.safetensors").probabilities() - array.double().numpy()).max() < 1e-6


def test_columns_first_arrays_are_read(tmp_path):
    array = dense(2, 3, 5, 5)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    assert np.abs(Patterns.load(tmp_path / "a.npy").probabilities() - array.reshape(-1, 5, 5)).max() < 1e-6


@pytest.mark.parametrize("name", ["attention", "attentions", "patterns", "probabilities"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_of_several_arrays_the_named_one_is_read(tmp_path, suffix, name):
    path = tmp_path / f"a{suffix}"
    write(path, {"a": np.arange(3), name: dense(2, 4, 4), "z": np.zeros((1, 2, 2))})
    assert len(Patterns.load(path)) == 2


def test_the_caller_may_say_whether_patterns_are_causal(tmp_path):
    np.save(tmp_path / "causal.npy", dense(1, 4, 4))
    np.save(tmp_path / "square.npy", dense(1, 4, 4, causal=False))
    assert not Patterns.load(tmp_path / "causal.npy", causal=False).causal
    with pytest.raises(CaptureError, match="above the diagonal"):
        Patterns.load(tmp_path / "square.npy", causal=True)


def changed(array, value):
    array = array.copy()
    array[0, 2, 1] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": changed(dense(2, 4, 4), np.nan)}, "expected finite probabilities"),
        ({"a": np.log(dense(1, 4, 4) + 1e-9)}, "pass attention after its softmax"),
        ({"a": dense(4, 4)}, r"got \(4, 4\)"),
        ({"a": np.ones((1, 4, 5))}, r"got \(1, 4, 5\)"),
        ({"a": np.ones((2, 0, 0))}, r"got \(2, 0, 0\)"),
        ({"a": np.ones((1, 1, 1, 1, 2, 2))}, r"got \(1, 1, 1, 1, 2, 2\)"),
        ({"a": np.ones((1, 1, 1), np.complex64)}, "an array of"),
        ({"b": dense(1, 2, 2), "a": dense(1, 2, 2)}, "found a, b; save the probabilities alone"),
        ({"attention": dense(1, 2, 2), "patterns": dense(1, 2, 2)}, "found attention, patterns"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_that_are_not_probabilities_are_refused(tmp_path, suffix, arrays, message):
    path = tmp_path / f"a{suffix}"
    write(path, arrays)
    with pytest.raises(CaptureError, match=message) as caught:
        Patterns.load(path)
    assert str(caught.value).startswith(str(path))


def test_pickles_are_never_read(tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "b.npz", attention=objects)
    for name in ("c.npy", "d.npz", "e.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(dense(1, 4, 4)))
    for path in tmp_path.iterdir():
        with pytest.raises(CaptureError, match="without pickled objects"):
            Patterns.load(path)


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(CaptureError, match=r"^expected a file of patterns at \S+, found none; check the path"):
        Patterns.load(tmp_path / "missing.npy")
    with pytest.raises(CaptureError, match=r"^expected a file of patterns at \S+, found none; check the path"):
        Patterns.load(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"PK")
    with pytest.raises(CaptureError, match=r"^expected patterns in \.npy, \.npz, \.safetensors"):
        Patterns.load(tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", dense(1, 2, 2))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("readme.txt", "no array")
    np.savez(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", a=dense(1, 2, 2))
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    for name in ("a.npz", "b.npz", "c.npz", "d.npy"):
        with pytest.raises(CaptureError):
            Patterns.load(tmp_path / name)


def ours(path, about=None, **tensors):
    """One of our files with some of its content replaced."""
    Patterns.from_probabilities(dense(2, 5, 5), patch=4).save(path)
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        head = json.loads(file.metadata()["apmae"])
    kept = {name: tensor for name, tensor in (found | tensors).items() if tensor is not None}
    save_file(kept, path, metadata={"apmae": json.dumps(head | about if isinstance(about, dict) else about or head)})


@pytest.mark.parametrize(
    ("about", "tensors", "message"),
    [
        ({"format": 2}, {}, "expected patterns of format 1, found patterns of format 2"),
        ({"artifact": "atlas"}, {}, "found atlas of format 1"),
        ([1], {}, "found another artifact of format None"),
        ({"size": 99}, {}, "patches for a pattern of 99 tokens, got 3"),
        ({"size": "5"}, {}, "cannot be read"),
        ({"size": 5.0}, {}, "cannot be read"),
        ({"causal": False}, {}, "expected 4 patches"),
        ({"reach": "mean"}, {}, "a reach of whole, pool, crop"),
        ({}, {"layer": torch.zeros(3, dtype=torch.int64)}, "the prompt, layer and head of each"),
        ({}, {"layer": None}, "cannot be read"),
        ({}, {"log_patches": torch.full((2, 3, 4, 4), torch.nan)}, "expected log probabilities, at most 0"),
        ({}, {"log_patches": torch.full((2, 3, 4, 4), torch.inf)}, "expected log probabilities, at most 0"),
        ({}, {"log_patches": torch.full((2, 3, 4, 4), 0.5)}, "expected log probabilities, at most 0"),
        ({}, {"log_patches": torch.zeros(2, 3, 4)}, "expected n log patches"),
        ({}, {"log_patches": torch.zeros(2, 3, 4, 4, dtype=torch.int32)}, "expected n log patches"),
        ({}, {"texts": torch.frombuffer(bytearray(b"[]"), dtype=torch.uint8)}, "cannot be read"),
        ({}, {"texts": torch.frombuffer(bytearray(b"{"), dtype=torch.uint8)}, "cannot be read"),
    ],
)
def test_files_of_ours_with_contradictory_content_are_refused(tmp_path, about, tensors, message):
    path = tmp_path / "a.safetensors"
    ours(path, about, **tensors)
    with pytest.raises(CaptureError, match=message):
        Patterns.load(path)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A file of each kind, as its name and bytes."""
    folder = tmp_path_factory.mktemp("examples")
    array = dense(2, 6, 6)
    write(folder / "a.npy", {"a": array})
    write(folder / "b.npz", {"attention": array, "other": np.arange(3)})
    np.savez_compressed(folder / "c.npz", array)
    write(folder / "d.safetensors", {"attention": array})
    Patterns.from_probabilities(array, patch=4, tokens={0: list("abcdef")}).save(folder / "e.safetensors")
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


@given(st.data())
def test_a_file_that_is_cut_short_is_refused(examples, data):
    name, content = data.draw(st.sampled_from(examples))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(CaptureError):
            Patterns.load(path)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(examples, data):
    name, content = data.draw(st.sampled_from(examples))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(damaged)
        try:
            patterns = Patterns.load(path)
        except CaptureError:
            return
        sums = patterns.probabilities().sum(-1)
        assert np.isfinite(sums).all()


def test_patterns_are_saved_as_safetensors_only(tmp_path):
    patterns = Patterns.from_probabilities(dense(1, 4, 4))
    with pytest.raises(CaptureError, match=r"a path that ends in \.safetensors"):
        patterns.save(tmp_path / "a.npy")
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        patterns.save(tmp_path / "file" / "a.safetensors")
