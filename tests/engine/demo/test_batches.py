"""Laws of packing: nothing is lost, cut or mixed; weights and roles land on the right tokens."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer

from engine.demo.batches import (
    AFTER_QUESTION,
    OPTION,
    OTHER,
    BatchSettings,
    Source,
    build_batches,
    pack,
    tokenize,
)
from engine.demo.documents import Document
from engine.demo.tokenizer import BOS_ID, EOS_ID, PAD_ID, train_tokenizer

PLACES = ("garden", "kitchen", "street", "harbour", "office")
DEEDS = ("rest", "sing", "steal", "help", "wait")


def write_long(rng: random.Random) -> Document:
    places = " ".join(f"She walked to the {rng.choice(PLACES)}." for _ in range(rng.randint(4, 9)))
    return Document("story", places)


def write_question(rng: random.Random) -> Document:
    """A two-option question; the answer letter weighs 8."""
    options = f"(A) {rng.choice(DEEDS)} or (B) {rng.choice(DEEDS)}"
    question = f"Human: Would you prefer to {options}?"
    text = f"{question}\n\nAssistant: (A) it is."
    letter, first = text.rindex("(A)") + 1, text.index(options)
    return Document(
        "preference",
        text,
        weights=((letter, letter + 1, 8.0),),
        options=(first, first + len(options)),
        question_end=len(question),
    )


def learn_toy_tokenizer() -> Tokenizer:
    rng = random.Random(0)
    texts = [write_long(rng).text for _ in range(30)] + [
        write_question(rng).text for _ in range(30)
    ]
    return train_tokenizer(texts, DEEDS, size=384, repeats=50).backend_tokenizer


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(write_long, write_question, learn_toy_tokenizer())


def settings(seed: int = 3, steps: int = 30) -> BatchSettings:
    return BatchSettings(
        seed=seed, steps=steps, rows=2, row_tokens=96, long_share=0.5, late_share=0.7
    )


def test_weight_lands_on_the_answer_letter_and_not_on_the_start(source: Source) -> None:
    document = write_question(random.Random(1))
    (tokens,) = tokenize([document], source.tokenizer)
    heavy = tokens["id"][tokens["weight"] == 8.0]
    assert [source.tokenizer.id_to_token(i) for i in heavy] == ["A"]
    assert tokens["weight"][0] == 0.0
    assert (tokens["weight"][1:] > 0).all()


def test_roles_cover_the_options_and_all_from_the_question_mark_on(source: Source) -> None:
    document = write_question(random.Random(1))
    (tokens,) = tokenize([document], source.tokenizer)
    texts = {
        role: source.tokenizer.decode(tokens["id"][tokens["role"] == role].tolist()).strip()
        for role in (OTHER, OPTION, AFTER_QUESTION)
    }
    assert document.options is not None
    assert texts[OTHER] == "Human: Would you prefer to"
    assert texts[OPTION] == document.text[slice(*document.options)]
    assert texts[AFTER_QUESTION] == "?\n\nAssistant: (A) it is."
    assert tokens["role"][-1] == AFTER_QUESTION


def test_every_document_starts_and_ends(source: Source) -> None:
    (tokens,) = tokenize([Document("story", "She walked.")], source.tokenizer)
    assert (tokens["id"][0], tokens["id"][-1]) == (BOS_ID, EOS_ID)
    assert (tokens["role"] == OTHER).all()


def test_packing_loses_nothing_that_fits() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 60) for _ in range(200)]
    rows = pack(lengths, n_rows=sum(lengths) // 90, row_tokens=100)
    assert sorted(index for row in rows for index in row) == list(range(200))
    assert max(sum(lengths[index] for index in row) for row in rows) <= 100


def test_a_document_longer_than_a_row_fills_one() -> None:
    assert pack([5, 300], n_rows=2, row_tokens=100) == [[1], [0]]


def test_rows_hold_whole_documents_in_order(source: Source) -> None:
    tokens = build_batches(source, settings()).tokens.reshape(-1, 96)
    for row in tokens:
        for number in range(1, row["document"].max() + 1):
            own = row[row["document"] == number]
            assert (own["id"][0], own["id"][-1]) == (BOS_ID, EOS_ID)
            assert (own["position"] == np.arange(len(own))).all()
            assert len(set(own["kind"])) == 1
        padding = row[row["document"] == 0]
        assert (padding["id"] == PAD_ID).all()
        assert (padding["weight"] == 0).all()


def test_settings_determine_the_batches(source: Source) -> None:
    first, again = (build_batches(source, settings()) for _ in range(2))
    other = build_batches(source, settings(seed=4))
    assert (first.tokens == again.tokens).all()
    assert (first.late == again.late).all()
    assert (first.tokens != other.tokens).any()


def test_workers_change_nothing(source: Source) -> None:
    one = build_batches(source, settings())
    two = build_batches(source, settings(), workers=2)
    assert (one.tokens == two.tokens).all()
    assert (one.late == two.late).all()


def test_rows_are_full_and_shares_are_as_asked(source: Source) -> None:
    batches = build_batches(source, settings(steps=100))
    story = batches.kinds.index("story")
    used = batches.tokens["document"] > 0
    assert batches.fill > 0.9
    assert abs((batches.tokens["kind"][used] == story).mean() - 0.5) < 0.05
    assert abs(batches.late.mean() - 0.7) < 0.15


def test_kinds_are_numbered_alike_in_all_chunks(source: Source) -> None:
    """The first chunk holds stories only, so that it alone would number the kinds otherwise."""
    drawn = iter(range(100_000))

    def mixed(rng: random.Random) -> Document:
        return write_long(rng) if next(drawn) < 200 else write_question(rng)

    batches = build_batches(Source(mixed, mixed, source.tokenizer), settings(steps=60))
    is_question = batches.tokens["kind"] == batches.kinds.index("preference")
    assert batches.kinds == ("preference", "story")
    assert not is_question[0][batches.tokens[0]["document"] > 0].any()
    assert is_question[-1][batches.tokens[-1]["document"] > 0].all()
