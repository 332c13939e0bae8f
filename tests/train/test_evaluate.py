"""Loss and divergence of each pattern against float64 loops, and masks that are the same for every encoder."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.train.evaluate import hidden, pattern_losses

SIZE, PATCH, GRID, PATCHES = 32, 8, 4, 10


@pytest.fixture
def mae(tiny_train):
    def make(seed=0, **model):
        return APMAE(tiny_train(model=model).model, seed=seed).eval()

    return make


def by_hand(picture, predicted, masked):
    """The two losses of one pattern, pixel by pixel of its square picture."""
    rows, columns = np.tril_indices(GRID)
    real, every = [], []
    for place, patch in enumerate(masked.tolist()):
        for i in range(PATCH):
            for j in range(PATCH):
                query, key = rows[patch] * PATCH + i, columns[patch] * PATCH + j
                error = (predicted[place, i * PATCH + j] - picture[query, key]) ** 2
                every.append(error)
                if key <= query:
                    real.append(error)
    return np.mean(real), np.mean(every)


@pytest.mark.parametrize("ratio", [0.5, 0.8])
@pytest.mark.parametrize("model", [{}, {"decoder_input": "cls"}, {"scaling": "raw"}, {"grid": "square"}])
def test_losses_are_mean_squared_errors_over_hidden_pixels(mae, small_patterns, model, ratio):
    encoder = mae(**model)
    found = pattern_losses(encoder, small_patterns, mask_ratio=ratio, seed=4)
    masking = hidden(small_patterns, PATCHES, round(PATCHES * ratio), 4)
    pictures = small_patterns.scaled(encoder.config.scaling).astype(np.float64)
    with torch.no_grad():
        predicted = encoder(encoder.scale(small_patterns), masking).predicted.double().numpy()
    wanted = [by_hand(*own) for own in zip(pictures, predicted, masking.masked, strict=True)]
    assert len(found.loss) == len(small_patterns) > 20
    np.testing.assert_allclose(found.loss, [loss for loss, _ in wanted], rtol=1e-5)
    np.testing.assert_allclose(found.published_loss, [loss for _, loss in wanted], rtol=1e-5)
    assert np.std(found.loss) > 0


def divergence_by_hand(mae, probabilities, predicted, masked, uniform=False):
    """Row by row of the square picture: the sum of p log(p / q) over hidden keys, divided by all hidden mass."""
    smallest = math.log(probabilities[probabilities > 0].min())
    rows, columns = np.tril_indices(GRID)
    hidden = {}
    for place, patch in enumerate(masked.tolist()):
        for i in range(PATCH):
            for j in range(PATCH):
                query, key = rows[patch] * PATCH + i, columns[patch] * PATCH + j
                pixel = predicted[place, i * PATCH + j]
                if mae.config.scaling == "raw":
                    guess = pixel
                elif mae.config.scaling == "log":
                    guess = math.exp(pixel)
                else:
                    guess = math.exp((1 - pixel) * smallest)
                if probabilities[query, key] > 0:  # keys that cannot be attended to do not count
                    hidden.setdefault(query, {})[key] = 1.0 if uniform else min(max(guess, 1e-6), 1.0)
    total = weight = 0.0
    for query, guesses in hidden.items():
        truth = {key: probabilities[query, key] for key in guesses}
        mass = sum(truth.values())
        for key, p in truth.items():
            total += p * math.log(p / (mass * guesses[key] / sum(guesses.values())))
        weight += mass
    return total / weight


def test_losses_of_square_patterns_are_over_all_hidden_pixels(mae):
    encoder = mae(causal=False)
    p = np.random.default_rng(0).dirichlet(np.full(32, 0.3), size=(3, 32))
    patterns = Patterns.from_probabilities(p, patch=PATCH, causal=False)
    found = pattern_losses(encoder, patterns, seed=2)
    masking = hidden(patterns, encoder.config.num_patches, encoder.config.num_masked, 2)
    with torch.no_grad():
        predicted = encoder(encoder.scale(patterns), masking).predicted.numpy()
    scaled = patterns.scaled()
    for number in range(3):
        errors = []
        for place, patch in enumerate(masking.masked[number].tolist()):
            row, column = divmod(patch, 32 // PATCH)
            tile = scaled[number, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            errors.append((predicted[number, place].reshape(PATCH, PATCH) - tile) ** 2)
        assert found.loss[number] == pytest.approx(np.mean(errors), rel=1e-4)
        assert found.published_loss[number] == pytest.approx(np.mean(errors), rel=1e-4)
    assert (found.divergence > 0).all()


@pytest.mark.parametrize("model", [{}, {"scaling": "log"}, {"scaling": "raw"}, {"grid": "square"}])
def test_divergences_are_sums_over_hidden_keys(mae, small_patterns, model):
    """Also for short prompts, and for smaller patterns than the encoder's in other patches."""
    encoder = mae(**model)
    for patterns in (
        small_patterns,
        small_patterns.cropped(np.full(len(small_patterns), 19)),
        small_patterns.cropped(np.full(len(small_patterns), 12)).repacked(4),
    ):
        found = pattern_losses(encoder, patterns, seed=2)
        masking = hidden(patterns, PATCHES, 5, 2)
        with torch.no_grad():
            predicted = encoder(encoder.scale(patterns), masking).predicted.double().numpy()
        probabilities = patterns.probabilities().astype(np.float64)
        for number in range(len(patterns)):
            if np.isnan(found.divergence[number]):
                assert nothing_hidden(patterns, number, masking)
                continue
            own = probabilities[number], predicted[number], masking.masked[number]
            wanted = divergence_by_hand(encoder, *own)
            assert found.divergence[number] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
            even = divergence_by_hand(encoder, *own, uniform=True)
            assert found.uniform_divergence[number] == pytest.approx(even, rel=1e-4, abs=1e-6)
    assert np.std(found.divergence[~np.isnan(found.divergence)]) > 0


def nothing_hidden(patterns, number, masking):
    rows, columns = np.tril_indices(GRID)
    picture = np.zeros((SIZE, SIZE))
    picture[: patterns.size, : patterns.size] = patterns.probabilities()[number]
    return not sum(
        picture[rows[k] * PATCH :, columns[k] * PATCH :][:PATCH, :PATCH].sum() for k in masking.masked[number].tolist()
    )


def test_without_hidden_attention_there_is_no_divergence(mae, small_patterns):
    """Three rows are all in the first patch, which is visible in half of the patterns."""
    short = small_patterns.cropped(np.full(len(small_patterns), 3))
    found, masking = pattern_losses(mae(), short), hidden(short, PATCHES, 5, 0)
    seen = [0 in visible for visible in masking.visible.tolist()]
    assert 0 < sum(seen) < len(seen)
    assert np.isnan(found.divergence).tolist() == seen
    assert np.isnan(found.uniform_divergence).tolist() == seen
    assert np.isfinite(found.loss).all()


def test_losses_are_the_ones_that_training_minimises(mae, small_patterns):
    """Training's loss is the mean over all hidden real pixels of a batch: patterns count by how many they have."""
    encoder = mae()
    masking = hidden(small_patterns, PATCHES, 5, 0)
    with torch.no_grad():
        trained = encoder(encoder.scale(small_patterns), masking)
    rows, columns = np.tril_indices(GRID)
    real = np.where(rows == columns, PATCH * (PATCH + 1) // 2, PATCH * PATCH)
    weights = real[masking.masked.numpy()].sum(1)
    found = pattern_losses(encoder, small_patterns)
    assert np.average(found.loss, weights=weights) == pytest.approx(float(trained.loss), rel=1e-5)
    assert found.published_loss.mean() == pytest.approx(float(trained.published_loss), rel=1e-5)


def test_a_loss_does_not_depend_on_what_else_is_measured(mae, small_patterns):
    encoder = mae()
    every = pattern_losses(encoder, small_patterns)
    order = np.random.default_rng(0).permutation(len(small_patterns))
    np.testing.assert_allclose(pattern_losses(encoder, small_patterns[order]).loss, every.loss[order], rtol=1e-5)
    np.testing.assert_allclose(pattern_losses(encoder, small_patterns[3:7]).loss, every.loss[3:7], rtol=1e-5)
    many = Patterns.concatenate([small_patterns] * (129 // len(small_patterns) + 1))
    np.testing.assert_allclose(
        pattern_losses(encoder, many).loss.reshape(-1, len(small_patterns)),
        every.loss[None].repeat(len(many) // len(small_patterns), 0),
        rtol=1e-5,
    )  # more than the encoder sees at a time
    assert not np.allclose(pattern_losses(encoder, small_patterns, seed=1).loss, every.loss)
    assert len(pattern_losses(encoder, small_patterns[:0]).loss) == 0


def test_masks_depend_on_the_pattern_alone_and_grow_with_the_ratio(small_patterns):
    few, many = (hidden(small_patterns, PATCHES, masked, 7) for masked in (3, 6))
    alone = hidden(small_patterns[5], PATCHES, 3, 7)
    assert torch.equal(alone.masked[0], few.masked[5])
    for number in range(len(small_patterns)):
        visible, masked = few.visible[number].tolist(), few.masked[number].tolist()
        assert sorted(visible + masked) == list(range(PATCHES))
        assert set(masked) < set(many.masked[number].tolist())


@pytest.mark.parametrize("axis", ["prompt", "layer", "head"])
def test_masks_differ_by_prompt_layer_and_head(axis):
    places = {name: np.arange(8) if name == axis else np.zeros(8, int) for name in ("prompt", "layer", "head")}
    masked = hidden(Patterns(torch.zeros(8, 3, 4, 4), 8, **places), PATCHES, 5, 0).masked
    assert len({frozenset(row) for row in masked.tolist()}) > 4


def test_every_patch_is_hidden_equally_often():
    count = 2000
    patterns = Patterns(
        torch.zeros(count, 3, 4, 4), 8, prompt=np.arange(count), layer=np.full(count, 1), head=np.full(count, 2)
    )
    often = Counter(hidden(patterns, PATCHES, 5, 0).masked.flatten().tolist())
    assert all(abs(often[patch] - count / 2) < 5 * np.sqrt(count / 4) for patch in range(PATCHES))
