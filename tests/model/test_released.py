"""Published checkpoints: the reference checkpoint with the published code's outputs, and the layout itself."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from apmae.errors import ModelError
from apmae.model.mae import APMAE
from apmae.model.masking import Masking
from apmae.patterns import geometry
from apmae.patterns.patterns import Patterns

PATCH = 16


@pytest.fixture(scope="module")
def reference(shared_folder):
    """The model, the patterns, and what the published code computes from them."""
    folder = shared_folder("reference_checkpoint")
    expected = load_file(folder / "expected.safetensors")
    patterns = Patterns.from_probabilities(expected["attention"][:, 0], patch=PATCH)
    return APMAE.from_pretrained(folder), patterns, expected


def patches_by_loops(dense, numbers):
    """(n, m, q): patches by their number on the whole grid."""
    grid = dense.shape[-1] // PATCH
    rows = []
    for pattern, own in zip(dense, numbers.tolist(), strict=True):
        corners = [(number // grid * PATCH, number % grid * PATCH) for number in own]
        rows.append([pattern[y : y + PATCH, x : x + PATCH].flatten() for y, x in corners])
    return np.array(rows)


def on_the_triangle(model, numbers):
    """Numbers on the whole grid as ours."""
    ours = {slot: number for number, slot in enumerate(model.slots.tolist())}
    return torch.tensor([[ours[number] for number in row] for row in numbers.tolist()])


def test_attention_and_scaled(reference):
    _, patterns, expected = reference
    assert np.abs(patterns.probabilities() - expected["attention"][:, 0].numpy()).max() <= 1e-5
    assert np.abs(patterns.scaled() - expected["scaled"][:, 0].numpy()).max() <= 1e-5


def test_the_embedding_and_the_encoded_tokens(reference):
    model, patterns, expected = reference
    assert np.abs(model.encode(patterns) - expected["cls_all_patches"].numpy()).max() <= 1e-5
    with torch.no_grad():
        tokens = model.encode_tokens(model.scale(patterns))
    assert tokens.shape[1] == 1 + model.config.grid_size**2
    assert (tokens[:, 0] - expected["cls_all_patches"]).abs().max() <= 1e-5
    # "mean_tril" is the mean of CLS and of the tokens on or below the diagonal.
    lower = [0] + [1 + row * 4 + column for row in range(4) for column in range(row + 1)]
    assert (tokens[:, lower].mean(1) - expected["mean_tril"]).abs().max() <= 1e-5


def test_the_training_forward(reference):
    model, patterns, expected = reference
    scaled = expected["scaled"][:, 0].numpy()
    assert np.abs(patches_by_loops(scaled, expected["masked_indices"]) - expected["masked_patches"].numpy()).max() == 0
    masking = Masking(
        on_the_triangle(model, expected["unmasked_indices"]), on_the_triangle(model, expected["masked_indices"])
    )
    patches = model.scale(patterns)
    with torch.no_grad():
        result = model(patches, masking)
    hidden = patches.flatten(2).gather(1, masking.masked[..., None].expand(-1, -1, PATCH**2))
    assert (hidden - expected["masked_patches"]).abs().max() <= 1e-5
    assert (result.predicted - expected["predicted_patches"]).abs().max() <= 1e-5
    assert abs(float(result.published_loss - expected["loss"])) <= 1e-5
    real = np.tril(np.ones(scaled.shape[1:]))[None].repeat(len(scaled), 0)
    weights = patches_by_loops(real, expected["masked_indices"])
    squares = (expected["predicted_patches"] - expected["masked_patches"]).square().numpy()
    assert float(result.loss) == pytest.approx((squares * weights).sum() / weights.sum(), rel=1e-5)


def test_saving_in_our_layout_keeps_the_outputs(reference, tmp_path):
    model, patterns, _ = reference
    model.save_pretrained(tmp_path)
    again = APMAE.from_pretrained(tmp_path)
    assert (again.config.grid, again.config.decoder_input) == ("square", "cls")
    assert np.array_equal(again.encode(patterns), model.encode(patterns))


# -- the layout, without the reference ---------------------------------------------------------------------------------

NAMES = {
    "pattern_size": "max_length",
    "encoder_head_dim": "encoder_dim_head",
    "decoder_head_dim": "decoder_dim_head",
}


def identity(linear):
    with torch.no_grad():
        linear.weight.copy_(torch.eye(len(linear.weight)))
        linear.bias.zero_()


@pytest.fixture(params=["projections", "no projections"])
def published(tiny, tmp_path, request):
    """A small model in the published layout, and our model with the same numbers.

    Where dimensions are equal, the published code has no projection from encoder to decoder (so in all that were
    released: both are 512 wide), and none after an attention of one head.
    """
    model = tiny(grid="square", decoder_input="cls")
    left_out = ()
    if request.param == "no projections":
        model = tiny(grid="square", decoder_input="cls", decoder_dim=12, encoder_heads=1, encoder_head_dim=12)
        left_out = (
            "decoder.enc_to_dec.",
            "encoder.transformer.layers.0.0.to_out",
            "encoder.transformer.layers.1.0.to_out",
        )
        for linear in (model.to_decoder, *(attention.to_out for attention in model.encoder.attentions)):
            identity(linear)
    layers = {"norm": "1.net.0", "up": "1.net.1", "down": "1.net.4"}

    def theirs(name):
        name = re.sub(r"^(encoder|decoder)\.attentions\.(\d+)\.to_out", r"\1.transformer.layers.\2.0.to_out.0", name)
        name = re.sub(r"^(encoder|decoder)\.attentions\.(\d+)", r"\1.transformer.layers.\2.0", name)
        for ours, other in layers.items():
            name = re.sub(rf"^(encoder|decoder)\.mlps\.(\d+)\.{ours}", rf"\1.transformer.layers.\2.{other}", name)
        name = re.sub(r"^(encoder|decoder)\.norm", r"\1.transformer.norm", name)
        heads = {
            "embed": "encoder.patches_to_embedding",
            "cls": "encoder.cls_token",
            "positions": "encoder.pos_embedding",
            "decoder_positions": "decoder.pos_embedding",
            "to_decoder": "decoder.enc_to_dec",
            "mask_token": "decoder.mask_token",
            "to_pixels": "decoder.to_pixels",
        }
        first, _, rest = name.partition(".")
        return ".".join(part for part in (heads.get(first, first), rest) if part)

    weights = {theirs(name): tensor.clone() for name, tensor in model.state_dict().items()}
    assert len(weights) == len(model.state_dict())
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(left_out or "none")}
    save_file(weights, tmp_path / "model.safetensors")
    values = {NAMES.get(name, name): value for name, value in model.config.model_dump().items()}
    for name in ("grid", "decoder_input", "scaling"):
        values.pop(name)
    values |= {"model_type": "ap_mae", "hidden_act": "gelu", "qkv_bias": False, "encoder_pool": "cls"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path, model


def test_every_weight_finds_its_place(published):
    folder, model = published
    again = APMAE.from_pretrained(folder)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "relu"}, "gelu, no qkv bias and CLS pooling"),
        ({"qkv_bias": True}, "gelu, no qkv bias and CLS pooling"),
        ({"encoder_pool": "mean"}, "gelu, no qkv bias and CLS pooling"),
        ({"max_length": None}, "pattern_size"),
    ],
)
def test_other_architectures_are_refused(published, fields, message):
    folder, _ = published
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **fields}))
    with pytest.raises(ModelError, match=message):
        APMAE.from_pretrained(folder)


def test_a_missing_field_or_weight_is_named(published):
    folder, _ = published
    values = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights.pop("decoder.to_pixels.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="to_pixels.weight"):
        APMAE.from_pretrained(folder)
    values.pop("encoder_dim_head")
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="has no encoder_dim_head"):
        APMAE.from_pretrained(folder)


def test_encoding_feeds_the_whole_grid(tiny, random_patterns):
    """As the published weights were used: positions above the diagonal take part, although their patches are empty."""
    model = tiny(grid="square")
    patterns = random_patterns(2, 40)
    before = model.encode(patterns)
    above = next(slot for slot in range(25) if slot not in model.slots.tolist())
    assert geometry.num_patches(40, 8) == len(model.slots) == 15
    with torch.no_grad():
        model.positions[0, 1 + above] += torch.linspace(-1, 2, 12)
    assert np.abs(model.encode(patterns) - before).max() > 1e-3
