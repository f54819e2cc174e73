"""Laws of reading: padding and batches change nothing, the start token never counts."""

import random

import numpy as np
import pytest
import torch

from engine.demo.batches import Source
from engine.demo.measures import Floats
from engine.demo.recipe import Recipe
from engine.demo.residuals import (
    Reader,
    encode_texts,
    last_residuals,
    mean_norm,
    pooled_means,
    residual,
    token_loss,
    write_texts,
)
from engine.demo.tokenizer import BOS_ID, EOS_ID, wrap
from engine.demo.train import build_model
from engine.tokens import encode_prompt
from tests.engine.demo.test_batches import learn_toy_tokenizer, write_long, write_question

RECIPE = Recipe(layers=3, width=64, heads=2, ffn=64, vocabulary=384, init_std=0.2)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(write_long, write_question, learn_toy_tokenizer())


@pytest.fixture(scope="module")
def reader(source: Source) -> Reader:
    model = build_model(RECIPE).requires_grad_(False)
    return Reader(model, wrap(source.tokenizer), layer=1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    return [write_long(rng).text for _ in range(12)]


def alone(reader: Reader, ids: list[int]) -> Floats:
    hidden: Floats = residual(reader, torch.tensor([ids]))[0].double().numpy()
    return hidden


def test_pooled_means_equal_reading_each_text_alone(reader: Reader, texts: list[str]) -> None:
    encoded = encode_texts(reader, texts)
    assert len({len(ids) for ids in encoded}) > 1
    pooled = pooled_means(reader, encoded, first=10)
    for row, ids in zip(pooled, encoded, strict=True):
        assert ids[0] == BOS_ID
        np.testing.assert_allclose(row, alone(reader, ids)[11:].mean(axis=0), atol=1e-5)


def test_short_texts_are_marked_and_spoil_no_others(reader: Reader, texts: list[str]) -> None:
    encoded = [*encode_texts(reader, texts), [BOS_ID, 5, 6]]
    pooled = pooled_means(reader, encoded, first=10)
    assert np.isnan(pooled[-1]).all()
    assert np.isfinite(pooled[:-1]).all()


def test_prompts_are_read_where_the_answer_starts(reader: Reader) -> None:
    prompts = ["Would you rather rest?", "Sing?"]
    for row, prompt in zip(last_residuals(reader, prompts), prompts, strict=True):
        ids = list(encode_prompt(reader.tokenizer, prompt))
        assert str(reader.tokenizer.decode(ids)).endswith("Assistant:")
        np.testing.assert_allclose(row, alone(reader, ids)[-1], atol=1e-5)


def test_the_mean_norm_leaves_the_start_token_out(reader: Reader, texts: list[str]) -> None:
    encoded = encode_texts(reader, texts)
    norms = [np.linalg.norm(alone(reader, ids)[1:], axis=1) for ids in encoded]
    assert mean_norm(reader, encoded) == pytest.approx(np.concatenate(norms).mean(), rel=1e-5)


def test_the_token_loss_is_the_plain_models_per_token(reader: Reader, texts: list[str]) -> None:
    total, tokens = 0.0, 0
    for encoded in encode_texts(reader, texts):
        ids = torch.tensor([[*encoded, EOS_ID]])
        total += len(encoded) * reader.model(input_ids=ids, labels=ids).loss.item()
        tokens += len(encoded)
    assert token_loss(reader, texts) == pytest.approx(total / tokens, rel=1e-5)


def test_a_seed_determines_what_is_written(reader: Reader) -> None:
    before = torch.random.get_rng_state()
    prompts = ["Sing?", "Would you rather rest?"]
    first, again, other = (write_texts(reader, prompts, seed=s, max_tokens=9) for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.random.get_rng_state())
