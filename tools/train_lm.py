"""Train the small fill-in-the-middle Java model that the package bundles, or another size or family of it.

    python tools/train_lm.py JDK/lib/src.zip --out model
    python tools/train_lm.py JDK/lib/src.zip --out model-small --size small --tokenizer model
    python tools/train_lm.py JDK/lib/src.zip --out llama --family llama --texts prose

Everything comes from one source and one seed: the texts, the byte-level BPE, the initial weights, every row. Only the
BPE may be given instead, so that all sizes of a family read a prompt as the same tokens. Training of the bundled family
has two parts. The first teaches the language; half of its rows are plain and half are infilling. The second starts a
new cosine, mostly on infilling rows, and gives the first infilled token the largest weight, because the package scores
that token. The other families (``lm_families.py``) train on plain rows alone.

The resulting folder is in transformers layout, with ``training_log.jsonl`` (held-out loss and accuracy by kind of
token, head scores of ``check_lm.py``) and ``recipe.json`` (settings, versions, the source's hash). Its
``checkpoint/`` is only for resuming. The script downloads nothing and writes no source text anywhere.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from check_lm import HALF, best_heads, eager_patterns, head_scores, repeated_random_tokens
from lm_families import END, FAMILIES, SIZES, TINY, Part, Settings, build_model, with_tokens
from lm_optimizers import Optimizers, build_optimizers, load_checkpoint, save_checkpoint
from lm_rows import FIRST, INFILLED, UNSCORED, Texts, draw_rows, load_tokenizer, train_tokenizer
from lm_texts import TEXTS, sha256
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from apmae.progress import progress
from apmae.seeding import generator


def token_losses(model: PreTrainedModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token but a row's first, and whether it was the likeliest: ``[rows, context - 1]`` each."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].transpose(1, 2)
    return cross_entropy(logits, tokens[:, 1:], reduction="none"), logits.argmax(1) == tokens[:, 1:]


def train_step(
    model: PreTrainedModel, optimizers: Optimizers, part: Part, tokens: Tensor, roles: Tensor, done: float
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
def evaluate(model: PreTrainedModel, settings: Settings, tokens: Tensor, roles: Tensor) -> dict[str, Any]:
    """Loss and accuracy by kind of token that occurs, and the best heads, on ids and roles ``[rows, context]``."""
    measured = [token_losses(model, chunk) for chunk in tokens.split(16)]
    losses, right = torch.cat([loss for loss, _ in measured]), torch.cat([hit for _, hit in measured]).float()
    plain, roles = (roles < INFILLED).all(dim=1), roles[:, 1:]
    scored = roles != UNSCORED
    kinds = {"all": scored, "plain": scored & plain[:, None], "middle": roles >= INFILLED, "first": roles == FIRST}
    kinds = {kind: chosen for kind, chosen in kinds.items() if chosen.any()}
    scores = head_scores(eager_patterns(model, tokens[plain][:16]))  # on the texts, except induction
    lead = [END] if FAMILIES[settings.family].opened else []
    repeated = repeated_random_tokens(settings.vocab_size, list(range(len(settings.special))), lead)
    scores["induction"] = head_scores(eager_patterns(model, repeated), period=HALF)["induction"]
    return {
        "loss": {kind: round(float(losses[chosen].mean()), 3) for kind, chosen in kinds.items()},
        "accuracy": {kind: round(float(right[chosen].mean()), 3) for kind, chosen in kinds.items()},
        "best_head": {behaviour: best["score"] for behaviour, best in best_heads(scores).items()},
    }


def train(
    settings: Settings, source: Path, out: Path, tokenizer_folder: Path | None = None
) -> tuple[PreTrainedModel, Tokenizer]:
    """Train, resuming from what is in ``out``; returns the model and its tokenizer, made here unless given.

    Every batch has its own generator, named by part and step, so resuming needs no generator state.
    """
    given = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder, settings)
    sides = TEXTS[settings.texts](source, settings.seed)
    tokenizer = train_tokenizer(sides[0], settings) if given is None else given
    training, held_out = (Texts(side, tokenizer) for side in sides)
    recipe = {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "source_sha256": sha256(source),
        "tokenizer": "trained on the source" if given is None else "given",
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
    model, context, opened = build_model(settings), settings.context, FAMILIES[settings.family].opened

    def log(index: int, step: int, count: int) -> None:
        """Measure on the same ``count`` held-out rows every time."""
        *before, part = settings.parts[: index + 1]
        trained = sum(earlier.tokens for earlier in before) + step * part.rows * context
        kinds = dataclasses.replace(settings.parts[0], repeated=0.0)
        rows = draw_rows(held_out, kinds, context, opened, count, generator(settings.seed, "held out"))
        line = {"part": part.name, "step": step, "million_tokens": round(trained / 1e6, 3), "held_out_rows": count}
        state["log"].append(line | evaluate(model, settings, *rows))
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
                    rows = draw_rows(training, part, context, opened, part.rows, rng)
                    train_step(model, optimizers, part, *rows, done=step / steps)
                    advance()
        log(index, steps, 800)
    return model, tokenizer


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, settings: Settings, out: Path, dtype: str) -> None:
    """Write the model and its tokenizer into ``out`` as transformers lays them out.

    The tokenizer of a family whose rows are opened by a token begins every text with it. Only the bundled one does not:
    its prompts begin with a sentinel.
    """
    model.to(getattr(torch, dtype)).save_pretrained(out)
    family, (end, *sentinels) = FAMILIES[settings.family], settings.special
    special: dict[str, Any] = {"eos_token": end, "unk_token": end}
    if family.infilling:
        special |= {"bos_token": end, "pad_token": sentinels[-1], "extra_special_tokens": sentinels[:-1]}
    elif family.opened:
        special |= {"bos_token": end}
        tokenizer.post_processor = TemplateProcessing(single=f"{end} $A", special_tokens=[(end, END)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=settings.context, clean_up_tokenization_spaces=False, **special
    ).save_pretrained(out)


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(
        description="Train the small fill-in-the-middle Java model, another size, or a tiny model of another family.",
        epilog="Takes 1 GB of memory and, on one core, 25 minutes (small, 5500 tokens per second), an hour (medium) or "
        "three (large, 2000); the other families take about ten minutes. --part1-tokens 600000 --part2-tokens 0 shows "
        "in six minutes at most that the loss falls. After a kill, the same command resumes from the last checkpoint "
        "(every 100 steps, half a minute to four minutes) and ends with the same weights, if the number of threads is "
        "the same. After the end it only saves again, for instance with another --dtype.",
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE",
        help="for java and prose lib/src.zip of a JDK (the recipe took JDK 25), for python a folder of .py files",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where model, log and checkpoint go")
    parser.add_argument("--family", choices=FAMILIES, default="starcoder2", help="default %(default)s, as bundled")
    parser.add_argument("--texts", choices=TEXTS, default="java", help="what to train on; default %(default)s")
    parser.add_argument("--size", choices=SIZES, help="of starcoder2; default large, as bundled. The others have one")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="take its tokenizer.json instead of making one")
    parser.add_argument("--part1-tokens", type=int, metavar="N", help="instead of the size's own")
    parser.add_argument("--part2-tokens", type=int, metavar="N", help="instead of the size's own; only starcoder2")
    parser.add_argument("--seed", type=int, default=0, help="of texts, rows and weights; default %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the saved weights")
    flags = parser.parse_args()
    infilling = FAMILIES[flags.family].infilling
    if not infilling and (flags.size, flags.part2_tokens) != (None, None):
        parser.error(f"{flags.family} has one size and one part: leave out --size and --part2-tokens")
    if infilling and flags.texts != "java":
        parser.error(f"{flags.family} learns infilling, which needs java: leave out --texts, or take another --family")
    torch.set_num_threads(flags.threads)
    chosen = SIZES[flags.size or "large"] if infilling else TINY
    wanted = (flags.part1_tokens, flags.part2_tokens)
    tokens = (part.tokens if n is None else n for part, n in zip(chosen.parts, wanted, strict=False))
    settings = dataclasses.replace(
        chosen, family=flags.family, texts=flags.texts, seed=flags.seed, parts=with_tokens(chosen.parts, *tokens)
    )
    try:
        model, tokenizer = train(settings, flags.source, flags.out, flags.tokenizer)
    except (ValueError, OSError, zipfile.BadZipFile) as problem:
        sys.exit(f"train_lm.py: {problem}")
    save_model(model, tokenizer, settings, flags.out, flags.dtype)


if __name__ == "__main__":
    main()
