"""AP-MAE against a float64 numpy transformer (``mae_by_hand``), and its promised properties."""

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mae_by_hand import Oracle, masking_of, square_patterns
from safetensors.torch import load_file, save_file

from apmae.config import APMAEConfig
from apmae.errors import CaptureError, ModelError
from apmae.lm.tap import capture
from apmae.model.mae import APMAE
from apmae.model.masking import Masking
from apmae.patterns.patterns import Patterns
from apmae.patterns.scaling import SCALINGS

BOTH = pytest.mark.parametrize("decoder_input", ["visible", "cls"])
GRIDS = pytest.mark.parametrize("grid", ["triangle", "square"])


@GRIDS
@BOTH
def test_the_forward_is_the_papers(tiny, random_patterns, grid, decoder_input):
    model = tiny(grid=grid, decoder_input=decoder_input)
    oracle = Oracle(model)
    patches = model.scale(random_patterns(3, 40))
    masking = masking_of(model, 3, masked=5)
    with torch.no_grad():
        result = model(patches, masking)
    flat = patches.double().flatten(2).numpy()
    errors, real_errors = [], []
    upper = np.triu(np.ones((8, 8), bool), 1).flatten()
    diagonal = {0, 2, 5, 9, 14}
    for n in range(3):
        visible, masked = masking.visible[n].tolist(), masking.masked[n].tolist()
        expected = oracle.predict(flat[n], visible, masked)
        assert np.abs(result.predicted[n].numpy() - expected).max() < 1e-4
        for m, number in enumerate(masked):
            squares = (expected[m] - flat[n, number]) ** 2
            errors.extend(squares)
            real_errors.extend(squares[~upper] if number in diagonal else squares)
    assert float(result.loss) == pytest.approx(np.mean(real_errors), rel=1e-4)
    assert float(result.published_loss) == pytest.approx(np.mean(errors), rel=1e-4)
    assert len(errors) > len(real_errors), "the draw should mask a diagonal patch"


@given(
    grid_size=st.integers(2, 5),
    patch=st.integers(1, 4),
    ratio=st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([1e-9, 1 - 1e-9]),
    grid=st.sampled_from(["triangle", "square"]),
    decoder_input=st.sampled_from(["visible", "cls"]),
    seed=st.integers(0, 99),
)
@example(grid_size=3, patch=4, ratio=0.5, grid="square", decoder_input="cls", seed=0)  # 6 patches of 9
@example(grid_size=3, patch=4, ratio=0.5, grid="triangle", decoder_input="visible", seed=0)
@example(grid_size=2, patch=4, ratio=0.5, grid="square", decoder_input="cls", seed=0)  # 3 patches, an odd count
@example(grid_size=5, patch=4, ratio=0.99, grid="square", decoder_input="cls", seed=0)  # 1 of 15 is visible
@example(grid_size=5, patch=4, ratio=0.01, grid="square", decoder_input="cls", seed=0)  # 1 of 15 is hidden
@settings(max_examples=30)
def test_the_forward_is_the_papers_on_any_grid_at_any_ratio(
    tiny, random_patterns, grid_size, patch, ratio, grid, decoder_input, seed
):
    """For the released models too, though their own code breaks if masked and visible counts differ."""
    size = grid_size * patch
    model = tiny(pattern_size=size, patch_size=patch, mask_ratio=ratio, grid=grid, decoder_input=decoder_input)
    oracle = Oracle(model)
    patches = model.scale(random_patterns(1, size, seed, patch))
    masking = masking_of(model, 1, seed)
    masked = min(max(round(ratio * grid_size * (grid_size + 1) / 2), 1), grid_size * (grid_size + 1) // 2 - 1)
    assert masking.masked.shape == (1, masked)
    with torch.no_grad():
        result = model(patches, masking)
    flat = patches.double().flatten(2).numpy()[0]
    expected = oracle.predict(flat, masking.visible[0].tolist(), masking.masked[0].tolist())
    assert np.abs(result.predicted[0].numpy() - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    squares = (expected - flat[masking.masked[0]]) ** 2
    assert float(result.published_loss) == pytest.approx(squares.mean(), rel=1e-3)
    rows, columns = np.divmod(np.arange(patch * patch), patch)
    diagonal = np.cumsum(np.arange(grid_size)) + np.arange(grid_size)
    real = (columns <= rows) | ~np.isin(masking.masked[0].numpy(), diagonal)[:, None]
    assert float(result.loss) == pytest.approx(squares[real].mean(), rel=1e-3)


@GRIDS
def test_an_embedding_is_cls_of_all_patches(tiny, random_patterns, grid):
    model = tiny(grid=grid)
    oracle = Oracle(model)
    patterns = random_patterns(2, 40)
    z = model.encode(patterns)
    assert z.dtype == np.float32
    assert z.shape == (2, model.config.encoder_dim)
    flat = model.scale(patterns).double().flatten(2).numpy()
    for n in range(2):
        patches = np.zeros((oracle.slots, flat.shape[-1]))
        patches[oracle.places] = flat[n]
        assert np.abs(z[n] - oracle.encode(patches, range(oracle.slots))[0]).max() < 1e-4


# -- what is promised --------------------------------------------------------------------------------------------------


def test_paper_size():
    """127 M parameters: 101 M in the encoder, 25 M in the decoder (DESIGN section 4)."""
    model = APMAE(APMAEConfig())

    def millions(*prefixes):
        return sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes)) / 1e6

    assert round(millions("encoder.", "embed.", "positions", "cls")) == 101
    assert round(millions("decoder", "to_", "mask_token")) in (25, 26)
    assert model.num_parameters == sum(p.numel() for p in model.parameters())
    assert round(model.num_parameters / 1e6) in (126, 127)
    assert (model.config.num_patches, model.config.num_masked) == (36, 18)


def test_initialisation_is_xavier_and_depends_on_the_seed(tiny_config):
    model, again, other = (APMAE(tiny_config(encoder_dim=64), seed=seed) for seed in (1, 1, 2))
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name])
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 2:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.9 * bound < float(parameter.abs().max()) <= bound
            assert float(parameter.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
        elif "norm" in name or name.startswith("embed."):
            assert (parameter == 1).all()
        else:
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.5)
    assert not torch.equal(model.embed[1].weight, other.embed[1].weight)


@BOTH
def test_masked_patches_cannot_be_seen(tiny, random_patterns, decoder_input):
    model = tiny(decoder_input=decoder_input)
    patches = model.scale(random_patterns(2, 40))
    masking = masking_of(model, 2)
    other = patches.clone()
    for n in range(2):
        other[n, masking.masked[n]] = 7.0
    with torch.no_grad():
        assert torch.equal(model(patches, masking).predicted, model(other, masking).predicted)


def test_what_the_decoder_knows(tiny, random_patterns):
    """A true masked autoencoder reads every visible patch; the published one reads only CLS."""
    for decoder_input, reads_patches in (("visible", True), ("cls", False)):
        model = tiny(decoder_input=decoder_input)
        masking = masking_of(model, 2)
        encoded = torch.randn(2, 1 + masking.visible.shape[1], 12, generator=torch.Generator().manual_seed(0))
        noise, no_cls = encoded.clone(), encoded.clone()
        noise[:, 1:] = 100.0
        no_cls[:, 0] = 100.0
        with torch.no_grad():
            plain = model.decode(encoded, masking)
            assert torch.equal(model.decode(noise, masking), plain) is not reads_patches
            assert not torch.equal(model.decode(no_cls, masking), plain)


@BOTH
def test_every_trained_parameter_gets_a_gradient(tiny, random_patterns, decoder_input):
    model = tiny(decoder_input=decoder_input).train()
    model(model.scale(random_patterns(8, 40)), masking_of(model, 8)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


@BOTH
@pytest.mark.parametrize("masked", [1, 2, 7, 13, 14])
def test_any_number_of_masked_patches(tiny, random_patterns, decoder_input, masked):
    """The published code breaks if masked and visible counts differ."""
    model = tiny(decoder_input=decoder_input)
    masking = masking_of(model, 2, masked=masked)
    with torch.no_grad():
        result = model(model.scale(random_patterns(2, 40)), masking)
    assert result.predicted.shape == (2, masked, 64)
    assert torch.isfinite(result.loss)


@BOTH
def test_the_order_of_patches_does_not_matter(tiny, random_patterns, decoder_input):
    model = tiny(decoder_input=decoder_input)
    patches = model.scale(random_patterns(2, 40))
    masking = masking_of(model, 2)
    turned = Masking(masking.visible.flip(1), masking.masked.flip(1))
    with torch.no_grad():
        one, two = model(patches, masking), model(patches, turned)
    assert torch.allclose(one.predicted, two.predicted.flip(1), atol=1e-5)
    assert float(one.loss) == pytest.approx(float(two.loss), rel=1e-5)


def test_patterns_of_a_batch_do_not_affect_each_other(tiny, random_patterns):
    model, patterns = tiny(), random_patterns(7, 40)
    expected = np.concatenate([model.encode(one) for one in patterns])
    for batch in (1, 3, 7, 128):
        assert np.abs(model.encode(patterns, batch=batch) - expected).max() < 1e-5
    assert model.encode(patterns[:0]).shape == (0, 12)


def test_patterns_of_other_sizes_and_patches_fit(tiny, random_patterns):
    model = tiny()
    for size in (1, 7, 8, 33):
        short = random_patterns(2, size)
        dense = np.zeros((2, 40, 40))
        dense[:, :size, :size] = short.probabilities()
        expected = model.encode(Patterns.from_probabilities(dense, patch=8))
        assert np.abs(model.encode(short) - expected).max() < 1e-5
        assert np.abs(model.encode(short.repacked(5)) - expected).max() < 1e-5
    with pytest.raises(CaptureError, match="at most 40 tokens, got 41"):
        model.encode(random_patterns(1, 41))


@BOTH
def test_the_forward_on_square_patterns_sees_all_patches(tiny, decoder_input):
    model = tiny(causal=False, decoder_input=decoder_input)
    assert model.config.num_patches == 25
    oracle = Oracle(model)
    patches = model.scale(square_patterns(3, 40))
    assert patches.shape == (3, 25, 1, 8, 8)
    masking = masking_of(model, 3, masked=9)
    with torch.no_grad():
        result = model(patches, masking)
    flat = patches.double().flatten(2).numpy()
    errors = []
    for n in range(3):
        visible, masked = masking.visible[n].tolist(), masking.masked[n].tolist()
        expected = oracle.predict(flat[n], visible, masked)
        assert np.abs(result.predicted[n].numpy() - expected).max() < 1e-4
        errors.extend((expected[m] - flat[n, number]) ** 2 for m, number in enumerate(masked))
    assert float(result.loss) == float(result.published_loss) == pytest.approx(np.mean(errors), rel=1e-4)


def test_every_patch_of_a_square_pattern_changes_its_embedding(tiny):
    """Those above the diagonal too."""
    model = tiny(causal=False).eval()
    dense = square_patterns(1, 40).probabilities()
    (before,) = model.encode(Patterns.from_probabilities(dense, patch=8, causal=False))
    for row in range(5):
        for column in range(5):
            changed = dense.copy()
            tile = np.s_[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            changed[tile] = changed[tile][:, :, ::-1]
            (after,) = model.encode(Patterns.from_probabilities(changed, patch=8, causal=False))
            assert np.abs(after - before).max() > 1e-6, (row, column)


def test_patterns_of_the_other_shape_are_refused(tiny, random_patterns):
    for causal, patterns, message in (
        (True, square_patterns(1, 8), "expected causal patterns for this AP-MAE, got square ones of an encoder"),
        (False, random_patterns(1, 8), "expected square patterns for this AP-MAE, .* got causal ones"),
    ):
        model = tiny(causal=causal).eval()
        for call in (model.scale, model.encode, model.reconstruct):
            with pytest.raises(CaptureError, match=message):
                call(patterns)


def test_pooled_patterns_are_encoded_by_their_rows(tiny, random_patterns):
    model = tiny().eval()
    whole = random_patterns(2, 20)
    where = {"prompt": whole.prompt, "layer": whole.layer, "head": whole.head}
    lengths = dict.fromkeys(whole.prompt.tolist(), 500)
    pooled = Patterns(whole.log_patches, 20, **where, reach="pool", lengths=lengths)
    assert np.array_equal(model.encode(pooled), model.encode(whole))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_model_uses_the_scaling_of_its_configuration(tiny, random_patterns, scaling):
    patterns = random_patterns(2, 40)
    seen = tiny(scaling=scaling).scale(patterns)
    assert seen.shape == (2, 15, 1, 8, 8)
    assert torch.equal(seen[:, :, 0], patterns.repacked(8).scaled_patches(scaling))


def test_reconstruct_is_seeded_and_reports_what_it_hides(tiny, random_patterns):
    model, patterns = tiny(), random_patterns(3, 40)
    patches, result = model.reconstruct(patterns, seed=1)
    assert torch.equal(patches, model.scale(patterns)[:, :, 0])
    assert result.masking.masked.shape == (3, model.config.num_masked)
    assert torch.equal(model.reconstruct(patterns, seed=1)[1].predicted, result.predicted)
    assert not torch.equal(model.reconstruct(patterns, seed=2)[1].masking.masked, result.masking.masked)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern_size": 100, "patch_size": 32}, "does not divide"),
        ({"pattern_size": 32, "patch_size": 32}, "cannot be masked"),
        ({"mask_ratio": 1.0}, "less than 1"),
        ({"encoder_layers": 0}, "greater than or equal to 1"),
        ({"scaling": "unknown"}, "log_normalize"),
        ({"dim": 3}, "Extra inputs"),
    ],
)
def test_impossible_sizes(fields, message):
    with pytest.raises(ValueError, match=message):
        APMAEConfig(**fields)


# -- on disk -----------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_settings_and_weights(tiny):
    model = tiny()
    assert model.fingerprint == tiny().fingerprint
    others = [tiny(seed=1), tiny(encoder_layers=3), tiny(scaling="log")]  # the last: the same weights, read otherwise
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 4
    with torch.no_grad():
        model.to_pixels.bias[0] += 1
    assert model.fingerprint != tiny().fingerprint, "it is that of now"


def test_a_fingerprint_by_hand(tiny):
    model = tiny(scaling="log")
    defaults = APMAEConfig().model_dump()
    settings = {name: value for name, value in model.config.model_dump().items() if value != defaults[name]}
    text = json.dumps(settings, sort_keys=True).encode()
    for name in sorted(model.state_dict()):
        array = model.state_dict()[name].numpy()
        text += f"\0{name}\0[{', '.join(map(str, array.shape))}]\0".encode() + array.astype("<f4").tobytes()
    assert model.fingerprint == hashlib.sha256(text).hexdigest()


@GRIDS
@BOTH
def test_a_saved_model_is_the_same(tiny, random_patterns, tmp_path, grid, decoder_input):
    model = tiny(grid=grid, decoder_input=decoder_input, scaling="raw")
    model.save_pretrained(tmp_path / "new" / "mae")
    again = APMAE.from_pretrained(tmp_path / "new" / "mae")
    assert again.config == model.config
    assert not again.training
    assert np.array_equal(again.encode(random_patterns(2, 40)), model.encode(random_patterns(2, 40)))
    again.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "new" / "mae" / file).read_bytes()


def test_weights_can_be_stored_in_half(tiny, random_patterns, tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    again = APMAE.from_pretrained(tmp_path)
    assert again.cls.dtype == torch.float32
    assert torch.equal(again.cls, model.cls.half().float())


def test_what_cannot_be_loaded(tiny, tmp_path):
    with pytest.raises(ModelError, match="found no folder"):
        APMAE.from_pretrained(tmp_path / "none")
    with pytest.raises(ModelError, match="has no config.json; was its training finished"):
        APMAE.from_pretrained(tmp_path)
    tiny().save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    whole = (config.read_text(), weights.read_bytes())

    def refused(message, kind=ModelError):
        with pytest.raises(kind, match=message):
            APMAE.from_pretrained(tmp_path)
        config.write_text(whole[0])
        weights.write_bytes(whole[1])

    config.write_text("{")
    refused("damaged.*or give another folder")
    config.write_text(json.dumps({**json.loads(whole[0]), "patch_size": 7}))
    refused("does not divide.*is this an AP-MAE")
    config.write_text(json.dumps({**json.loads(whole[0]), "encoder_dim": 14}))
    refused("expected weights that fit .*config.json, they do not: positions has shape .1, 16, 12., not .1, 16, 14.")
    config.write_text(json.dumps({"model_type": "llama", "hidden_size": 4}))
    refused("expected an AP-MAE config")
    weights.write_bytes(whole[1][:-10])
    refused("expected whole AP-MAE weights in .*copy, download or train them again")
    save_file({"cls": torch.zeros(1, 1, 12)}, weights)
    refused("they do not: positions has shape None, not .1, 16, 12.")
    weights.unlink()
    refused("expected whole AP-MAE weights in .*copy, download or train them again")


def test_the_bundled_encoder_knows_the_bundled_models_patterns(bundled_lm):
    java = "class Counter {\n    private int count = 0;\n\n    int next() {\n        return count++;\n    }\n}\n" * 10
    ids = torch.tensor([bundled_lm.backend_tokenizer.encode(java).ids[:256]])
    assert ids.shape == (1, 256)
    with torch.no_grad(), capture(bundled_lm.model) as tap:
        bundled_lm.model(input_ids=ids)
    mae = APMAE.from_pretrained()
    assert mae.encode(tap.patterns).shape == (bundled_lm.num_layers * bundled_lm.num_heads, mae.config.encoder_dim)
    assert not mae.training
    _, result = mae.reconstruct(tap.patterns)
    scaled = mae.scale(tap.patterns)[:, :, 0].flatten(2)
    target = scaled.gather(1, result.masking.masked[..., None].expand(-1, -1, 32 * 32))
    real = mae.real[result.masking.masked]
    error = (result.predicted - target)[real].square().mean()
    assert float(error) < 0.75 * float(target[real].var())  # better than the mean


def test_an_unreachable_hub_is_reported_in_one_line(command_line):
    code = (
        "from apmae.errors import ModelError\nfrom apmae.model.mae import APMAE\n"
        "try: APMAE.from_pretrained('nobody/nothing')\n"
        "except ModelError as error: print(error)"
    )
    result = command_line.run(code=code)  # it is offline
    assert result.stdout.startswith("expected an AP-MAE at nobody/nothing: no such folder, and the hub says: ")
    assert len(result.stdout.splitlines()) == 1
