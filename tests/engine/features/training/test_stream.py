"""Buffers of tokens: every content token of every text, in an order that the seed decides."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from engine.budget import ExtractionBudget
from engine.features.training.stream import TokenReader, Tokens, TokenStream
from engine.features.training.texts import StoredText, choose_texts, load_texts
from engine.models import Model
from engine.packing import Batching
from engine.readings import TextReader
from stores.database import Connection
from stores.errors import ModelError, Stopped
from stores.workspace import Workspace
from tests.engine.features.training.made import LAYER, make_reader, settings_of
from tests.projecting import draw_texts, read_plain, texts_of

SOME = tuple(StoredText(i, 5 + i % 7, f"sha:{i}", "stories") for i in range(40))


def reader_of(
    model: Model, batching: Batching = "padded", stop: threading.Event | None = None
) -> TokenReader:
    budget = ExtractionBudget(300)
    texts = TextReader(model, "raw", 0)
    return TokenReader(model, batching, budget, stop or threading.Event(), texts, LAYER)


def numbered(texts: Sequence[StoredText]) -> Tokens:
    """Tokens that say whose they are."""
    rows = [np.full((each.tokens, 1), each.id, np.float32) for each in texts]
    return np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)


@pytest.mark.parametrize("batching", ["padded", "packed", "alone"])
def test_every_content_token_is_what_a_plain_pass_gives(
    conn: Connection, workspace: Workspace, tiny: Model, batching: Batching
) -> None:
    make_reader(conn, workspace, tiny)
    texts = choose_texts(conn, settings_of()).training
    found = reader_of(tiny, batching).gather(conn, texts)
    expected = []
    for text in load_texts(conn, texts):
        ids = tiny.tokenizer(text)["input_ids"]
        assert ids[0] == tiny.tokenizer.bos_token_id
        expected.append(read_plain(tiny, ids, 1, (LAYER,)).streams[LAYER])
    plain = np.concatenate(expected)
    assert found.shape == plain.shape
    np.testing.assert_allclose(found, plain, atol=1e-5 * np.abs(plain).max())


def test_a_document_that_cannot_be_read_is_left_out_and_known(
    conn: Connection, workspace: Workspace, tiny: Model
) -> None:
    make_reader(conn, workspace, tiny)
    draw_texts(conn, [*texts_of(2), "  "])
    documents = choose_texts(conn, settings_of(samples=("notes",))).training[-3:]
    reader = reader_of(tiny)
    both = reader.gather(conn, documents)
    assert reader.unreadable == {documents[2]}
    np.testing.assert_array_equal(both, reader_of(tiny).gather(conn, documents[:2]))


def test_a_round_of_buffers_holds_each_text_once_and_as_many_tokens_each() -> None:
    stream = TokenStream(numbered, SOME, 60, 0)
    for turn in range(3):
        numbers = range(turn * stream.buffers, (turn + 1) * stream.buffers)
        cuts = [stream.cut(number) for number in numbers]
        assert sorted(i for cut in cuts for i in cut) == list(range(40))
        assert all(40 <= sum(SOME[i].tokens for i in cut) <= 70 for cut in cuts)
    assert stream.cut(0) != stream.cut(stream.buffers)


@pytest.mark.parametrize("size", [60, 10_000])
def test_a_buffer_hangs_on_the_seed_and_its_number_alone(size: int) -> None:
    first, later = TokenStream(numbered, SOME, size, 3), TokenStream(numbered, SOME, size, 3)
    buffers = [first.read(number) for number in range(9)]
    for number in (7, 2):
        tokens, order = later.read(number)
        np.testing.assert_array_equal(tokens, buffers[number][0])
        np.testing.assert_array_equal(order, buffers[number][1])
    orders = {tuple(order.tolist()) for _, order in buffers}
    assert len(orders) == 9
    _, other = TokenStream(numbered, SOME, size, 4).read(2)
    assert tuple(other.tolist()) not in orders


def test_texts_that_fit_in_one_buffer_are_read_once() -> None:
    asked: list[int] = []

    def counted(texts: Sequence[StoredText]) -> Tokens:
        asked.append(len(texts))
        return numbered(texts)

    stream = TokenStream(counted, SOME, 10_000, 0)
    for number in range(4):
        tokens, order = stream.read(number)
        assert sorted(order.tolist()) == list(range(len(tokens)))
    assert asked == [40]


def test_a_stop_ends_the_reading(conn: Connection, workspace: Workspace, tiny: Model) -> None:
    make_reader(conn, workspace, tiny)
    stop = threading.Event()
    stop.set()
    gather: Callable[[Any], Any] = partial(reader_of(tiny, stop=stop).gather, conn)
    with pytest.raises(Stopped):
        gather(choose_texts(conn, settings_of()).training)


def test_activations_that_are_not_finite_are_told(
    conn: Connection, workspace: Workspace, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_reader(conn, workspace, tiny)
    texts = choose_texts(conn, settings_of()).training[:3]
    weight: Any = tiny.blocks[0].mlp.down_proj.weight  # type: ignore[union-attr]
    monkeypatch.setattr(weight, "data", weight.data * float("inf"))
    with pytest.raises(ModelError, match=r"not finite after block 2; .*--dtype"):
        reader_of(tiny).gather(conn, texts)
