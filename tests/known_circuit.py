"""A GPT-2 whose circuit is known, because its weights are written by hand, saved as a folder that loads like any model.

It does one thing: after "... e f ... x g ... e" it says f. Three heads do it, each in the next layer:

- the *previous token* head writes the token before each token beside it (f gets e);
- the *induction* head looks from the last token to where the token before was the same, and takes the token there;
- the *copy* head takes what the induction head wrote to where the unembedding reads.

In the counterfactual e and x have changed places, so g is right. All other heads are distractors: strong patterns
(first token, itself, the previous token), and what they write is either nothing, or something that the unembedding
reads but that is the same in both texts, or something that nobody reads. No MLP does anything.

The residual stream has one slot of 24 numbers each for token, position, token before, what induction found, the answer,
and what nobody reads; and two large numbers, so that layer norms multiply by nearly the same everywhere.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE = 24
"""Words, positions, and numbers of a slot, which is the width of a head."""
TOKEN, POSITION, BEFORE, FOUND, ANSWER, UNREAD, LARGE = range(7)
HEADS = 7
LAYERS = 3
ANCHOR = 20.0
"""Two numbers of the last slot: so large that a layer norm divides by nearly the same everywhere."""
BALANCE = slice(6 * SIZE, 7 * SIZE - 2)
"""The rest of the last slot, where what is written is taken off again, so that the mean stays 0."""
SCALE = (HEADS * SIZE / (2 * ANCHOR**2)) ** 0.5
"""What a layer norm multiplies by."""
DISTRACTORS = ("first", "self", "previous")
"""Strong patterns; "even" is a diffuse one, over the first half."""
WRITES = ("nothing", "the same", "unread")


@dataclass(frozen=True)
class Known:
    """A model and what is true of it."""

    folder: Path
    prompts: Path
    circuit: tuple[tuple[int, int], ...]
    """Its heads: previous token, induction, copy."""


def make_known(folder, seed=0, pairs=12, distractors=DISTRACTORS):
    """Write the model and its prompts.

    Args:
        folder: where.
        seed: decides which heads are the circuit, what the others do, and the prompts.
        pairs: prompts with their counterfactuals.
        distractors: what the other heads may do.
    """
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    draw = np.random.default_rng(seed)
    width = SIZE * HEADS
    words = [f"w{number}" for number in range(SIZE)]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0").save_pretrained(folder)
    model = hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=SIZE, n_positions=SIZE, n_embd=width, n_layer=LAYERS, n_head=HEADS, n_inner=8,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    one = torch.eye(SIZE)
    circuit = tuple((layer, int(draw.integers(HEADS))) for layer in range(LAYERS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                parameter.zero_()
        model.transformer.wte.weight[:, _slot(TOKEN)] = one
        model.transformer.wpe.weight[:, _slot(POSITION)] = one
        model.transformer.wte.weight[:, BALANCE] = model.transformer.wpe.weight[:, BALANCE] = -1 / (SIZE - 2)
        model.transformer.wpe.weight[:, -2:] = torch.tensor([ANCHOR, -ANCHOR])
        model.lm_head.weight[:, _slot(ANSWER)] = 10 * one
        for layer, block in enumerate(model.transformer.h):
            for head in range(HEADS):
                if (layer, head) == circuit[layer]:
                    kind = ("previous", "induction", "self")[layer]
                    reads, writes = ((TOKEN, BEFORE), (TOKEN, FOUND), (FOUND, ANSWER))[layer]
                    _write(block.attn, head, kind, reads, writes)
                else:
                    kind, what = draw.choice(distractors), draw.choice(WRITES)
                    same = what == "the same"  # only the first token is the same in both texts
                    reads, writes = (TOKEN, ANSWER if same else UNREAD)
                    _write(
                        block.attn, head, "first" if same else kind, reads, writes, 0.0 if what == "nothing" else 1.0
                    )
    model.eval().save_pretrained(folder)
    prompts = Path(folder) / "pairs.jsonl"
    prompts.write_text("".join(json.dumps(_pair(draw, words, number)) + "\n" for number in range(pairs)))
    return Known(Path(folder), prompts, circuit)


def _slot(number):
    return slice(number * SIZE, (number + 1) * SIZE)


def _write(attention, head, kind, reads, writes, strength=1.0):
    """One head: what its queries and keys compare, and which slot it moves where."""
    import torch

    one, width = torch.eye(SIZE), SIZE * HEADS
    query, key, value = (slice(part * width + head * SIZE, part * width + (head + 1) * SIZE) for part in range(3))
    weight = attention.c_attn.weight  # (width, 3 * width): input, output
    sharp, soft = (gap * SIZE**0.5 / SCALE**2 for gap in (12, 5))  # nats; a sharp softmax would have no gradient
    weight[_slot(POSITION), key] = one
    if kind == "previous":
        weight[_slot(POSITION), query] = sharp * torch.diag(torch.ones(SIZE - 1), -1)
    elif kind == "self":
        weight[_slot(POSITION), query] = sharp * one
    elif kind == "first":
        weight[_slot(POSITION), query] = sharp * torch.nn.functional.pad(torch.ones(SIZE, 1), (0, SIZE - 1))
    elif kind == "even":  # over the first half
        weight[_slot(POSITION), query] = sharp * torch.arange(SIZE).lt(SIZE // 2).float().expand(SIZE, SIZE)
    else:  # induction
        weight[_slot(POSITION), key] = 0
        weight[_slot(TOKEN), query], weight[_slot(BEFORE), key] = soft * one, one
    weight[_slot(reads), value] = one / SCALE
    attention.c_proj.weight[head * SIZE : (head + 1) * SIZE, _slot(writes)] = strength * one
    attention.c_proj.weight[head * SIZE : (head + 1) * SIZE, BALANCE] = -strength / (SIZE - 2)


def _pair(draw, words, number):
    """Two words swap places, so that the word after the last one is another."""
    length = int(draw.integers(12, 20))
    (*block,) = draw.permutation(SIZE)[:length]
    one, other = sorted(draw.choice(np.arange(1, length - 1, 2), 2, replace=False).tolist())
    last, right, wrong = block[one], block[one + 1], block[other + 1]
    swapped = list(block)
    swapped[one], swapped[other] = block[other], block[one]
    text, changed = (" ".join(words[place] for place in [*tokens, last]) for tokens in (block, swapped))
    return {
        "id": f"known-{number}", "task": "known", "prompt": text, "completion": f" {words[right]}",
        "counterfactual": changed, "wrong": [f" {words[wrong]}"],
    }  # fmt: skip
