"""Laws of partitions, their stability and their agreement."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from analyses.methods.clustering import hierarchical, kmeans, leaf_order, rand_index
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


def test_kmeans_is_as_tight_as_that_of_sklearn() -> None:
    """Labels are arbitrary and optima many, so the sums of squares are compared."""
    points = unit(np.random.default_rng(3).normal(size=(60, 4)))
    found = kmeans(points, 5, np.random.default_rng(0), runs=5, starts=10)
    groups = [points[found.labels == group] for group in range(5)]
    inertia = sum(float(np.square(group - group.mean(axis=0)).sum()) for group in groups)
    reference = KMeans(5, n_init=50, random_state=0).fit(points)
    assert inertia <= float(reference.inertia_) * (1.0 + 1e-9)


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


def test_the_hierarchy_is_average_linkage_on_cosine_distance() -> None:
    directions = _islands(1)[0]
    reference = fcluster(linkage(directions, "average", "cosine"), 6, "maxclust")
    assert adjusted_rand_score(hierarchical(directions, 6).labels, reference) == 1.0


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


def test_leaf_order_keeps_groups_together() -> None:
    directions, families = _islands()
    order = leaf_order(directions)
    assert sorted(order) == list(range(24))
    assert int((np.diff(families[order]) != 0).sum()) == 3


def test_equal_directions_make_no_negative_distance() -> None:
    directions = frozen(np.repeat(_islands()[0][:3], 4, axis=0))
    assert sorted(leaf_order(directions)) == list(range(12))


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
