"""Windows that are nearly the same are linked as comparing all pairs would link them."""

import random

import pytest

from apmae.prompts.similar import alike


def runs(text):
    words = text.split()
    return {tuple(words[at : at + 5]) for at in range(max(len(words) - 4, 1))}


def components(count, links):
    group = list(range(count))
    for one, other in links:
        low, high = sorted((group[one], group[other]))
        group = [low if number == high else number for number in group]
    return group


def planted(draw, count):
    """Windows of which some are an earlier one with a few words changed, and some the same."""
    texts = []
    for _ in range(count):
        words = [f"w{draw.randrange(500)}" for _ in range(draw.randrange(1, 120))]
        if texts and draw.random() < 0.6:
            words = draw.choice(texts).split()
            for _ in range(draw.randrange(4)):
                words[draw.randrange(len(words))] = f"w{draw.randrange(500)}"
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("similar", [0.5, 0.8, 1.0])
def test_links_are_those_of_all_pairs(similar):
    agreed = 0
    for seed in range(6):
        texts = planted(random.Random(seed), 80)
        pairs = [
            (one, other)
            for other in range(len(texts))
            for one in range(other)
            if len(runs(texts[one]) & runs(texts[other])) / len(runs(texts[one]) | runs(texts[other])) >= similar
            and (similar < 1 or texts[one] == texts[other])
        ]
        expected, found = components(len(texts), pairs), components(len(texts), alike(texts, similar))
        assert len(set(expected)) < len(texts), "there is something to find"
        assert all(expected[one] == expected[other] for one, other in alike(texts, similar)), "no false link"
        agreed += found == expected
    assert agreed == 6


def test_many_copies_cost_no_more_than_others(monkeypatch):
    compared = 0

    def counted(runs, others):
        nonlocal compared
        compared += 1
        return len(set(runs) & set(others)) / len(set(runs) | set(others))

    monkeypatch.setattr("apmae.prompts.similar._shared", counted)
    base = [f"w{number}" for number in range(200)]
    texts = [" ".join([*base[:190], f"x{number}"]) for number in range(2000)]
    assert len(set(components(len(texts), alike(texts, 0.8)))) == 1
    assert compared < 3 * len(texts)
