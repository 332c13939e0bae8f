"""The sizes and the given tokenizer of tools/train_lm.py, on a few steps of a tiny model."""

import dataclasses
import hashlib
import json
import zipfile

import pytest
from lm_families import SIZES, Settings, build_model, with_tokens
from lm_rows import load_tokenizer
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from train_lm import save_model, train
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from apmae import bundled

PARTS = with_tokens(Settings().parts, 768, 0)
TINY = Settings(context=48, layers=1, heads=2, key_value_heads=1, hidden=16, feed_forward=16, parts=PARTS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The bundled sample laid out as a JDK's src.zip: one package of it falls into the held-out thirty-third."""
    names = [f"module/p{number}" for number in range(200)]
    held_out = [name for name in names if int(hashlib.md5(name.encode()).hexdigest(), 16) % 33 == 0]
    path = tmp_path_factory.mktemp("jdk") / "src.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for number, file in enumerate(sorted(bundled.java().rglob("*.java"))):
            opened.write(file, f"{held_out[0] if number < 20 else 'module/training'}/{number}.java")
    return path


@pytest.fixture(scope="module")
def run(archive, tmp_path_factory):
    """The folder of a finished run with the bundled tokenizer."""
    out = tmp_path_factory.mktemp("run")
    model, tokenizer = train(TINY, archive, out, bundled.language_model())
    save_model(model, tokenizer, TINY, out, "float16")
    return out


def test_the_large_size_is_the_bundled_model():
    made, given = build_model(SIZES["large"]).config.to_dict(), AutoConfig.from_pretrained(bundled.language_model())
    unlike = {key for key, value in given.to_dict().items() if made.get(key) != value}
    assert unlike <= {"architectures", "dtype", "_name_or_path", "transformers_version"}


def test_sizes_differ_only_in_layers_heads_width_and_tokens():
    small, medium, large = (dataclasses.asdict(SIZES[name]) for name in ("small", "medium", "large"))
    for name in ("layers", "heads", "hidden", "feed_forward"):
        assert small[name] < medium[name] < large[name]
    for size in (small, medium, large):
        assert size["hidden"] == 24 * size["heads"]
        assert size["heads"] == 2 * size["key_value_heads"]
    grown = {"layers", "heads", "key_value_heads", "hidden", "feed_forward", "parts"}
    assert {key for key in large if small[key] != large[key] or medium[key] != large[key]} == grown
    for size in (small, medium):
        for part, whole in zip(size["parts"], large["parts"], strict=True):
            assert part["tokens"] % (part["rows"] * size["context"]) == 0  # no token of the budget is left over
            assert part | {"tokens": 0} == whole | {"tokens": 0}


def test_a_given_tokenizer_is_saved_unchanged(run):
    given = bundled.language_model() / "tokenizer.json"
    assert json.loads((run / "tokenizer.json").read_text()) == json.loads(given.read_text())
    assert json.loads((run / "recipe.json").read_text())["tokenizer"] == "given"


def test_the_saved_model_loads_and_has_learnt(run):
    log = [json.loads(line) for line in (run / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"]["all"] < log[0]["loss"]["all"]
    ids = AutoTokenizer.from_pretrained(run)("int x = 1;", return_tensors="pt")["input_ids"]
    assert AutoModelForCausalLM.from_pretrained(run)(input_ids=ids).logits.shape == (1, ids.shape[1], 4096)


def test_a_run_is_not_continued_with_another_tokenizer(run, archive):
    with pytest.raises(ValueError, match="other flags"):
        train(TINY, archive, run)


def test_a_tokenizer_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"expected 4095 tokens.*has 4096"):
        load_tokenizer(bundled.language_model(), dataclasses.replace(TINY, vocab_size=4095))


def test_a_tokenizer_with_special_tokens_elsewhere_is_refused(tmp_path):
    other = Tokenizer(BPE())
    swapped = ["<|endoftext|>", "<fim_middle>", "<fim_prefix>", "<fim_suffix>", "<fim_pad>"]
    other.add_special_tokens([AddedToken(token, special=True) for token in swapped])
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"expected 5 tokens of which the first are <\|endoftext\|>, <fim_prefix>"):
        load_tokenizer(tmp_path, dataclasses.replace(TINY, vocab_size=5))


def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a tokenizer"):
        load_tokenizer(tmp_path, TINY)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path, TINY)
