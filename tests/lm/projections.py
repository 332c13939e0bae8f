"""The output projections of the matrix's models, found by name: what edits of heads are compared with."""

import copy
import re
from contextlib import ExitStack, contextmanager

import torch
from families import HEADS
from transformers.pytorch_utils import Conv1D

_PROJECTION = re.compile(
    r"\.(\d+)\.(?:shared_transformer\.)?(?:\w*attention|\w*attn|mixer|temporal_block)(?:\.attention)?"
    r"\.(?:\w+_proj|dense|output\.dense|Wo|out_lin)$"
)
_INPUTS = re.compile(r"\.(q|k|v|q_a|q_b|kv_a|kv_b|qkv|g)_proj$|relative_attention")


def projections(model, layers=range(99)):
    """Layer -> its output projection, found by name; without those of other layers and of picture towers."""
    found = {}
    for path, module in model.named_modules():
        match = _PROJECTION.search(path)
        if match and not _INPUTS.search(path) and "vision" not in path and int(match[1]) in layers:
            assert int(match[1]) not in found, path
            found[int(match[1])] = module
    return found


def with_scaled_columns(model, factors, counts=None):
    """A copy whose output projections read heads times a factor, {(layer, head): factor}; biases are unchanged."""
    scaled = copy.deepcopy(model)
    counts = counts or dict.fromkeys(range(99), HEADS)
    matrices = projections(scaled, counts)
    for layer in {layer for layer, _ in factors}:  # layers may share one matrix
        matrices[layer].weight = torch.nn.Parameter(matrices[layer].weight.detach().clone())
    for (layer, head), factor in factors.items():
        weight = matrices[layer].weight.data
        columns = weight.T if isinstance(matrices[layer], Conv1D) else weight  # Conv1D keeps (in, out)
        width = columns.shape[1] // counts[layer]
        columns[:, head * width : (head + 1) * width] *= factor
    return scaled


@contextmanager
def given_to_projections(model, counts):
    """Layer -> what its output projection was last called with, (prompt, query, head, width)."""
    kept = {}

    def keep(layer):
        def hook(_module, inputs):
            kept[layer] = inputs[0].detach().unflatten(-1, (counts[layer], -1))

        return hook

    with ExitStack() as stack:
        for layer, matrix in projections(model, counts).items():
            stack.callback(matrix.register_forward_pre_hook(keep(layer)).remove)
        yield kept


@contextmanager
def rewritten_projections(model, counts, new):
    """Inside, projections are called with other columns: new[layer, head](columns) of (prompt, query, width)."""

    def write(layer):
        def hook(_module, inputs):
            heads = list(inputs[0].unflatten(-1, (counts[layer], -1)).unbind(2))
            for (other, head), make in new.items():
                if other == layer:
                    heads[head] = make(heads[head])
            return (torch.cat(heads, -1), *inputs[1:])

        return hook

    with ExitStack() as stack:
        for layer, matrix in projections(model, counts).items():
            stack.callback(matrix.register_forward_pre_hook(write(layer)).remove)
        yield
