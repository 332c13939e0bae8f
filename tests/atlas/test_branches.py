from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apmae.atlas.branches import DISSOLVED, Branches, branches_of, choose


def blobs(*sizes, seed=0):
    """Pairs of blobs, near one another and far from the other pairs; the blob of each row."""
    draw = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.array([[40.0 * (number // 2), 6.0 * (number % 2), 0, 0] for number in range(len(sizes))])
    return (centres[truth] + draw.normal(size=(len(truth), 4))).astype(np.float32), truth


def condensed(coordinates, smallest, min_samples):
    """The groups of HDBSCAN's condensed tree and the parent of each, read from its table by walking down."""
    import hdbscan

    table = (
        hdbscan.HDBSCAN(min_cluster_size=smallest, min_samples=min_samples, approx_min_span_tree=False)
        .fit(coordinates.astype(np.float64))
        .condensed_tree_.to_pandas()
    )
    children = {parent: group["child"].tolist() for parent, group in table.groupby("parent")}

    def rows_under(node):
        if node < len(coordinates):
            return {node}
        return set().union(*(rows_under(child) for child in children[node]))

    groups = {node: frozenset(rows_under(node)) for node in children}
    above = {child: parent for parent, below in children.items() for child in below if child in children}
    return {rows: groups.get(above.get(node)) for node, rows in groups.items()}


@pytest.mark.filterwarnings("ignore")  # deprecations between hdbscan and its own dependencies
@pytest.mark.parametrize(("smallest", "min_samples", "seed"), [(5, 5, 0), (10, 3, 1), (20, 10, 2)])
def test_branches_are_those_of_the_condensed_tree(smallest, min_samples, seed):
    coordinates, _ = blobs(40, 30, 50, 35, 60, seed=seed)
    found = branches_of(coordinates, smallest, min_samples)
    groups = [frozenset(np.flatnonzero(rows).tolist()) for rows in found.members]
    ours = {rows: groups[parent] if parent >= 0 else None for rows, parent in zip(groups, found.parent, strict=True)}
    assert len(ours) == len(groups), "no branch twice"
    assert ours == condensed(coordinates, smallest, min_samples)


def test_branches_are_nested_and_parents_come_first():
    coordinates, truth = blobs(40, 30, 50, 35, 60)
    members, parent = branches_of(coordinates, 10, 5)
    assert members[0].all()
    assert parent[0] == -1
    assert (parent[1:] < np.arange(1, len(parent))).all()
    assert (parent[1:] >= 0).all()
    for branch in range(1, len(parent)):
        assert (members[parent[branch]] | ~members[branch]).all(), "inside its parent"
        assert members[branch].sum() < members[parent[branch]].sum()
        assert members[branch].sum() >= 10
        for sister in np.flatnonzero(parent == parent[branch]):
            assert sister == branch or not (members[branch] & members[sister]).any()
    for wanted in [truth == number for number in range(5)] + [truth // 2 == pair for pair in range(3)]:
        jaccard = (members & wanted).sum(1) / (members | wanted).sum(1)
        assert jaccard.max() > 0.85, "every blob and every pair of blobs has a branch"


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_too_few_rows_are_one_branch(rows):
    members, parent = branches_of(np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32), 5, 5)
    assert members.tolist() == [[True] * rows]
    assert parent.tolist() == [-1]


def test_rows_at_one_place_are_one_branch():
    members, parent = branches_of(np.zeros((40, 4), np.float32), 5, 5)
    assert members.all()
    assert len(parent) == len(members)
    assert members.shape[1] == 40


def random_tree(seed):
    """A tree of few branches, each split of which is of a random part of the rows; stability, and copies."""
    draw = np.random.default_rng(seed)
    members, parent = [np.ones(40, bool)], [-1]
    for branch in range(12):
        if branch >= len(members) or len(members) >= 11:
            break
        rows = draw.permutation(np.flatnonzero(members[branch]))
        if len(rows) < 8 or (branch and draw.random() < 0.3):
            continue
        cut, left_out = len(rows) // 2 - int(draw.integers(-1, 2)), int(draw.integers(0, 3))
        for part in (rows[: cut - left_out], rows[cut:]):
            members.append(np.isin(np.arange(40), part))
            parent.append(branch)
    stability = draw.uniform(0.2, 1, size=len(members))
    return Branches(np.array(members), np.array(parent)), stability, draw.integers(1, 5, size=40)


def best_by_force(members, stability, counts, free):
    """The largest sum over all sets of disjoint branches that are not dissolved, by the formula of the docstring."""
    worth = {}
    for number, rows in enumerate(members):
        share = counts[rows].sum() / counts.sum()
        chance = share**2 / (2 * share - share**2)  # both sets have a row by chance, of the rows that either has
        if number and (stability[number] - chance) / (1 - chance) >= DISSOLVED:
            worth[number] = share * np.log(1 / share) * (stability[number] - free)
    best = 0.0
    for size in range(1, len(worth) + 1):
        for some in combinations(worth, size):
            if members[list(some)].sum(0).max() <= 1:
                best = max(best, sum(worth[number] for number in some))
    return best, worth


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([None, 0.2, 0.5]))
def test_the_choice_is_the_best_of_all_that_are_disjoint(seed, free):
    tree, stability, counts = random_tree(seed)
    best, worth = best_by_force(tree.members, stability, counts, 0.3 if free is None else free)
    chosen = choose(tree, stability, counts) if free is None else choose(tree, stability, counts, free)
    assert set(chosen.tolist()) <= worth.keys(), "neither all rows nor what is dissolved"
    assert tree.members[chosen].sum(0).max(initial=0) <= 1, "none inside another"
    assert sum(worth[number] for number in chosen.tolist()) == pytest.approx(best)
    sizes = [int(counts[tree.members[number]].sum()) for number in chosen]
    assert sizes == sorted(sizes, reverse=True)


def two_levels(*stability):
    """All rows; a half; the two quarters that it is made of."""
    members = np.zeros((4, 80), bool)
    members[0], members[1, :40], members[2, :20], members[3, 20:40] = True, True, True, True
    return choose(Branches(members, np.array([-1, 0, 1, 1])), np.array(stability), np.ones(80, np.int64)).tolist()


@pytest.mark.parametrize("stability", [0.0, 0.3, 0.49])
def test_what_is_dissolved_is_never_chosen(stability):
    assert two_levels(1.0, *[stability] * 3) == []
    assert two_levels(1.0, stability, 1.0, 1.0) == [2, 3]
    assert two_levels(1.0, 0.7, stability, stability) == [1]


@pytest.mark.parametrize(("share", "least"), [(0.05, 0.51), (0.2, 0.56), (0.5, 0.67), (0.7, 0.77)])
def test_the_more_rows_a_branch_has_the_more_stable_it_must_be(share, least):
    """Two random sets of half of the rows have a third of their rows in common, so half is not enough for them."""
    members = np.array([[True] * 100, [*[True] * round(100 * share), *[False] * round(100 - 100 * share)]])
    for stability, chosen in ((least - 0.02, []), (least + 0.02, [1])):
        tree = Branches(members, np.array([-1, 0]))
        assert choose(tree, np.array([1, stability]), np.ones(100, np.int64)).tolist() == chosen


def test_a_branch_gives_way_to_parts_that_are_as_stable_and_stays_whole_otherwise():
    assert two_levels(1.0, 0.9, 0.9, 0.9) == [2, 3]
    assert two_levels(1.0, 0.9, 0.6, 0.6) == [1]
    assert two_levels(1.0, 0.9, 0.9, 0.2) == [1], "half of the rows would be lost"


def test_all_rows_together_are_no_cluster():
    assert choose(Branches(np.ones((1, 9), bool), np.array([-1])), np.ones(1), np.ones(9, np.int64)).tolist() == []
