"""A model without some of its heads, in weights alone: it loads with transformers and behaves as under an edit.

A head's columns of the output projection are set to zero, which is what the edit "zero" does. For "mean", what the
projection makes of the head's mean output is added to the projection's bias. A projection without bias gets one if the
family's config has a switch for it (``attention_bias`` or its like); the switch's other biases are zero. If none is
found, nothing stands in place of the heads, as with "zero", and :attr:`PrunedModel.mode` says so.

Heads are taken out, not only zeroed, where the family's config can say so: as many heads in each layer, whole groups
that share keys and values, and matrices of queries, keys and values that are named as in Llama. Else
:attr:`PrunedModel.zeroed_because` says why not.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from apmae.errors import CaptureError, first_line
from apmae.lm.changes import Mean
from apmae.lm.edit import edited_heads
from apmae.lm.importance import columns_of
from apmae.lm.language_model import LM
from apmae.lm.record import Place
from apmae.lm.selection import expect_head
from apmae.lm.tracing import find_projections

_QUERY, _KEYS = "q_proj", ("k_proj", "v_proj")
_SWITCHES = ("attention_bias", "attention_out_bias", "use_bias", "bias")
"""What configs call the switch that gives output projections a bias."""


class PrunedModel(NamedTuple):
    """A copy of a model without heads."""

    model: PreTrainedModel
    mode: str
    """What stands in place of the heads: "mean" or "zero"."""
    biased: bool
    """Whether output projections got a bias that they did not have."""
    zeroed_because: str | None
    """Why heads are zeroed and not taken out; None if they are taken out."""
    no_mean_because: str | None
    """Why nothing stands in place of heads though means were given; None if they do, or none were."""


@torch.no_grad()
def pruned_model(lm: LM, heads: Sequence[Place], means: Mapping[Place, Mean] | None = None) -> PrunedModel:
    """Copy a model without heads. The model itself is not changed.

    Args:
        lm: the model.
        heads: (layer, head) of those to remove.
        means: of them, to stand in their place; None: nothing does.

    Raises:
        CaptureError: if there is no such head, none is given, or the model is edited now; or if a layer has no output
            projection of its own that reads its heads' output alone, or one that is no plain linear module.
    """
    wanted = sorted(set(heads))
    if not wanted:
        raise CaptureError("expected at least one head to remove, got none")
    for layer, head in wanted:
        expect_head(lm.heads, layer, head)
    if edited_heads(lm.model):
        raise CaptureError(
            "expected a model that is not edited now, got one inside apmae.edit; copy it after the block"
        )
    names = _names(lm, find_projections(lm))
    model = copy.deepcopy(lm.model)
    without_mean, biased = None, False
    if means is not None and any(model.get_submodule(names[layer]).bias is None for layer, _ in wanted):
        with_bias = _with_biases(model, names)
        if isinstance(with_bias, str):
            without_mean, means = with_bias, None
        else:
            model, biased = with_bias, True
    for layer in dict.fromkeys(layer for layer, _ in wanted):
        projection: Any = model.get_submodule(names[layer])
        added = torch.zeros((), dtype=torch.float64, device=projection.weight.device)
        for head in (head for own, head in wanted if own == layer):
            columns = columns_of(projection).chunk(lm.heads[layer], 1)[head]
            if means is not None:
                added = added + columns.double() @ means[layer, head].values.to(added)
            columns.zero_()
        if means is not None:  # once per layer: half precisions would round each sum
            projection.bias.copy_(projection.bias.double() + added)
    smaller = _taken_out(model, wanted, lm.heads, names)
    zeroed = smaller if isinstance(smaller, str) else None
    if not isinstance(smaller, str):
        model = smaller
    return PrunedModel(model, "zero" if means is None else "mean", biased, zeroed, without_mean)


def head_groups(lm: LM) -> dict[int, int]:
    """How many heads share keys and values, in each layer, as the config says; 1 if it does not."""
    config = lm.model.config.get_text_config()
    shared = getattr(config, "num_key_value_heads", None)
    return {
        layer: count // shared if isinstance(shared, int) and 0 < shared <= count and count % shared == 0 else 1
        for layer, count in lm.heads.items()
    }


def _names(lm: LM, projections: Mapping[int, nn.Module]) -> dict[int, str]:
    paths = {id(module): path for path, module in lm.model.named_modules()}
    return {layer: paths[id(module)] for layer, module in projections.items()}


def _with_biases(model: PreTrainedModel, names: Mapping[int, str]) -> PreTrainedModel | str:
    """The same model with a bias on each output projection, or why the family has none."""
    why = f"the output projections of {type(model).__name__} have no bias, and no switch for one is known"
    for switch in (name for name in _SWITCHES if getattr(model.config, name, None) is False):
        config = copy.deepcopy(model.config)
        setattr(config, switch, True)
        made = _copied(model, config)
        if isinstance(made, str):
            why = made
        elif any(made.get_submodule(path).bias is None for path in names.values()):
            why = f"{switch} gives the output projections of {type(model).__name__} no bias"
        else:
            return made
    return why


def _copied(model: PreTrainedModel, config: Any, cut: Mapping[str, Tensor] | None = None) -> PreTrainedModel | str:
    """A model of another config with the weights of this one, some of them cut; or why there is none.

    Biases that only the other one has are zero.
    """
    kind: Any = type(model)
    try:
        made = kind(config).to(model.device).eval()
    except Exception as error:  # configs refuse what they cannot hold with errors of their own
        return f"{type(model).__name__} cannot be made so: {first_line(error)}"
    for parameter in made.parameters():  # not the buffers: rotary frequencies stay in float32
        parameter.data = parameter.data.to(model.dtype)
    ours = {**model.state_dict(), **(cut or {})}
    theirs = made.state_dict()
    lacking = [name for name in theirs if name not in ours and not name.endswith(".bias")]
    unlike = [name for name in ours if name not in theirs or ours[name].shape != theirs[name].shape]
    if lacking or unlike:
        return f"{[*unlike, *lacking][0]} would have another shape"
    for name, values in theirs.items():
        values.copy_(ours[name]) if name in ours else values.zero_()
    made.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
    return made


def _taken_out(
    model: PreTrainedModel, heads: Sequence[Place], counts: Mapping[int, int], names: Mapping[int, str]
) -> PreTrainedModel | str:
    """The model with matrices that lack zeroed heads, or why there is none."""
    config = copy.deepcopy(model.config)
    if config.get_text_config() is not config:
        return "its config has several parts"
    if getattr(config, "num_kv_shared_layers", 0):
        return "late layers read the keys of earlier ones"
    count, shared = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if not isinstance(count, int) or any(own != count for own in counts.values()):
        return "layers have different numbers of heads"
    if not isinstance(shared, int):
        return "its config does not say how many heads share keys"
    size = count // shared
    gone = {layer: {head for own, head in heads if own == layer} for layer in counts}
    if len({len(own) for own in gone.values()}) > 1:
        return "config files hold one number of heads for all layers, and layers lose different numbers"
    groups = {layer: {head // size for head in own} for layer, own in gone.items()}
    if any(len(groups[layer]) * size != len(own) for layer, own in gone.items()):
        return f"{size} heads each share keys and values, and only some of them go"
    left = shared - len(next(iter(groups.values())))
    if not left:
        return "no head would be left"
    found, cut = model.state_dict(), dict[str, Tensor]()
    for layer in counts:
        read = f"{names[layer]}.weight"
        inside = names[layer].rpartition(".")[0]
        for matrix in (_QUERY, *_KEYS):
            if f"{inside}.{matrix}.weight" not in found or not isinstance(model.get_submodule(names[layer]), nn.Linear):
                return f"{type(model).__name__} has no matrices of queries, keys and values named as in Llama"
            every = shared if matrix in _KEYS else count
            off = groups[layer] if matrix in _KEYS else gone[layer]
            for path in (f"{inside}.{matrix}.{part}" for part in ("weight", "bias")):
                if path in found:
                    parts = found[path].chunk(every)
                    cut[path] = torch.cat([parts[number] for number in range(every) if number not in off])
        parts = found[read].chunk(count, 1)
        cut[read] = torch.cat([parts[number] for number in range(count) if number not in gone[layer]], 1)
    width = cut[f"{next(iter(names.values()))}.weight"].shape[1] // (left * size)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = left * size, left, width
    return _copied(model, config, cut)
