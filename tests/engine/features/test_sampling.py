"""The sample is a seeded handful of what the reader has pooled, and as it was read."""

import numpy as np
import pytest

from engine.features.sampling import choose_stories, sample_segments, sample_tokens
from engine.loading import LazyModel
from engine.packing import Segment
from stores.database import Connection
from stores.rows import Row, read_rows
from stores.workspace import Workspace
from tests.encoding import CORPUS, LAYER, READER, START, add_texts, pool, texts_of
from tests.engine.tiny import save_checkpoint
from tests.projecting import read_plain

STORIES = 40
DONE = 36


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> LazyModel:
    return LazyModel(name=str(save_checkpoint(tmp_path_factory.mktemp("llama"))), device="cpu")


@pytest.fixture
def pooled(conn: Connection, workspace: Workspace, lazy: LazyModel) -> Connection:
    add_texts(conn, texts_of(STORIES))
    add_texts(conn, texts_of(10, "dialogues"), "dialogues")
    pool(conn, workspace, lazy)
    return conn


def choose(conn: Connection, tokens: int = 300, seed: int = 0) -> list[Row]:
    return choose_stories(conn, READER, CORPUS, start_token=START, tokens=tokens, seed=seed)


def segments_of(conn: Connection, lazy: LazyModel, tokens: int = 300) -> list[Segment]:
    here = (conn, lazy.loaded, READER, CORPUS)
    return sample_segments(*here, format="raw", start_token=START, tokens=tokens, seed=0)


def pooled_tokens(rows: list[Row]) -> int:
    return sum((row.tokens or 0) - START for row in rows)


def ids(rows: list[Row]) -> list[int]:
    return [row.text_id for row in rows]


def test_as_few_stories_as_hold_the_tokens_all_of_them_pooled(pooled: Connection) -> None:
    done = {row.text_id for row in read_rows(pooled, READER, CORPUS, "stories") if row.tokens}
    for tokens in (1, 50, 300):
        chosen = choose(pooled, tokens)
        assert pooled_tokens(chosen[:-1]) < tokens <= pooled_tokens(chosen)
        assert set(ids(chosen)) <= done
        assert {row.status for row in chosen} == {"done"}
    everything = choose(pooled, 10**6)
    assert (len(everything), len(set(ids(everything)))) == (DONE, DONE)


def test_the_same_seed_gives_the_same_stories_and_another_gives_others(pooled: Connection) -> None:
    assert choose(pooled) == choose(pooled)
    orders = {tuple(ids(choose(pooled, 10**6, seed))) for seed in range(20)}
    assert len(orders) == 20
    first = {order[0] for order in orders}
    assert len(first) > 10


def test_more_tokens_are_the_same_stories_and_more(pooled: Connection) -> None:
    few, many = ids(choose(pooled, 100)), ids(choose(pooled, 400))
    assert many[: len(few)] == few
    assert len(many) > len(few)


def test_a_reader_without_stories_gives_none(
    conn: Connection, workspace: Workspace, lazy: LazyModel
) -> None:
    assert choose(conn) == []
    add_texts(conn, texts_of(10, "dialogues"), "dialogues")
    pool(conn, workspace, lazy)
    assert (choose(conn), segments_of(conn, lazy)) == ([], [])
    assert sample_tokens(lazy.loaded, LAYER, []).shape == (0, 32)


def test_segments_pool_what_the_ledger_counts(pooled: Connection, lazy: LazyModel) -> None:
    lengths = [len(segment.ids[segment.pooled]) for segment in segments_of(pooled, lazy)]
    assert lengths == [(row.tokens or 0) - START for row in choose(pooled)]


def test_tokens_are_those_of_each_text_read_alone(pooled: Connection, lazy: LazyModel) -> None:
    segments, model = segments_of(pooled, lazy), lazy.loaded
    plain = [read_plain(model, each.ids, each.pooled.start, [LAYER]) for each in segments]
    expected = np.concatenate([each.streams[LAYER] for each in plain])
    found = sample_tokens(model, LAYER, segments)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
