"""What is trained on and what is held out: whole topics, by the seed."""

from typing import Any

import pytest

from engine.features.training.texts import choose_texts, load_texts
from engine.models import Model
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.rows import read_rows
from stores.workspace import Workspace
from tests.engine.features.training.made import (
    fill_corpus,
    make_reader,
    read_corpus,
    settings_of,
)
from tests.projecting import draw_texts, texts_of


@pytest.fixture
def reader(conn: Connection, workspace: Workspace, tiny: Model) -> None:
    make_reader(conn, workspace, tiny)


def topics_of(conn: Connection, texts: Any) -> set[str]:
    labels = {
        (kind, row.text_id): row.topic
        for kind in ("stories", "dialogues")
        for row in read_rows(conn, "tiny", "toy", kind)
    }
    return {labels[each.kind, each.id] for each in texts if each.sample is None}


@pytest.mark.usefixtures("reader")
def test_no_text_of_a_held_out_topic_is_trained_on(conn: Connection) -> None:
    texts = choose_texts(conn, settings_of())
    held = topics_of(conn, texts.held_out)
    assert held.isdisjoint(topics_of(conn, texts.training))
    assert held == set(texts.topics)
    # a fifth of six topics, rounded up, of stories and of dialogues
    assert sorted(topic.split()[0] for topic in held) == ["talk", "talk", "topic", "topic"]
    assert len(texts.training) + len(texts.held_out) == 24


@pytest.mark.usefixtures("reader")
def test_the_seed_decides_which_topics(conn: Connection) -> None:
    chosen = [choose_texts(conn, settings_of(seed=seed)) for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len({each.topics for each in chosen}) > 1
    assert len({each.digest for each in chosen}) == len({each.topics for each in chosen})


def test_a_topic_that_stories_and_dialogues_share_is_held_out_of_both(
    conn: Connection, workspace: Workspace, tiny: Model
) -> None:
    fill_corpus(conn, workspace, "stories")
    fill_corpus(conn, workspace, "dialogues")
    read_corpus(conn, workspace, tiny)
    texts = choose_texts(conn, settings_of())
    assert topics_of(conn, texts.held_out).isdisjoint(topics_of(conn, texts.training))
    assert {each.kind for each in texts.held_out} == {"stories", "dialogues"}


@pytest.mark.usefixtures("reader")
def test_documents_of_samples_are_trained_on_and_never_held_out(conn: Connection) -> None:
    draw_texts(conn, texts_of(12))
    texts = choose_texts(conn, settings_of(samples=("notes",)))
    documents = [each for each in texts.training if each.sample is not None]
    assert load_texts(conn, documents) == texts_of(12)
    assert all(each.sample is None for each in texts.held_out)
    assert texts.digest != choose_texts(conn, settings_of()).digest


@pytest.mark.usefixtures("reader")
def test_a_sample_that_was_not_drawn_to_its_end_is_refused(conn: Connection) -> None:
    draw_texts(conn, texts_of(3), finished=False)
    with pytest.raises(UsageError, match=r"notes.*cli\.py project notes"):
        choose_texts(conn, settings_of(samples=("notes",)))


@pytest.mark.usefixtures("reader")
def test_a_text_that_changed_since_it_was_read_is_told(conn: Connection) -> None:
    texts = choose_texts(conn, settings_of()).training
    conn.execute("UPDATE stories SET text = text || '!' WHERE id = ?", (texts[0].id,))
    with pytest.raises(NotReady, match="1 texts changed"):
        load_texts(conn, texts)


def test_a_reader_without_texts_or_with_one_topic_is_not_ready(
    conn: Connection, workspace: Workspace, tiny: Model
) -> None:
    with pytest.raises(NotReady, match="read 0 texts"):
        choose_texts(conn, settings_of())
    fill_corpus(conn, workspace, "stories", ("rain",))
    read_corpus(conn, workspace, tiny)
    with pytest.raises(NotReady, match="at least two topics"):
        choose_texts(conn, settings_of())
