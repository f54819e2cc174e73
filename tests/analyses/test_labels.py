"""Laws of labels: planted ones are found, shuffled ones are not, missing ones are left out."""

from pathlib import Path

import numpy as np
import pytest

from analyses.base import Result
from analyses.labels import LABELS, Labels, correlate_labels, read_labels, usable
from stores.errors import UsageError
from stores.results import Metric
from tests.analyses.lab import write_protocol
from tests.analyses.planted import Floats, World, planted_world


def _components(world: World, layers: int = 3) -> dict[int, Floats]:
    """Component 1 is arousal, component 2 valence (loosely at layer 0), component 3 neither."""
    rng = np.random.default_rng(0)
    found = {}
    for layer in range(layers):
        noise = rng.normal(size=(len(world.valence), 3)) * (2.0 if layer == 0 else 0.2)
        noise[:, 0] += world.arousal
        noise[:, 1] -= world.valence
        found[layer] = noise
    return found


def _labels(world: World) -> Labels:
    return Labels("planted", {"valence": world.valence, "arousal": world.arousal}, None)


def _valence(values: Floats) -> Labels:
    return Labels("planted", {"valence": values}, None)


def _correlate(components: dict[int, Floats], labels: Labels, seed: int = 0) -> Result:
    return correlate_labels(components, labels, 199, np.random.default_rng(seed))


def _one(result: Result, metric: str, layer: int, subject: str | None = None) -> Metric:
    rows = [row for row in result.metrics if (row.metric, row.layer) == (metric, layer)]
    return next(row for row in rows if subject in (None, row.subject))


def test_planted_labels_are_found_where_they_were_planted() -> None:
    world = planted_world(e=40)
    result = _correlate(_components(world), _labels(world))
    for metric, subject in (("valence", "PC2"), ("arousal", "PC1")):
        own, best = _one(result, f"r_{metric}", 2, subject), _one(result, f"best_{metric}", 2)
        assert own.value is not None
        assert abs(own.value) > 0.85
        assert (best.subject, best.value, best.passed) == (subject, own.value, True)
        assert own.p_value == _one(result, f"r_{metric}_max", 2, subject).p_value == 1 / 200
    assert _one(result, "r_valence", 2, "PC2").value == pytest.approx(
        np.corrcoef(_components(world)[2][:, 1], world.valence)[0, 1]
    )
    assert not _one(result, "r_valence_max", 2, "PC3").passed


def test_shuffled_labels_find_nothing() -> None:
    """Over many shuffles the best corrected p of 9 looks is below .05 about once in twenty."""
    world = planted_world(e=30)
    components, best = _components(world), []
    for seed in range(40):
        shuffled = np.random.default_rng(seed).permutation(world.valence)
        result = _correlate(components, _valence(shuffled), seed)
        best.append(min(row.p_value or 1.0 for row in result.metrics if "_max" in row.metric))
    assert np.mean(np.array(best) <= 0.05) <= 0.15
    assert 0.3 < np.mean(best) < 0.7


def test_looking_everywhere_is_paid_for() -> None:
    world = planted_world(e=40)
    components = _components(world)
    alone = _correlate({0: components[0]}, _labels(world))
    among = _correlate(components, _labels(world))
    own = _one(alone, "r_valence", 0, "PC2").p_value or 0.0
    assert own <= (_one(alone, "r_valence_max", 0, "PC2").p_value or 0.0)
    assert (_one(alone, "r_valence_max", 0, "PC2").threshold or 0.0) < (
        _one(among, "r_valence_max", 0, "PC2").threshold or 0.0
    )


def test_the_table_repeats_the_rows_and_names_the_source() -> None:
    world = planted_world(e=40)
    result = _correlate(_components(world), _labels(world))
    (table,) = result.tables
    assert len(table.rows) == 2 * 3 * 3
    first = dict(zip(table.columns, table.rows[0], strict=True))
    own = _one(result, "r_valence", 0, "PC1")
    assert (first["source"], first["n"], first["r"]) == ("planted", 40, own.value)
    assert first["q"] == _one(result, "r_valence_fdr", 0, "PC1").p_value


def test_emotions_without_a_label_are_left_out_of_n() -> None:
    world = planted_world(e=40)
    partial = np.where(np.arange(40) < 25, world.valence, np.nan)
    result = _correlate(_components(world), _valence(partial))
    own = _one(result, "r_valence", 2, "PC2")
    expected = np.corrcoef(_components(world)[2][:25, 1], world.valence[:25])[0, 1]
    assert own.n == 25
    assert own.value == pytest.approx(expected)


def test_no_labels_no_rows() -> None:
    world = planted_world(e=10)
    assert _correlate(_components(world), Labels("user", {}, None)) == Result()


def test_labels_follow_the_order_of_the_vectors(tmp_path: Path) -> None:
    world = planted_world(e=5, families=2)
    protocol = write_protocol(tmp_path, world)
    labels = read_labels(protocol, ["e03", "e00", "unheard of", "e01"])
    np.testing.assert_allclose(
        labels.values["valence"], [*world.valence[[3, 0]], np.nan, world.valence[1]], atol=1e-6
    )
    assert labels.source == "planted"
    assert labels.families is None
    assert read_labels(protocol, ["e03", "e00"]).families == ("family 1", "family 0")


def test_a_label_that_does_not_vary_or_is_known_of_two_is_left_out(tmp_path: Path) -> None:
    world = planted_world(e=5)
    flat = World(world.vectors, np.zeros(5), world.arousal, world.families)
    protocol = write_protocol(tmp_path, flat)
    assert list(read_labels(protocol, protocol.names).values) == ["arousal"]
    assert not read_labels(protocol, ["e00", "e01", "x"]).values


def test_labels_are_usable_when_three_are_known_and_differ() -> None:
    nan = np.nan
    for valence in ([1.0, 2.0, nan, nan], [3.0, 3.0, 3.0, nan], [nan] * 4):
        assert list(usable({"valence": np.array(valence), "arousal": np.arange(4.0)})) == [
            "arousal"
        ]
    kept = usable({label: np.array([1.0, nan, 1.0, 2.0]) for label in LABELS})
    assert list(kept) == ["valence", "arousal"]
    np.testing.assert_array_equal(kept["valence"], [1.0, nan, 1.0, 2.0])


def test_labelled_emotions_of_one_vector_are_refused_in_one_line() -> None:
    scores = np.random.default_rng(0).normal(size=(9, 3))
    scores[:4] = scores[0]
    labels = _valence(np.array([1.0, 2.0, 3.0, 4.0, *[np.nan] * 5]))
    with pytest.raises(UsageError, match=r"have labels .planted. cannot be told apart"):
        _correlate({0: scores}, labels)
