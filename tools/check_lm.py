"""Measure which textbook heads a causal language model has, and print them as JSON.

Four behaviours. Each is the share of attention that a head puts on one key, averaged over queries and rows (0 to 1):

- previous token: the key just before the query;
- induction: in a random sequence that is repeated, the key after the earlier copy of the query's token
  (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022);
- first token: the first key of the row, the usual attention sink;
- self: the query's own key.

All four are measured on 2 x 64 random tokens, where text statistics cannot help; with ``--java``, all but induction
are also measured on code. Every row opens with the tokenizer's beginning-of-sequence token, if it has one, because a
sink that training put on that token does not show on any other. ``train_lm.py`` logs the same scores while it trains.
This script does not judge what a model writes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HALF = 64
ROWS = 16


def repeated_random_tokens(vocab_size: int, special: list[int], lead: list[int], rows: int = ROWS) -> Tensor:
    """Rows of random ordinary tokens, repeated once; always the same rows for the same arguments.

    Args:
        vocab_size: tokens are drawn uniformly below this id.
        special: ids that are never drawn.
        lead: ids that open every row.
        rows: how many rows.

    Returns:
        ``[rows, len(lead) + 2 * HALF]`` token ids.
    """
    ordinary = torch.ones(vocab_size)
    ordinary[special] = 0
    generator = torch.Generator().manual_seed(0)
    once = torch.multinomial(ordinary, rows * HALF, replacement=True, generator=generator).view(rows, HALF)
    return torch.cat([torch.tensor(lead, dtype=torch.long).expand(rows, -1), once, once], dim=1)


@torch.no_grad()
def eager_patterns(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Post-softmax attention of every head on every row.

    Args:
        model: any causal model of transformers; its attention implementation is put back afterwards.
        tokens: ``[rows, length]`` token ids.

    Returns:
        ``[layers, rows, heads, length, length]``: the last two axes are query_pos and key_pos.
    """
    before = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation("eager")  # the fused implementations return no patterns
    try:
        output = model(input_ids=tokens, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    return torch.stack(output.attentions).float()


def head_scores(patterns: Tensor, *, period: int | None = None) -> dict[str, Tensor]:
    """How strongly each head shows each behaviour.

    Args:
        patterns: ``[layers, rows, heads, length, length]``, see :func:`eager_patterns`.
        period: the last ``period`` tokens repeat the ``period`` tokens before them; None leaves induction out.

    Returns:
        Behaviour -> ``[layers, heads]``. Query 0 is always left out: it has one key, so every head would score 1.
    """

    def on_offset(offset: int, start: int) -> Tensor:
        """Mean attention of queries from ``start`` on to the key ``offset`` places before them."""
        return patterns.diagonal(-offset, dim1=-2, dim2=-1)[..., start - offset :].mean(dim=(1, 3))

    scores = {
        "previous_token": on_offset(1, start=1),
        "first_token": patterns[..., 1:, 0].mean(dim=(1, 3)),
        "self": on_offset(0, start=1),
    }
    if period is not None:
        scores["induction"] = on_offset(period - 1, start=patterns.shape[-1] - period)
    return scores


def best_heads(scores: dict[str, Tensor]) -> dict[str, dict[str, float | int]]:
    """For each behaviour the head that shows it most, from ``[layers, heads]`` scores."""
    best: dict[str, dict[str, float | int]] = {}
    for behaviour, by_head in scores.items():
        layer, head = divmod(int(by_head.argmax()), by_head.shape[1])
        best[behaviour] = {"score": round(float(by_head.max()), 3), "layer": layer, "head": head}
    return best


def java_rows(
    folder: Path, tokenizer: PreTrainedTokenizerBase, lead: list[int], length: int, rows: int = ROWS
) -> Tensor:
    """``lead`` and the opening tokens of the first ``rows`` long enough Java files: ``[rows, length]`` token ids.

    Raises:
        ValueError: no Java file in the folder is long enough.
    """
    found: list[list[int]] = []
    for path in sorted(folder.rglob("*.java")):
        text = path.read_text(encoding="utf-8")
        body = tokenizer(text, add_special_tokens=False, truncation=True, max_length=length - len(lead))["input_ids"]
        tokens = lead + body
        if len(tokens) == length and len(found) < rows:
            found.append(tokens)
    if not found:
        raise ValueError(f"expected a .java file of {length} tokens or more under {folder}, found none")
    return torch.tensor(found)


def check(model_dir: Path, java: Path | None) -> dict[str, Any]:
    """Parameter count and best heads of a model saved in transformers layout, as JSON-ready values."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    lead = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = repeated_random_tokens(len(tokenizer), tokenizer.all_special_ids, lead)
    report: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "random_tokens": best_heads(head_scores(eager_patterns(model, tokens), period=HALF)),
    }
    if java is not None:
        length = min(tokenizer.model_max_length, 256)
        report["java"] = best_heads(head_scores(eager_patterns(model, java_rows(java, tokenizer, lead, length))))
    return report


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description="Print a model's best head scores and parameter count as JSON.")
    parser.add_argument("model_dir", type=Path, help="a folder in transformers layout, with its tokenizer")
    parser.add_argument("--java", type=Path, metavar="FOLDER", help="score the heads on the Java files here as well")
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(check(arguments.model_dir, arguments.java), indent=2) + "\n")


if __name__ == "__main__":
    main()
