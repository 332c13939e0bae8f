import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score

from apmae.atlas.atlas import Atlas
from apmae.atlas.branches import STABLE
from apmae.atlas.stability import best_jaccard, stability_of

SETS = st.integers(1, 12).flatmap(
    lambda rows: st.tuples(
        hnp.arrays(bool, st.tuples(st.integers(0, 5), st.just(rows))),
        hnp.arrays(bool, st.tuples(st.integers(0, 5), st.just(rows))),
        hnp.arrays(np.int64, rows, elements=st.integers(1, 9)),
    )
)


def as_sets(groups, counts):
    """Each group as the set of its members; a row that occurs three times is three members."""
    return [{(row, copy) for row in np.flatnonzero(rows).tolist() for copy in range(counts[row])} for rows in groups]


@given(SETS)
def test_the_best_match_is_that_of_plain_sets(given_sets):
    groups, others, counts = given_sets
    for weights in (counts, None):
        copies = np.ones(groups.shape[1], int) if weights is None else weights
        wanted = [
            max(
                (len(own & other) / len(own | other) if own | other else 0 for other in as_sets(others, copies)),
                default=0,
            )
            for own in as_sets(groups, copies)
        ]
        assert best_jaccard(groups, others, weights).tolist() == pytest.approx(wanted)


def rows_and_members(truth):
    return truth == np.arange(truth.max() + 1)[:, None]


def test_a_fit_that_finds_the_same_is_stable_and_one_that_finds_nothing_is_not(blobs):
    z, truth, _ = blobs
    z, members = z.astype(np.float32), rows_and_members(truth)
    given = (members, z, np.arange(len(z)) % 20, np.ones(len(z), np.int64))
    same = stability_of(*given, lambda rows, _: members[:, rows], metric="manhattan", seed=0)
    assert same.halves.tolist() == same.seeds.tolist() == [1] * 5
    none = stability_of(*given, lambda rows, _: members[:0, rows], metric="manhattan", seed=0)
    assert none.halves.tolist() == none.seeds.tolist() == [0] * 5


def test_a_cluster_that_other_fits_split_is_as_stable_as_its_larger_part(blobs):
    z, truth, _ = blobs
    z, members = z.astype(np.float32).copy(), rows_and_members(truth)
    z[truth == 0, 0] += np.where(np.arange((truth == 0).sum()) % 7 < 5, 100, 0)  # 50 of 70, far apart
    parts = np.concatenate([members & (z[:, 0] > 50), members & (z[:, 0] < 50)])
    given = (members, z, np.arange(len(z)), np.ones(len(z), np.int64))
    found = stability_of(*given, lambda rows, _: parts[:, rows], metric="euclidean", seed=0)
    assert found.seeds.tolist() == pytest.approx([50 / 70, 1, 1, 1, 1])
    assert found.halves[0] == pytest.approx(50 / 70, abs=0.01), "the two halves are of the same size"
    assert found.halves[1:].tolist() == [1] * 4


def test_halves_are_of_prompts_and_do_not_overlap(blobs):
    z, truth, _ = blobs
    prompts = np.arange(len(z)) // 10  # 25 prompts of ten rows
    fits = []

    def refit(rows, seed):
        fits.append((rows, seed))
        return np.ones((1, len(rows)), bool)

    for seed in (0, 0, 1):
        given = (rows_and_members(truth), z.astype(np.float32), prompts, np.ones(len(z), np.int64))
        stability_of(*given, refit, metric="manhattan", seed=seed)
    first, second, again = fits[:3]
    in_first, in_second = (set(prompts[rows].tolist()) for rows, _ in (first, second))
    assert sorted(len(part) for part in (in_first, in_second)) == [12, 13]
    assert in_first | in_second == set(range(25))
    assert again[0].tolist() == list(range(len(z)))
    assert len({seed for _, seed in fits[:3]}) == 3, "every fit has a seed of its own"
    for (rows, seed), (others, other) in zip(fits[:3], fits[3:6], strict=True):
        assert (rows.tolist(), seed) == (others.tolist(), other), "they follow from the seed"
    assert set(prompts[fits[6][0]].tolist()) != in_first


def test_a_cluster_of_one_prompt_is_not_found_in_the_other_half(blobs):
    """What only one prompt shows is as dense as any blob, but one half of the prompts does not have it."""
    z, truth, _ = blobs
    prompts = np.where(truth == 2, 0, 1 + np.arange(len(z)) % 20)
    found = Atlas.fit(z, seed=0, prompts=prompts)
    assert found.clusters["size"].to_pylist() == [70, 60, 40, 30]
    assert (found.labels_[truth == 2] == -1).all()
    alone = Atlas.fit(z, seed=0, prompts=1 + np.arange(len(z)) % 20)
    assert adjusted_rand_score(truth, alone.labels_) == 1


@pytest.mark.parametrize("prompts", [None, 1, 40])
def test_blobs_are_found_again(blobs, prompts):
    z, truth, _ = blobs
    which = None if prompts is None else np.arange(len(z)) % prompts
    found = Atlas.fit(z, seed=0, prompts=which)
    assert adjusted_rand_score(truth, found.labels_) == 1
    for row in found.clusters.to_pylist():
        assert row["stability"] > 0.95
        assert row["seed_stability"] > 0.95
        assert not row["unstable"]


def test_clusters_below_the_threshold_are_flagged(plant):
    z = plant(sizes=(80, 70, 60), spread=2.5)[0]
    z = np.concatenate([z, plant(sizes=(60, 50), spread=0.2, seed=4)[0] + 60])
    for row in Atlas.fit(z, seed=0, prompts=np.arange(len(z)) % 40).clusters.to_pylist():
        assert row["unstable"] == (min(row["stability"], row["seed_stability"]) < STABLE)


@pytest.mark.parametrize("rows", [50, 400, 2000])
def test_noise_has_no_clusters(rows):
    for seed in range(3 if rows < 1000 else 1):
        z = np.random.default_rng(seed).normal(size=(rows, 64))
        found = Atlas.fit(z, seed=0, prompts=np.arange(rows) % 20)
        assert (found.labels_ >= 0).mean() <= 0.02
