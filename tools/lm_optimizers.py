"""The optimizers of ``train_lm.py``, and checkpoints of a model with the state of its optimizers."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lm_families import Part
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel


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


def build_optimizers(model: PreTrainedModel, part: Part) -> Optimizers:
    """Muon for the matrices inside layers, AdamW for embeddings, biases, norms and what belongs to experts."""
    in_layer = re.compile(r"\.(?:layers|h)\.\d+\..*weight$")  # h in GPT-2 and BLOOM; experts' tensors have no such name
    hidden = {name: p for name, p in model.named_parameters() if p.ndim == 2 and in_layer.search(name)}
    rest = [p for name, p in model.named_parameters() if name not in hidden]
    return Muon(hidden.values(), part.learning_rates[0]), torch.optim.AdamW(
        rest, part.learning_rates[1], betas=(0.9, 0.95)
    )


def save_checkpoint(state_file: Path, state: dict[str, Any], model: PreTrainedModel, optimizers: Optimizers) -> None:
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


def load_checkpoint(tensors_file: Path, model: PreTrainedModel, optimizers: Optimizers) -> None:
    """Put back what :func:`save_checkpoint` wrote."""
    muon, adam = optimizers
    parameters = dict(model.named_parameters())
    for key, tensor in load_file(tensors_file).items():
        name, _, slot = key.partition("/")
        if slot:
            (muon if slot == "mean" else adam).state[parameters[name]][slot] = tensor.clone()
        else:
            parameters[name].data.copy_(tensor)
