"""What one backward says of every head: how much the answer would change if its output did.

With o a head's output at all tokens of a prompt, g the gradient of the expected token's log-probability by it and m the
head's mean output:

- *gradient*: |sum of o g|, over tokens and width (Michel et al. 2019), without their normalisation by layer;
- *attribution*: sum of (m - o) g, the change of log-probability that a linear approximation predicts if the mean
  stood in place of the output (attribution patching, arXiv 2310.10348); with m = 0, if nothing did.

Axes: b prompts, h heads of all layers, q queries, v width of a head's output.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from apmae.errors import CaptureError
from apmae.lm.changes import Mean
from apmae.lm.language_model import LM
from apmae.lm.outcome import pad
from apmae.lm.record import Place, record_heads
from apmae.prompts.fim import Window


class Importance(NamedTuple):
    """Of each prompt and head; heads by layer and head."""

    gradient: Float[Tensor, "b h"]
    attribution: Float[Tensor, "b h"]


def importance_of(lm: LM, windows: Sequence[Window], means: Mapping[Place, Mean] | None = None) -> Importance:
    """One forward and one backward; parameters get no gradients.

    Args:
        lm: a model that answers.
        windows: what it sees, with a completion.
        means: of every head, for the attribution to what stands in its place; None: nothing does.

    Raises:
        CaptureError: if the model's heads cannot be recorded.
    """
    ids, mask = pad([window.ids for window in windows], lm.pad_id)
    positions = [window.masks[0] if window.masks else len(window.ids) - 1 for window in windows]
    shown = sorted(set(positions))
    few: dict[str, Any] = {"logits_to_keep": torch.tensor(shown, device=lm.device)} if lm.keeps_logits else {}
    columns = [shown.index(position) for position in positions] if few else positions
    inputs = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device)}
    with torch.enable_grad(), record_heads(lm.model, gradients=True) as recorded:
        logits = lm.model(**inputs, use_cache=False, **few).logits
        at = logits[range(len(windows)), columns].float().log_softmax(-1)
        wanted = torch.tensor([window.completion[0] for window in windows], device=at.device)
        outputs = recorded.outputs
        gradients = torch.autograd.grad(at.gather(1, wanted[:, None]).sum(), [*outputs.values()])
    gradient, attribution = [], []
    for (layer, output), slope in zip(outputs.items(), gradients, strict=True):
        own, slope = output.detach().double(), slope.double()
        held = torch.zeros(own.shape[2:], dtype=own.dtype, device=own.device)
        if means is not None:
            held = torch.stack([means[layer, head].values for head in range(own.shape[2])]).to(held)
        gradient.append((own * slope).sum((1, 3)).abs().cpu())
        attribution.append(((held - own) * slope).sum((1, 3)).cpu())
    return Importance(torch.cat(gradient, 1).float(), torch.cat(attribution, 1).float())


def columns_of(projection: nn.Module) -> Float[Tensor, "out in"]:
    """The matrix of an output projection, which heads' outputs are multiplied by: a view, one column per number.

    Raises:
        CaptureError: if it is no plain linear module.
    """
    weight = getattr(projection, "weight", None)
    if isinstance(projection, Conv1D) and isinstance(weight, Tensor):
        return weight.data.T
    if isinstance(projection, nn.Linear) and isinstance(weight, Tensor) and weight.is_floating_point():
        return weight.data
    raise CaptureError(
        f"expected an output projection that is a plain linear module, got {type(projection).__name__}; "
        "load the model without quantisation or adapters"
    )


def weight_norms(projections: Mapping[int, nn.Module], heads: Mapping[int, int]) -> dict[Place, float]:
    """Frobenius norm of each head's columns of its layer's output projection.

    Args:
        projections: from :func:`apmae.lm.tracing.find_projections`.
        heads: of each layer.
    """
    found = {}
    for layer, projection in projections.items():
        for head, own in enumerate(columns_of(projection).double().chunk(heads[layer], 1)):
            found[layer, head] = float(own.norm())
    return found
