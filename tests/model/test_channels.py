"""Two channels: what the encoder sees of a patch, and the forward by hand."""

import numpy as np
import pytest
import torch
from mae_by_hand import Oracle, linear, masking_of, norm, square_patterns, transformer
from safetensors.torch import load_file

from apmae.config import APMAEConfig
from apmae.model.mae import APMAE

BOTH = pytest.mark.parametrize("decoder_input", ["visible", "cls"])
MEANS, DEVIATIONS = (0.47, 0.043), (0.19, 0.086)


def two_channels(tiny, **fields):
    return tiny(pixels="log_and_root", **fields)


@pytest.mark.parametrize("causal", [True, False])
def test_the_second_channel_is_the_root_of_p(tiny, random_patterns, causal):
    patterns = random_patterns(2, 33) if causal else square_patterns(2, 33)
    model = two_channels(tiny, causal=causal)
    seen = model.scale(patterns)
    assert seen.shape == (2, 15 if causal else 25, 2, 8, 8)
    assert torch.equal(seen[:, :, :1], tiny(causal=causal).scale(patterns))
    p = np.zeros((2, 40, 40))
    p[:, :33, :33] = patterns.probabilities()
    cells = [(row, column) for row in range(5) for column in range(row + 1 if causal else 5)]
    for number, (row, column) in enumerate(cells):
        tile = p[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_allclose(seen[:, number, 1], np.sqrt(tile), atol=1e-6)


class TwoChannels(Oracle):
    """Pixels standardised by constants, where the other has a norm."""

    def encode(self, patches, places):
        get = self.get("")
        tokens = [self.w["cls"][0, 0] + self.w["positions"][0, 0]]
        for patch, place in zip(patches, places, strict=True):
            embedded = norm(linear(patch, get("embed.1")), get("embed.2"), self.c.layer_norm_eps)
            tokens.append(embedded + self.w["positions"][0, 1 + place])
        c = self.c
        return transformer(np.stack(tokens), self.get("encoder."), c.encoder_layers, c.encoder_heads, c.layer_norm_eps)


@BOTH
@pytest.mark.parametrize("causal", [True, False])
def test_the_forward_of_two_channels_by_hand(tiny, random_patterns, decoder_input, causal):
    model = two_channels(tiny, causal=causal, decoder_input=decoder_input)
    oracle = TwoChannels(model)
    patterns = random_patterns(3, 40) if causal else square_patterns(3, 40)
    patches = model.scale(patterns)
    masking = masking_of(model, 3, masked=6)
    with torch.no_grad():
        result = model(patches, masking)
    channels = patches.double().numpy()
    standard = np.stack([(channels[:, :, i] - MEANS[i]) / DEVIATIONS[i] for i in (0, 1)], 2).reshape(3, -1, 128)
    errors, published = [], []
    upper = np.triu(np.ones((8, 8), bool), 1).flatten()
    for n in range(3):
        visible, masked = masking.visible[n].tolist(), masking.masked[n].tolist()
        expected = oracle.predict(standard[n], visible, masked)
        pixels = expected[:, :64] * DEVIATIONS[0] + MEANS[0]
        assert np.abs(result.predicted[n].numpy() - pixels).max() < 1e-4
        for m, number in enumerate(masked):
            wrong = (expected[m] - standard[n, number]).reshape(2, 64) ** 2
            errors.extend((wrong[:, ~upper] if causal and number in (0, 2, 5, 9, 14) else wrong).flatten())
            published.extend((pixels[m] - channels[n, number, 0].flatten()) ** 2)
        cls = oracle.encode(standard[n][visible], [oracle.places[v] for v in visible])[0]
        assert np.abs(result.cls[n].numpy() - cls).max() < 1e-4
    assert float(result.loss) == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(result.published_loss) == pytest.approx(np.mean(published), rel=1e-4)
    z = model.encode(patterns)
    assert np.abs(z[0] - oracle.encode(standard[0], oracle.places)[0]).max() < 1e-4


def test_two_channels_keep_the_level_of_a_patch(tiny):
    """The published norm takes it away: there a patch and its half are the same."""
    one, two = tiny(), two_channels(tiny)
    patches = torch.rand(1, 1, 64, generator=torch.Generator().manual_seed(0))
    for model, pixels, same in ((one, patches, True), (two, torch.cat([patches, patches], 2), False)):
        assert torch.allclose(model.embed(pixels), model.embed(0.5 * pixels), atol=1e-4) is same


def test_two_channels_are_saved_and_trained(tiny, random_patterns, tmp_path):
    model = two_channels(tiny).train()
    model(model.scale(random_patterns(8, 40)), masking_of(model, 8)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()
    model.save_pretrained(tmp_path)
    again = APMAE.from_pretrained(tmp_path)
    assert again.config.channels == 2
    assert np.array_equal(again.encode(random_patterns(2, 40)), model.eval().encode(random_patterns(2, 40)))
    stored = load_file(tmp_path / "model.safetensors")
    assert not any(name.startswith("embed.0") for name in stored), "constants are not weights"
    patches, result = model.reconstruct(random_patterns(2, 40))
    assert patches.shape == (2, 15, 8, 8) and result.predicted.shape[-1] == 64


def test_two_channels_need_the_scaling_that_their_constants_are_for():
    with pytest.raises(ValueError, match="pixels log_and_root go with scaling log_normalize, not raw"):
        APMAEConfig(pixels="log_and_root", scaling="raw")
