"""Small real tokenizers of the two main kinds, trained here on the bundled Java and on odd text."""

import json
from importlib import resources

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ODD = "é e\u0301 日本語 \U0001d4b3 👩\u200d👧 \t\r\n İstanbul ﬁ ½ \u1100\u1161 ‮"


def _texts():
    folder = resources.files("apmae") / "bundled" / "java"
    return [file.read_bytes().decode() for file in sorted(folder.glob("**/*.java"))[:6]] + [ODD] * 3


def byte_level(*, trim: bool = False, compose: bool = False) -> Tokenizer:
    """Like GPT-2's; with ``trim`` its offsets leave out blanks (Llama 3), with ``compose`` it joins accents (Qwen)."""
    tokenizer = Tokenizer(models.BPE())
    if compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return tokenizer


def metaspace() -> Tokenizer:
    """Like SentencePiece's with bytes for unknown characters (Llama, CodeLlama): blanks are signs, one is put first."""
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    names = ["<unk>", "<s>", *byte_names]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=names, limit_alphabet=60, show_progress=False)
    trained.train_from_iterator([line for text in _texts()[:6] for line in text.splitlines()], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    # made again, because the trainer makes the bytes special tokens, which a decoder leaves out
    bpe = models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def small_tokenizers() -> dict[str, Tokenizer]:
    return {
        "byte level": byte_level(),
        "trimmed": byte_level(trim=True),
        "composing": byte_level(compose=True),
        "metaspace": metaspace(),
    }
