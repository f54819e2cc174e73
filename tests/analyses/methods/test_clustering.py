"""Laws of partitions, their stability and their agreement."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from analyses.methods.clustering import hierarchical, kmeans, rand_index, tree_of
from analyses.methods.geometry import unit
from tests.analyses.planted import Floats, frozen


def _islands(seed: int = 0) -> tuple[Floats, np.ndarray]:
    """24 directions (24, 10) in four far groups of 9, 7, 5 and 3."""
    families = np.repeat(np.arange(4), [5, 9, 3, 7])
    rng = np.random.default_rng(seed)
    rows = np.eye(4, 10)[families] + 0.05 * rng.normal(size=(24, 10))
    return frozen(rows / np.linalg.norm(rows, axis=1, keepdims=True)), families


def test_kmeans_finds_far_groups_and_every_run_agrees() -> None:
    directions, families = _islands()
    found = kmeans(directions, 4, np.random.default_rng(0), runs=3)
    assert adjusted_rand_score(found.labels, families) == 1.0
    assert found.stability == pytest.approx(1.0)
    assert found.silhouette == pytest.approx(
        silhouette_score(directions, families, metric="cosine")
    )


def test_groups_are_numbered_by_size() -> None:
    directions, _ = _islands()
    for found in (kmeans(directions, 4, np.random.default_rng(7)), hierarchical(directions, 4)):
        assert np.bincount(found.labels).tolist() == [9, 7, 5, 3]


def test_noise_is_not_stable() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(60, 20)))
    stability = kmeans(rows, 8, np.random.default_rng(0), runs=4, starts=1).stability
    assert stability is not None
    assert stability < 0.7


def _shape(e: int, d: int, kind: str = "float64") -> NDArray[np.floating]:
    """Directions (e, d) with some families among them, in another precision."""
    rng = np.random.default_rng(e + d)
    rows = 2.0 * rng.normal(size=(7, d))[np.arange(e) % 7] + rng.normal(size=(e, d))
    return unit(rows).astype(kind)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(("e", "d"), [(40, 90), (90, 12)])
def test_kmeans_is_that_of_sklearn_with_the_same_seed(e: int, d: int, kind: str) -> None:
    directions = _shape(e, d, kind)
    for seed in range(5):
        found = kmeans(directions, 6, np.random.default_rng(seed), runs=1, starts=2)
        same_seed = int(np.random.default_rng(seed).integers(2**31))
        wide = directions.astype(np.float64)
        plain = KMeans(6, n_init=2, random_state=same_seed).fit(wide)
        assert adjusted_rand_score(found.labels, plain.labels_) == 1.0
        expected = silhouette_score(wide, plain.labels_, metric="cosine")
        assert found.silhouette == pytest.approx(expected, abs=1e-9)


def test_kmeans_keeps_the_tightest_run_and_stability_is_the_agreement_of_all_pairs() -> None:
    points = unit(np.random.default_rng(3).normal(size=(60, 4)))
    found = kmeans(points, 5, np.random.default_rng(0), runs=4, starts=1)
    seeds = np.random.default_rng(0).integers(2**31, size=4)
    runs = [KMeans(5, n_init=1, random_state=int(seed)).fit(points) for seed in seeds]
    tightest = min(runs, key=lambda run: float(run.inertia_))
    assert adjusted_rand_score(found.labels, tightest.labels_) == 1.0
    pairs = [adjusted_rand_score(a.labels_, b.labels_) for a, b in combinations(runs, 2)]
    assert np.mean(pairs) < 1.0
    assert found.stability == pytest.approx(np.mean(pairs))


def test_one_run_tells_nothing_of_stability() -> None:
    assert kmeans(_islands()[0], 4, np.random.default_rng(0), runs=1).stability is None


def test_kmeans_survives_fewer_distinct_points_than_groups() -> None:
    directions = frozen(np.repeat(np.eye(3), 4, axis=0))
    found = kmeans(directions, 5, np.random.default_rng(0))
    assert np.bincount(found.labels).tolist() == [4, 4, 4]
    assert found.silhouette == 1.0


def test_more_groups_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="3 directions cannot form 4 groups"):
        kmeans(np.eye(3), 4, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(("e", "d"), [(40, 90), (90, 12)])
def test_the_hierarchy_is_average_linkage_on_cosine_distance(e: int, d: int, kind: str) -> None:
    directions = _shape(e, d, kind)
    plain = linkage(directions.astype(np.float64), "average", "cosine")
    found = hierarchical(directions, 15)
    assert adjusted_rand_score(found.labels, fcluster(plain, 15, "maxclust")) == 1.0
    tree = tree_of(directions)
    np.testing.assert_allclose(tree[:, 2:], plain[:, 2:], atol=1e-6)
    np.testing.assert_array_equal(np.sort(tree[:, :2], axis=1), np.sort(plain[:, :2], axis=1))


def test_two_directions_make_a_tree_of_one_branch() -> None:
    directions = _islands()[0]
    assert tree_of(directions).shape == (23, 4)
    assert tree_of(directions[:2]).shape == (1, 4)


def test_silhouettes_equal_those_of_sklearn() -> None:
    directions = frozen(unit(np.random.default_rng(5).normal(size=(30, 4))))
    for groups in (2, 7, 20):
        found = hierarchical(directions, groups)
        expected = silhouette_score(directions, found.labels, metric="cosine")
        assert found.silhouette == pytest.approx(expected)


def test_a_silhouette_needs_groups_of_which_one_has_company() -> None:
    directions = _islands()[0]
    assert hierarchical(directions, 1).silhouette is None
    assert hierarchical(directions, len(directions)).silhouette is None


def test_the_leaves_of_the_tree_keep_groups_together() -> None:
    directions, families = _islands()
    order = leaves_list(tree_of(directions))
    assert sorted(order) == list(range(24))
    assert int((np.diff(families[order]) != 0).sum()) == 3


def test_equal_directions_make_no_negative_distance() -> None:
    directions = frozen(np.repeat(_islands()[0][:3], 4, axis=0))
    assert sorted(leaves_list(tree_of(directions))) == list(range(12))


def test_rand_index_equals_that_of_sklearn() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, 50), rng.integers(3, 7, 50)
    found = rand_index(a, b, rng, permutations=20)
    assert found.value == pytest.approx(adjusted_rand_score(a, b))
    shuffled = [adjusted_rand_score(a, rng.permutation(b)) for _ in range(200)]
    many = rand_index(a, b, rng, permutations=2000)
    assert many.chance == pytest.approx(np.mean(shuffled), abs=0.01)


def test_rand_index_of_equal_partitions_is_one_and_beyond_chance() -> None:
    families = _islands()[1]
    found = rand_index(families, 9 - families, np.random.default_rng(0), permutations=199)
    assert (found.value, found.p) == (1.0, 1 / 200)
    assert abs(found.chance) < 0.05


def test_rand_index_of_trivial_partitions_is_one_and_says_nothing() -> None:
    same = np.zeros(6, dtype=np.int64)
    found = rand_index(same, same, np.random.default_rng(0), permutations=9)
    assert (found.value, found.chance, found.p) == (1.0, 1.0, 1.0)


def test_rand_index_of_shuffled_families_finds_nothing() -> None:
    families = _islands()[1]
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p.append(rand_index(families, rng.permutation(families), rng, permutations=199).p)
    assert 0.3 < np.mean(p) < 0.8
    assert np.mean(np.array(p) <= 0.05) <= 0.15
