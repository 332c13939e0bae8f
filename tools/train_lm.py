"""Train the small fill-in-the-middle Java model that the package bundles, or its family, from the sources of a JDK.

    python tools/train_lm.py JDK/lib/src.zip --out model
    python tools/train_lm.py JDK/lib/src.zip --out model-small --size small --tokenizer model

Everything comes from one archive and one seed: the texts, the byte-level BPE, the initial weights, every row. Only the
BPE may be given instead, so that all sizes of the family read a prompt as the same tokens. Training has two parts. The
first teaches the language; half of its rows are plain and half are infilling. The second starts a new cosine, mostly on
infilling rows, and gives the first infilled token the largest weight, because the package scores that token.

The resulting folder is in transformers layout, with ``training_log.jsonl`` (held-out loss and accuracy by kind of
token, head scores of ``check_lm.py``) and ``recipe.json`` (settings, versions, the archive's hash). Its
``checkpoint/`` is only for resuming. The script downloads nothing and writes no source text anywhere.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from check_lm import HALF, best_heads, eager_patterns, head_scores, repeated_random_tokens
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Starcoder2Config, Starcoder2ForCausalLM

from apmae.progress import progress
from apmae.seeding import generator, subseed, unit_hash

SPECIAL = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]  # the names of StarCoder2
END, PREFIX, MIDDLE, SUFFIX, PAD = range(5)
# A token's role decides its weight in the loss. Sentinels are UNSCORED: their places are drawn, not to be learnt.
UNSCORED, CONTEXT, INFILLED, FIRST = range(4)

Row = list[tuple[int, int]]
"""Token id and role of each place."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stretch of training with its own cosine."""

    name: str
    tokens: int  # to train on, padding included
    rows: int  # in a batch
    learning_rates: tuple[float, float]  # of Muon and of AdamW, at their highest
    infilling: float  # share of rows that are infilling, 0 to 1; the rest are plain
    samples: tuple[float, ...]  # chance that an infilling row holds 1, 2, ... samples
    moved_space: float  # share of cuts after a lone space that move it into the middle, as byte-level BPE joins it
    weights: tuple[float, float, float, float]  # in the loss, by role


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the weights, except the archive and a given tokenizer; by default the size "large"."""

    seed: int = 0
    vocab_size: int = 4096
    context: int = 256
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 4
    hidden: int = 192
    feed_forward: int = 512
    parts: tuple[Part, ...] = (
        Part(name="from scratch", tokens=6_107_136, rows=8, learning_rates=(0.02, 4e-3), infilling=0.5,
             samples=(1.0,), moved_space=0.0, weights=(0.0, 1.0, 1.0, 1.0)),
        Part(name="continued, infilling-weighted", tokens=13_176_832, rows=16, learning_rates=(0.013, 2.5e-3),
             infilling=0.78, samples=(0.3, 0.4, 0.3), moved_space=0.5, weights=(0.0, 1.0, 4.0, 16.0)),
    )  # fmt: skip


def with_tokens(*tokens: int) -> tuple[Part, ...]:
    """The parts of training, on the given numbers of tokens."""
    return tuple(dataclasses.replace(part, tokens=n) for part, n in zip(Settings().parts, tokens, strict=True))


SIZES = {
    "small": Settings(
        layers=3, heads=4, key_value_heads=2, hidden=96, feed_forward=256, parts=with_tokens(2_359_296, 5_111_808)
    ),
    "medium": Settings(
        layers=4, heads=6, key_value_heads=3, hidden=144, feed_forward=384, parts=with_tokens(4_096_000, 8_847_360)
    ),
    "large": Settings(),
}
"""The family: 0.63, 1.29 and 2.64 M parameters; 24 dimensions per head and two heads per key in all of them.

There are 12, 10 and 7 tokens per parameter, always fewer than the 20 of Hoffmann et al. 2022, "Training Compute-Optimal
Large Language Models": as many as one core trains on in 25 minutes, an hour and three hours.
"""

OMITTED_MODULES = {"jdk.localedata", "jdk.charsets"}  # generated tables
OMITTED_FILES = {"module-info.java", "package-info.java"}
HEADER = re.compile(r"\A(?:\s*/\*.*?\*/)+\s*", re.DOTALL)
BLOCK_COMMENT = re.compile(
    r'("""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*)|/\*.*?\*/', re.DOTALL
)


def clean(text: str, *, keep_comments: bool) -> str:
    """The text without its licence header and, unless kept, without block comments and the empty lines they leave."""
    text = HEADER.sub("", text)
    if keep_comments:
        return text
    text = BLOCK_COMMENT.sub(lambda found: found[1] or "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).lstrip("\n")


def read_sources(archive: Path, seed: int) -> tuple[list[str], list[str]]:
    """The Java texts of a JDK's ``src.zip``, for training and held out: whole packages, by the MD5 of their folder."""
    sides: tuple[list[str], list[str]] = ([], [])
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            package, _, file = name.rpartition("/")
            wanted = file.endswith(".java") and file not in OMITTED_FILES and name.split("/")[0] not in OMITTED_MODULES
            if not wanted or opened.getinfo(name).file_size > 300_000:
                continue
            # Javadoc is a large share of a JDK: with all of it, a small model would mostly learn English.
            keep_comments = unit_hash(seed, "comments", name) >= 0.75
            text = clean(opened.read(name).decode("utf-8", errors="replace"), keep_comments=keep_comments)
            if len(text) >= 400 and len(text.encode("ascii", "ignore")) > len(text) / 2:
                held_out = int(hashlib.md5(package.encode(), usedforsecurity=False).hexdigest(), 16) % 33 == 0
                sides[held_out].append(text)
    if not all(sides):
        raise ValueError(f"expected the src.zip of a JDK, got {archive} with {len(sides[0])} + {len(sides[1])} files")
    return sides


def train_tokenizer(texts: list[str], settings: Settings) -> Tokenizer:
    """Byte-level BPE with single digits, on 20 MB of the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=SPECIAL,  # their ids are their places in the list
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    order = generator(settings.seed, "tokenizer").permutation(len(texts))
    before = np.cumsum([0, *(len(texts[index]) for index in order)])
    tokenizer.train_from_iterator([texts[i] for i, start in zip(order, before, strict=False) if start < 2e7], trainer)
    return tokenizer


def load_tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a model folder, which must have the settings' vocabulary size and :data:`SPECIAL` in its places.

    Raises:
        ValueError: ``tokenizer.json`` is no tokenizer, or a different one.
        OSError: there is no such file.
    """
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as problem:  # the library raises nothing narrower
        raise ValueError(f"expected a tokenizer, got {file} ({problem}): take the tokenizer of the family") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = [tokenizer.id_to_token(index) for index in range(len(SPECIAL))]
    if tokenizer.get_vocab_size() != settings.vocab_size or special != SPECIAL:
        raise ValueError(
            f"expected {settings.vocab_size} tokens of which the first are {', '.join(SPECIAL)}; {file} has "
            f"{tokenizer.get_vocab_size()}, first {', '.join(map(str, special))}: take the tokenizer of the family"
        )
    return tokenizer


LEXEME = re.compile(
    r"""
      (?P<comment> //[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string> \"{3}.*?\"{3} | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
    | (?P<number> \b(?: 0[xXbB][\da-fA-F_]+ | \d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)? )[lLfFdD]? )
    | (?P<boolean> \b(?:true|false)\b )
    | (?P<line_end> [;{,](?=[ \t]*\n) )
    | (?P<closing> [)\]}] )
    | (?P<comparison> [=!<>]= | (?<=\s)[<>](?=\s) )
    | (?P<logical> && | \|\| | ! )
    | (?P<assignment> (?: << | >>>? | [-+*/%&|^] )?= )
    | (?P<math> \+\+ | -- | [-+*/%](?!>) )
    | (?P<word> [A-Za-z_$][\w$]* )
    | (?P<other> \S )
    """,
    re.VERBOSE | re.DOTALL,
)
BALANCED = ("string", "number", "boolean", "line_end", "closing", "comparison", "logical", "assignment", "math", "word")


class Texts:
    """Texts laid end to end, so that one number draws a file, in proportion to its size, and a place in it."""

    def __init__(self, texts: list[str], tokenizer: Tokenizer) -> None:
        self.texts = texts
        self.ends = np.cumsum([len(text) for text in texts])
        self.encode: Callable[[str], list[int]] = lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    def draw(self, rng: np.random.Generator) -> tuple[str, int]:
        """A text and the start of one of its lines."""
        place = int(rng.integers(self.ends[-1]))
        index = int(np.searchsorted(self.ends, place, side="right"))
        text = self.texts[index]
        return text, text.rfind("\n", 0, place - int(self.ends[index]) + len(text)) + 1


def draw_middle(texts: Texts, moved_space: float, rng: np.random.Generator) -> tuple[str, int, int]:
    """A text and where its middle starts and ends: from a lexeme's start over one lexeme, a few, or the line's rest.

    Half of the cuts choose the kind of lexeme first, because brackets and words would otherwise drown the other kinds.
    """
    kind = str(rng.choice(BALANCED)) if rng.random() < 0.5 else None
    for attempt in range(1000):
        text, line = texts.draw(rng)
        if text.rfind("/*", 0, line) > text.rfind("*/", 0, line):
            continue  # inside a comment
        found = [m for m in LEXEME.finditer(text, line, min(len(text), line + 1000)) if m.lastgroup != "comment"]
        fitting = [i for i, m in enumerate(found) if m.lastgroup == kind or kind is None or attempt > 20]
        if fitting:
            break
    else:
        raise ValueError("expected Java code in the archive, found no lexeme in 1000 places")
    at = int(rng.choice(fitting))
    start, line_end = found[at].start(), text.find("\n", found[at].end())
    count = (1, int(rng.integers(2, 5)), int(rng.integers(5, 16)), 0)[rng.integers(4)]
    end = found[min(at + count, len(found)) - 1].end() if count else line_end if line_end >= 0 else len(text)
    lone_space = re.fullmatch(r"\S ", text[max(0, start - 2) : start])
    return text, start - (lone_space is not None and rng.random() < moved_space), end


def infilling_sample(texts: Texts, budget: int, moved_space: float, rng: np.random.Generator) -> Row:
    """``<fim_prefix> p <fim_suffix> s <fim_middle> m <|endoftext|>`` in at most ``budget`` tokens.

    Source: the prefix-suffix-middle order of Bavarian et al. 2022, section 3, with StarCoder2's sentinels. The three
    pieces are encoded separately, as they are when a prompt is made.
    """
    text, start, end = draw_middle(texts, moved_space, rng)
    middle = [*texts.encode(text[start:end]), END][: budget // 3]  # a longer middle loses its end
    room = budget - 3 - len(middle)
    # Eight characters per token are twice the mean: enough for either side to fill the room alone.
    prefix = texts.encode(text[max(0, start - 8 * room) : start])
    suffix = texts.encode(text[end : end + 8 * room])
    right = min(len(suffix), max(room - int(room * rng.uniform(0.25, 0.75)), room - len(prefix)))
    left = min(len(prefix), room - right)
    row = [(PREFIX, UNSCORED), *((token, CONTEXT) for token in prefix[len(prefix) - left :])]
    row += [(SUFFIX, UNSCORED), *((token, CONTEXT) for token in suffix[:right])]
    return [*row, (MIDDLE, UNSCORED), (middle[0], FIRST), *((token, INFILLED) for token in middle[1:])]


def plain_row(texts: Texts, context: int, rng: np.random.Generator) -> Row:
    """Code from some line on, after ``<|endoftext|>``; where a file ends, another follows."""
    row: Row = []
    while len(row) < context:
        text, start = texts.draw(rng)
        tokens = texts.encode(text[start : start + 8 * context])
        row += [(END, CONTEXT if row else UNSCORED), *((token, CONTEXT) for token in tokens)]
    return row[:context]


def draw_rows(texts: Texts, part: Part, context: int, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Token ids and roles, each ``[count, context]``; what an infilling row's samples leave empty is padding."""
    rows: list[Row] = []
    for _ in range(count):
        row: Row = []
        if rng.random() < part.infilling:
            samples = 1 + int(rng.choice(len(part.samples), p=part.samples))
            for _ in range(samples):
                row += infilling_sample(texts, context // samples, part.moved_space, rng)
        else:
            row = plain_row(texts, context, rng)
        rows.append(row + [(PAD, UNSCORED)] * (context - len(row)))
    both = torch.tensor(rows)
    return both[..., 0], both[..., 1]


def build_model(settings: Settings) -> Starcoder2ForCausalLM:
    """The untrained model: matrices from N(0, 0.02), biases 0, norms 1, drawn from a separate generator."""
    config = Starcoder2Config(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads, tie_word_embeddings=True, sliding_window=None,
        max_position_embeddings=2 * settings.context,  # rotary: text may be generated past the trained length
        bos_token_id=END, eos_token_id=END, pad_token_id=PAD, initializer_range=0.02,
    )  # fmt: skip
    model = Starcoder2ForCausalLM(config)
    draw = torch.Generator().manual_seed(subseed(settings.seed, "weights"))
    for matrix in (parameter for parameter in model.parameters() if parameter.ndim == 2):
        torch.nn.init.normal_(matrix, std=config.initializer_range, generator=draw)
    return model


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of ``[rows, columns]`` near 1 by five quintic Newton-Schulz steps.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with its coefficients.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # the square products are smaller on the short side
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with an orthogonalised step, for hidden matrices. Source: as :func:`orthogonalise`."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update from the current gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(mean, group["momentum"]))
                matrix.add_(update, alpha=-group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


Optimizers = tuple[Muon, torch.optim.AdamW]


def build_optimizers(model: Starcoder2ForCausalLM, part: Part) -> Optimizers:
    """Muon for the matrices inside layers, AdamW for embeddings, biases and norms."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return Muon(hidden, part.learning_rates[0]), torch.optim.AdamW(rest, part.learning_rates[1], betas=(0.9, 0.95))


def token_losses(model: Starcoder2ForCausalLM, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token but a row's first, and whether it was the likeliest: ``[rows, context - 1]`` each."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].transpose(1, 2)
    return cross_entropy(logits, tokens[:, 1:], reduction="none"), logits.argmax(1) == tokens[:, 1:]


def train_step(
    model: Starcoder2ForCausalLM, optimizers: Optimizers, part: Part, tokens: Tensor, roles: Tensor, done: float
) -> None:
    """One update on ids and roles, ``[rows, context]`` each, at ``done`` (0 to 1) of the part's cosine."""
    weights = torch.tensor(part.weights)[roles[:, 1:]]
    losses, _ = token_losses(model, tokens)
    ((losses * weights).sum() / weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    for optimizer, highest in zip(optimizers, part.learning_rates, strict=True):
        optimizer.param_groups[0]["lr"] = highest * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def evaluate(model: Starcoder2ForCausalLM, tokens: Tensor, roles: Tensor) -> dict[str, Any]:
    """Loss and accuracy by kind of token, and the best heads, on ids and roles ``[rows, context]``."""
    measured = [token_losses(model, chunk) for chunk in tokens.split(16)]
    losses, right = torch.cat([loss for loss, _ in measured]), torch.cat([hit for _, hit in measured]).float()
    plain, roles = (roles < INFILLED).all(dim=1), roles[:, 1:]
    scored = roles != UNSCORED
    kinds = {"all": scored, "plain": scored & plain[:, None], "middle": roles >= INFILLED, "first": roles == FIRST}
    scores = head_scores(eager_patterns(model, tokens[plain][:16]))  # on code, except induction
    repeated = repeated_random_tokens(model.config.vocab_size, list(range(len(SPECIAL))), [END])
    scores["induction"] = head_scores(eager_patterns(model, repeated), period=HALF)["induction"]
    return {
        "loss": {kind: round(float(losses[chosen].mean()), 3) for kind, chosen in kinds.items()},
        "accuracy": {kind: round(float(right[chosen].mean()), 3) for kind, chosen in kinds.items()},
        "best_head": {behaviour: best["score"] for behaviour, best in best_heads(scores).items()},
    }


def save_checkpoint(
    state_file: Path, state: dict[str, Any], model: Starcoder2ForCausalLM, optimizers: Optimizers
) -> None:
    """Write tensors, then ``state.json`` that names them: a kill at any moment leaves one whole pair."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            tensors |= {f"{name}/{slot}": value for slot, value in optimizer.state.get(parameter, {}).items()}
    state_file.parent.mkdir(exist_ok=True)
    save_file(tensors, state_file.with_name(state["tensors"]))
    new = state_file.with_suffix(".new")
    new.write_text(json.dumps(state, indent=2))
    os.replace(new, state_file)
    for old in state_file.parent.glob("*.safetensors"):
        if old.name != state["tensors"]:
            old.unlink()


def load_checkpoint(tensors_file: Path, model: Starcoder2ForCausalLM, optimizers: Optimizers) -> None:
    """Put back what :func:`save_checkpoint` wrote."""
    muon, adam = optimizers
    parameters = dict(model.named_parameters())
    for key, tensor in load_file(tensors_file).items():
        name, _, slot = key.partition("/")
        if slot:
            (muon if slot == "mean" else adam).state[parameters[name]][slot] = tensor.clone()
        else:
            parameters[name].data.copy_(tensor)


def train(
    settings: Settings, archive: Path, out: Path, tokenizer_folder: Path | None = None
) -> tuple[Starcoder2ForCausalLM, Tokenizer]:
    """Train, resuming from what is in ``out``; returns the model and its tokenizer, made here unless given.

    Every batch has its own generator, named by part and step, so resuming needs no generator state.
    """
    given = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder, settings)
    sides = read_sources(archive, settings.seed)
    tokenizer = train_tokenizer(sides[0], settings) if given is None else given
    training, held_out = (Texts(side, tokenizer) for side in sides)
    recipe = {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "archive_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "tokenizer": "trained on the archive" if given is None else "given",
        "tokenizer_sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "files": {"training": len(sides[0]), "held_out": len(sides[1])},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    state: dict[str, Any] = {"recipe": recipe, "part": 0, "step": -1, "log": []}
    state_file = out / "checkpoint" / "state.json"
    if state_file.exists():
        state = json.loads(state_file.read_text())
        if state["recipe"] != recipe:
            raise ValueError(f"{state_file} was made with other flags, versions or sources: use another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    model, context = build_model(settings), settings.context

    def log(index: int, step: int, count: int) -> None:
        """Measure on the same ``count`` held-out rows every time."""
        *before, part = settings.parts[: index + 1]
        trained = sum(earlier.tokens for earlier in before) + step * part.rows * context
        rows = draw_rows(held_out, settings.parts[0], context, count, generator(settings.seed, "held out"))
        line = {"part": part.name, "step": step, "million_tokens": round(trained / 1e6, 3), "held_out_rows": count}
        state["log"].append(line | evaluate(model, *rows))
        (out / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in state["log"]))

    for index, part in enumerate(settings.parts):
        if index < state["part"]:
            continue
        optimizers, steps, last_saved = build_optimizers(model, part), part.tokens // (part.rows * context), -1
        if index == state["part"] and state["step"] >= 0:
            last_saved = state["step"]
            load_checkpoint(state_file.with_name(state["tensors"]), model, optimizers)
        every = max(1, min(100, steps // 4))
        with progress(part.name, steps, done=max(0, last_saved)) as advance:
            for step in range(max(0, last_saved), steps + 1):
                if (step % every == 0 or step == steps) and step != last_saved:
                    log(index, step, 96)
                    state |= {"part": index, "step": step, "tensors": f"part{index}-step{step}.safetensors"}
                    save_checkpoint(state_file, state, model, optimizers)
                    advance(0, note=f"held-out loss {state['log'][-1]['loss']['all']}")
                if step < steps:
                    rng = generator(settings.seed, "rows", index, step)
                    rows = draw_rows(training, part, context, part.rows, rng)
                    train_step(model, optimizers, part, *rows, done=step / steps)
                    advance()
        log(index, steps, 800)
    return model, tokenizer


def save_model(model: Starcoder2ForCausalLM, tokenizer: Tokenizer, context: int, out: Path, dtype: str) -> None:
    """Write the model and its tokenizer into ``out`` as transformers lays them out."""
    model.to(getattr(torch, dtype)).save_pretrained(out)
    end, *infilling, pad = SPECIAL
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=context, clean_up_tokenization_spaces=False,
        bos_token=end, eos_token=end, unk_token=end, pad_token=pad, extra_special_tokens=infilling,
    ).save_pretrained(out)  # fmt: skip


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(
        description="Train the small fill-in-the-middle Java model, or its family, from a JDK's src.zip.",
        epilog="Takes 1 GB of memory and, on one core, 25 minutes (small, 5500 tokens per second), an hour (medium) or "
        "three (large, 2000); --part1-tokens 600000 --part2-tokens 0 shows in six minutes at most that the loss falls. "
        "After a kill, the same command resumes from the last checkpoint (every 100 steps, half a minute to four "
        "minutes) and ends with the same weights, if the number of threads is the same. After the end it only saves "
        "again, for instance with another --dtype.",
    )
    parser.add_argument("src_zip", type=Path, metavar="SRC_ZIP", help="lib/src.zip of a JDK (the recipe took JDK 25)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where model, log and checkpoint go")
    parser.add_argument("--size", choices=SIZES, default="large", help="of the family; default %(default)s, as bundled")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="take its tokenizer.json instead of making one")
    parser.add_argument("--part1-tokens", type=int, metavar="N", help="instead of the size's own")
    parser.add_argument("--part2-tokens", type=int, metavar="N", help="instead of the size's own")
    parser.add_argument("--seed", type=int, default=0, help="of texts, rows and weights; default %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the saved weights")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    chosen, wanted = SIZES[flags.size], (flags.part1_tokens, flags.part2_tokens)
    tokens = (part.tokens if n is None else n for part, n in zip(chosen.parts, wanted, strict=True))
    settings = dataclasses.replace(chosen, seed=flags.seed, parts=with_tokens(*tokens))
    try:
        model, tokenizer = train(settings, flags.src_zip, flags.out, flags.tokenizer)
    except (ValueError, OSError, zipfile.BadZipFile) as problem:
        sys.exit(f"train_lm.py: {problem}")
    save_model(model, tokenizer, settings.context, flags.out, flags.dtype)


if __name__ == "__main__":
    main()
