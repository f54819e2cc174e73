"""Laws of halving the stories of a layer: what is compared with what, and in one pass."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from analyses import halves
from analyses.halves import Halves, Stories, halve_stories, open_stories
from analyses.methods.statistics import spearman_brown
from stores.database import Connection, open_database
from stores.errors import NotReady
from stores.rows import Row
from stores.vectors import read_vectors
from stores.workspace import Workspace
from tests.analyses.halving import (
    LAYER,
    PER_TOPIC,
    WORLD,
    E,
    N,
    Recipe,
    build,
    drawn,
    extract,
    fill,
    known,
)
from tests.analyses.lab import CORPUS, READER, TOPICS, Lab, open_lab, story_plan, write_texts
from tests.analyses.planted import Floats

POWERS = (2, 4, 8, 16, 32)


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return open_lab(conn, workspace, WORLD)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Lab]:
    """A second laboratory of the same protocol."""
    workspace = Workspace(tmp_path / "other")
    with closing(open_database(workspace.database)) as conn:
        yield open_lab(conn, workspace, WORLD)


def read(lab: Lab, seed: int = 7) -> Halves:
    return halve_stories(lab.inputs(LAYER, seed=seed), POWERS)


def stories_of(lab: Lab, seed: int = 7) -> Stories:
    return open_stories(lab.inputs(LAYER), lab.protocol.names, np.random.default_rng(seed))


def test_the_halves_are_those_of_plain_arithmetic(lab: Lab) -> None:
    """The oracle: all stories in memory, both halves' vectors by numpy."""
    fill(lab, Recipe())
    found = read(lab)
    stories = found.stories
    with closing(halves._blocks(lab.inputs(LAYER), "stories", stories.rows)) as blocks:
        texts = np.concatenate([block for _, block in blocks]).astype(np.float64)
    for way, sides in (("random", stories.groups % 2), ("topics", stories.topic_halves)):
        vectors = []
        for half in (0, 1):
            means = [
                texts[(stories.labels == emotion) & (sides == half)].mean(axis=0)
                for emotion in range(E)
            ]
            vectors.append(np.array(means) - np.mean(means, axis=0))
        norms = [np.linalg.norm(part, axis=1) for part in vectors]
        cosines = (vectors[0] * vectors[1]).sum(axis=1) / (norms[0] * norms[1])
        last = found.agreements[way][-1]
        np.testing.assert_allclose(last.split_half, cosines, rtol=1e-6)
        if way == "random":
            np.testing.assert_allclose(last.reliability, spearman_brown(cosines), rtol=1e-6)
        np.testing.assert_array_equal(last.counts, N)


def test_no_topic_is_in_both_halves_and_alike_stories_stay_together(lab: Lab) -> None:
    fill(lab, Recipe())
    stories = stories_of(lab)
    rows = lab.conn.execute(
        "SELECT a.row, s.topic FROM activations a JOIN stories s ON s.id = a.text_id ORDER BY a.row"
    )
    topics = np.array([topic for _, topic in rows])
    sides = [set(topics[stories.topic_halves == half]) for half in (0, 1)]
    assert sides[0] | sides[1] == set(TOPICS)
    assert not sides[0] & sides[1]
    for group in range(N):
        inside = stories.groups == group
        assert len(set(topics[inside])) == 1
        assert sorted(stories.labels[inside]) == list(range(E))


def test_what_a_topic_shares_over_emotions_plays_no_part(lab: Lab, other: Lab) -> None:
    quiet, loud = read(fill(lab, Recipe())), read(fill(other, Recipe(topic=50.0)))
    for way, sets in quiet.agreements.items():
        for one, two in zip(sets, loud.agreements[way], strict=True):
            np.testing.assert_allclose(one.reliability, two.reliability, atol=1e-4)


def test_what_an_emotion_is_on_one_topic_is_noise_when_topics_are_halved(lab: Lab) -> None:
    """Two topics in one half and one in the other: the vector of all is as reliable as if its
    parts of emotion and topic were noise, which halves at random mostly share."""
    found = read(fill(lab, Recipe(emotion=0.5, both=0.6)))
    at_random, by_topics = (
        found.agreements[way][-1].reliability.mean() for way in ("random", "topics")
    )
    assert by_topics == pytest.approx(known(0.5, 0.6 / 3 + 1.0 / N), abs=0.05)
    assert at_random > by_topics + 0.1


def test_shuffled_emotions_agree_by_chance_alone(lab: Lab) -> None:
    fill(lab, Recipe(topic=50.0))
    found = [read(lab, seed).agreements["shuffled"][-1] for seed in range(6)]
    assert {tuple(one.counts) for one in found} == {(N,) * E}
    assert abs(np.mean([one.reliability.mean() for one in found])) < 0.05


def test_neither_the_order_of_stories_nor_the_chunks_play_a_part(lab: Lab, other: Lab) -> None:
    plan = story_plan(lab.protocol.names, PER_TOPIC)
    mixed = [plan[i] for i in np.random.default_rng(0).permutation(len(plan))]
    a, b = read(fill(lab, Recipe())), read(fill(other, Recipe(), mixed, chunk_rows=5))
    for way, sets in a.agreements.items():
        if way != "shuffled":
            for one, two in zip(sets, b.agreements[way], strict=True):
                np.testing.assert_allclose(one.reliability, two.reliability, rtol=1e-9)


def test_another_seed_halves_otherwise_and_the_same_seed_alike(lab: Lab) -> None:
    fill(lab, Recipe())
    a, b, c = (read(lab, seed).agreements["random"][-1].reliability for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


def test_vectors_without_neutral_directions_are_compared_without_them(lab: Lab) -> None:
    """Stories with a loud neutral direction: by their stored vectors it is as if it were not."""

    def make(row: Row) -> Floats:
        return np.asarray(Recipe()(row) + drawn(1.0, "loud") * drawn(9.0, "n", row.text_sha)[0])

    fill(lab, make, denoise=0.5)
    clean = read(lab)
    assert clean.k == 1
    assert clean.agreements["random"][-1].reliability.mean() > known(0.5, 1.0 / N) - 0.03
    build(lab, denoise=0.0)
    raw = read(lab)
    assert raw.k == 0
    assert raw.agreements["random"][-1].reliability.mean() < 0.6


def test_stories_that_are_not_done_are_in_no_half(lab: Lab, other: Lab) -> None:
    short = frozenset({0, 9, 17, 130})
    loud = Recipe(odd=dict.fromkeys(short, 1e6))
    a = read(fill(lab, loud, short=short))
    assert sum(a.agreements["random"][-1].counts) == E * N - len(short)
    b = read(fill(other, Recipe(), short=short))
    np.testing.assert_array_equal(
        a.agreements["random"][-1].reliability, b.agreements["random"][-1].reliability
    )


def test_the_vectors_of_all_stories_are_the_stored_ones(lab: Lab) -> None:
    fill(lab, Recipe(), denoise=0.5)
    found = read(lab)
    stored = read_vectors(lab.conn, lab.workspace, READER, CORPUS, LAYER)
    assert found.stories.emotions == stored.emotions
    np.testing.assert_allclose(found.agreements["random"][-1].self_cosine, 1.0, atol=1e-12)


def test_vectors_of_other_stories_are_refused(lab: Lab) -> None:
    plan = story_plan(lab.protocol.names, PER_TOPIC)
    fill(lab, Recipe(), plan[: 5 * E])
    write_texts(lab, "stories", plan)
    extract(lab, Recipe())
    with pytest.raises(NotReady, match="built from other stories than are extracted now; run `cli"):
        read(lab)
    build(lab)
    assert read(lab).agreements["random"][-1].stories == N


def test_an_emotion_with_a_single_story_is_named(lab: Lab) -> None:
    plan = [
        text
        for text in story_plan(lab.protocol.names, PER_TOPIC)
        if text.emotion != "e03" or (text.topic, text.slot) == (TOPICS[0], 0)
    ]
    fill(lab, Recipe(), plan)
    with pytest.raises(NotReady, match=r"1 of 8 emotions .* fewer than the two stories .*: e03; "):
        read(lab)


def test_one_topic_alone_is_not_halved(lab: Lab) -> None:
    plan = [t for t in story_plan(lab.protocol.names, PER_TOPIC) if t.topic == TOPICS[0]]
    found = read(fill(lab, Recipe(), plan))
    assert set(found.agreements) == {"random", "shuffled"}
    assert found.unhalved == lab.protocol.names


def test_an_emotion_on_topics_of_its_own_is_halved_on_its_own(lab: Lab) -> None:
    """Its few stories may all be in groups of one half: then they take turns."""
    plan = [
        text
        for text in story_plan(lab.protocol.names, PER_TOPIC)
        if text.emotion != "e05" or (text.topic == TOPICS[1] and text.slot < 2)
    ]
    fill(lab, Recipe(), plan)
    alone = [read(lab, seed) for seed in range(8)]
    assert {found.alone for found in alone} == {(), ("e05",)}
    for found in alone:
        assert found.agreements["random"][-1].counts[5] == 2
        assert found.unhalved == ("e05",)
