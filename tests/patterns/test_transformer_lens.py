"""Our patterns and scores against TransformerLens' head detectors, run by tools/transformer_lens_scores.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from apmae.lm.tap import capture
from apmae.patterns.scores import score

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "transformer_lens.json").read_text())
OURS = {"previous_token_head": "previous", "duplicate_token_head": "duplicate", "induction_head": "induction"}
CASES = [(name, detector) for name in FIXTURE["inputs"] for detector in OURS]


@pytest.fixture(scope="module", params=FIXTURE["inputs"])
def run(request, bundled_lm):
    """An input's token ids, our patterns of it, and TransformerLens' scores."""
    found = FIXTURE["inputs"][request.param]
    with capture(bundled_lm.model) as tap, torch.no_grad():
        bundled_lm.model(torch.tensor([found["ids"]]), use_cache=False)
    return found["ids"], tap.patterns, found["scores"]


def detected(ids, detector):
    """Where a detector looks, by its documentation: 1 at each (query, key) that the behaviour attends to."""
    where = np.zeros((len(ids), len(ids)))
    for query in range(len(ids)):
        for key in range(query + 1):
            where[query, key] = {
                "previous_token_head": key == query - 1,
                "duplicate_token_head": key < query and ids[key] == ids[query],
                "induction_head": key > 0 and ids[key - 1] == ids[query],
            }[detector]
    return where


@pytest.mark.parametrize("detector", OURS)
def test_our_patterns_give_their_scores(run, detector):
    ids, patterns, theirs = run
    p, where = patterns.probabilities().astype(np.float64), detected(ids, detector)
    mul = (p * where).sum((1, 2)) / p.sum((1, 2))
    np.testing.assert_allclose(mul, np.ravel(theirs[detector]["mul"]), atol=2e-6)
    # Theirs is rounded to three places.
    difference = np.abs(p - where).mean((1, 2)) * len(ids)
    np.testing.assert_allclose(1 - difference, np.ravel(theirs[detector]["abs"]), atol=5.1e-4)


@pytest.mark.parametrize(("detector", "name"), OURS.items())
def test_our_scores_are_theirs_over_fewer_rows(run, detector, name):
    """ "mul" is a mean over all rows, our score over the rows that have a key to look at."""
    ids, patterns, theirs = run
    ours, mul = score(patterns, [ids])[name], np.ravel(theirs[detector]["mul"])
    where = detected(ids, detector) * (1 - np.eye(len(ids)))  # theirs counts a token itself if the one before is equal
    rows = where.any(1).sum()
    itself = patterns.probabilities().astype(np.float64) * (detected(ids, detector) - where)
    np.testing.assert_allclose(ours * rows / len(ids) + itself.sum((1, 2)) / len(ids), mul, atol=2e-6)
    assert spearmanr(ours, mul).statistic > 0.99
    assert ours.argmax() == mul.argmax()


def test_the_inputs_show_the_behaviours():
    repeated = FIXTURE["inputs"]["repeated"]["scores"]
    assert np.max(repeated["previous_token_head"]["mul"]) > 0.8
    assert np.max(repeated["induction_head"]["mul"]) > 0.2
