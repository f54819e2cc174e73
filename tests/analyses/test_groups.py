"""Laws of groups: planted families are found, members are all there, shuffled families are not."""

import itertools

import numpy as np
import pytest

from analyses.base import Result
from analyses.groups import COLUMNS, find_groups
from analyses.methods import geometry
from analyses.spaces import Space
from stores.results import Metric
from tests.analyses.planted import Floats, frozen


def _space(layer: int = 0, e: int = 36, families: int = 6) -> Space:
    rng = np.random.default_rng(layer)
    rows = rng.normal(size=(families, 20))[np.arange(e) % families]
    vectors = frozen(rows + 0.1 * rng.normal(size=(e, 20)))
    names = tuple(f"e{i:02d}" for i in range(e))
    found = geometry.principal_components(vectors)
    directions: Floats = geometry.unit(vectors)
    cosines = geometry.cosine_matrix(vectors)
    return Space(layer, names, vectors, found, directions, cosines)


FAMILIES = tuple(f"family {i % 6}" for i in range(36))


def _find(families: tuple[str, ...] | None, space: Space | None = None, seed: int = 0) -> Result:
    return find_groups(space or _space(), families, 199, np.random.default_rng(seed))


def _one(result: Result, metric: str, subject: str | None = None, layer: int = 0) -> Metric:
    rows = [row for row in result.metrics if (row.metric, row.layer) == (metric, layer)]
    return next(row for row in rows if row.subject == subject)


@pytest.mark.parametrize("method", ["k-means", "tree"])
def test_planted_families_are_found(method: str) -> None:
    index = _one(_find(FAMILIES), "ari_families", method)
    assert index.value == 1.0
    assert (index.p_value, index.n) == (1 / 200, 36)
    assert index.chance is not None
    assert abs(index.chance) < 0.05


def test_shuffled_families_are_not_found() -> None:
    p = []
    for seed in range(20):
        shuffled = tuple(np.random.default_rng(seed).permutation(FAMILIES))
        p.append(_one(_find(shuffled, seed=seed), "ari_families", "k-means").p_value)
    found = np.array(p, dtype=np.float64)
    assert np.mean(found <= 0.05) <= 0.2
    assert found.mean() > 0.3


def test_without_families_nothing_is_compared() -> None:
    assert not [row for row in _find(None).metrics if row.metric == "ari_families"]


@pytest.mark.parametrize(("name", "groups"), [("kmeans", 10), ("tree", 15)])
def test_every_emotion_is_in_one_group(name: str, groups: int) -> None:
    space = _space(layer=4)
    result = _find(FAMILIES, space)
    table = next(table for table in result.tables if table.name == name)
    assert table.columns == COLUMNS
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table.rows]
    members = [str(row["members"]).split(", ") for row in rows]
    assert sorted(itertools.chain(*members)) == list(space.emotions)
    assert [row["size"] for row in rows] == [len(each) for each in members]
    assert [row["centre"] for row in rows] == [each[0] for each in members]
    assert {row["layer"] for row in rows} == {4}
    assert len(rows) <= groups


@pytest.mark.parametrize("name", ["kmeans", "tree"])
def test_the_group_of_an_emotion_is_the_one_that_lists_it(name: str) -> None:
    result = _find(None)
    members = next(table for table in result.tables if table.name == name)
    groups = next(table for table in result.tables if table.name == "groups")
    place = groups.columns.index(name)
    listed = {
        emotion: row[COLUMNS.index("group")]
        for row in members.rows
        for emotion in str(row[COLUMNS.index("members")]).split(", ")
    }
    assert {row[groups.columns.index("emotion")]: row[place] for row in groups.rows} == listed


@pytest.mark.parametrize(("e", "groups"), [(2, 2), (3, 2), (12, 6), (40, 15)])
def test_groups_of_few_emotions_are_no_more_than_half_as_many(e: int, groups: int) -> None:
    result = _find(None, _space(e=e, families=e))
    assert len(next(table for table in result.tables if table.name == "tree").rows) == groups
    assert len(result.tables[0].rows) == min(groups, 10)
    assert (_one(result, "kmeans_silhouette").value is None) == (e == 2)


def test_the_centre_is_the_member_nearest_to_the_mean() -> None:
    space = _space()
    table = next(table for table in _find(None).tables if table.name == "tree")
    first = dict(zip(COLUMNS, table.rows[0], strict=True))
    members = [space.emotions.index(name) for name in str(first["members"]).split(", ")]
    closeness = space.directions[members] @ space.directions[members].sum(axis=0)
    assert first["centre"] == space.emotions[members[int(closeness.argmax())]]
