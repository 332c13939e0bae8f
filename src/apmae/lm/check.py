"""The check that what the tap captures is what the model's own eager attention says.

The same comparison in the tests uses real text. On random tokens a trained model can have probabilities below fp32's
smallest, as the trained Llama of the tests does: eager's log is then -inf, ours is not, and ``log_normalize`` of the
two differs.
"""

import torch
from torch import Tensor

from apmae.errors import CaptureError, ModelError, first_line
from apmae.lm.attention import eager_attention, listening
from apmae.lm.language_model import LM
from apmae.lm.layers import attention_modules, ranges
from apmae.lm.rows import Attention
from apmae.lm.tap import capture

TOLERANCE = 1e-4
"""Largest difference in probability from eager that loading accepts in float32."""

TOLERANCE_MOVED = {torch.bfloat16: 0.15, torch.float16: 0.03}
"""The same for half precisions, where eager rounds its scores: one entry of a right pattern can be off by more than
0.1. There the share of attention that a head puts elsewhere is compared, a mean over rows: the right patterns of the
models measured stay under 0.04 and 0.005, heads taken for one another are near 0.4."""


@torch.no_grad()
def check_capture(lm: LM) -> float:
    """Compare the tap with the model's own eager attention on two short prompts, one of them padded.

    Returns:
        The largest difference in probability; for half precisions what :data:`TOLERANCE_MOVED` bounds.

    Raises:
        ModelError: if the model has no eager attention to compare with in some layer, is not causal, or differs by more
            than :data:`TOLERANCE`.
    """
    name = type(lm.model).__name__
    size = min(48, lm.max_length or 48)
    vocabulary = lm.model.config.get_text_config().vocab_size
    ids = (torch.arange(2 * size).reshape(2, size) * 7919 + 11) % vocabulary
    mask = torch.ones_like(ids)
    padding = size // 4
    mask[1, :padding] = 0
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    heard: set[int] = set()

    def hear(layer: int, attention: Attention, _output: Tensor | None) -> None:
        if attention.shape[2:] != (size, size):
            queries, keys = attention.shape[2:]
            raise CaptureError(
                f"layer {layer} attends from {queries} queries to {keys} keys in prompts of {size} tokens, so that its "
                "queries and keys are not the tokens; apmae does not support it"
            )
        heard.add(layer)

    try:
        with listening(lm.model, attention_modules(lm.model), hear), capture(lm.model) as tap:
            lm.model(input_ids=ids, attention_mask=mask, use_cache=False)
        if silent := [layer for layer in lm.heads if layer not in heard]:
            raise CaptureError(f"layers {ranges(silent)} attend in a way that apmae cannot see")
        captured = tap.patterns
        with eager_attention(lm.model):
            eager = lm.model(input_ids=ids, attention_mask=mask, use_cache=False, output_attentions=True).attentions
    except CaptureError as error:
        raise ModelError(f"cannot capture {name}: {error}") from error
    except RuntimeError as error:
        raise ModelError(f"cannot run {name}: {first_line(error)}; do its weights fit its config?") from error
    if len(eager or ()) == lm.num_layers:  # others have a place for layers without attention too
        eager = [eager[layer] for layer in lm.heads]
    shapes = [(2, heads, size, size) for heads in lm.heads.values()]
    if [tuple(getattr(layer, "shape", ())) for layer in eager or ()] != shapes:
        raise ModelError(f"{name} gives no eager attention to check capture against; apmae does not support it")
    probabilities = torch.from_numpy(captured.probabilities())
    real = mask.bool().cpu()
    valid = real[:, None, :, None] & real[:, None, None, :]
    half = lm.model.dtype in TOLERANCE_MOVED
    limit = TOLERANCE_MOVED.get(lm.model.dtype, TOLERANCE)
    found = [torch.zeros(())]
    for (layer, heads), theirs in zip(lm.heads.items(), eager, strict=True):
        ours = probabilities[torch.from_numpy(captured.layer == layer)].unflatten(0, (2, heads))
        theirs = theirs.float().cpu().masked_fill(~valid, 0.0)  # rows of padding may hold anything
        theirs[1] = theirs[1].roll((-padding, -padding), (-2, -1))  # ours begin with the first token
        if lm.causal and float(theirs.triu(1).amax()) > 1e-6:
            raise ModelError(f"expected a causal model, {name} attends to later tokens; is its config a decoder's?")
        differences = (ours - theirs).abs()  # prompt head query_pos key_pos
        found.append((differences.sum((0, 2, 3)) / 2 / real.sum()).amax() if half else differences.amax())
    difference = float(torch.stack(found).amax())
    if not difference <= limit:
        raise ModelError(
            f"expected captured patterns of {name} within {limit:g} of its eager attention, they differ by "
            f"{difference:.3g}; apmae does not support this kind of attention"
        )
    return difference
