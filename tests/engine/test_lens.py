"""The lens gives what one product with the whole vocabulary gives, and finds words' tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engine import heads
from engine.heads import find_final_norm, open_head
from engine.lens import Lens, read_lens, word_tokens
from engine.models import Model, load_model
from stores.errors import ModelError
from tests.engine.tiny import save_checkpoint

TOP = 20
OWN = ((5, 90), (), (200,), (389,))
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose norm multiplies by 1 + w."""
    folder = save_checkpoint(tmp_path_factory.mktemp("gemma3"), "gemma3")
    return load_model(str(folder), device="cpu")


def random_directions(model: Model, m: int = 4) -> Floats:
    found = np.random.default_rng(0).normal(size=(m, model.d_model))
    unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def unembedding(model: Model) -> Floats:
    weight: Floats = open_head(model).weight.double().numpy()
    return weight


def read(model: Model, directions: Floats, *, through_norm: bool = False, top: int = TOP) -> Lens:
    return read_lens(model, directions, OWN, through_norm=through_norm, top=top)


@pytest.mark.parametrize("through_norm", [False, True])
def test_a_lens_is_one_product_with_the_whole_vocabulary(gemma: Model, through_norm: bool) -> None:
    directions = random_directions(gemma)
    norm: Any = find_final_norm(gemma)
    weight = 1 + norm.weight.detach().double().numpy() if through_norm else 1.0
    logits = (directions * weight) @ unembedding(gemma).T
    lens = read(gemma, directions, through_norm=through_norm)
    order = np.argsort(-logits, axis=1)
    assert (lens.top == order[:, :TOP]).all()
    assert (lens.bottom == order[:, ::-1][:, :TOP]).all()
    assert np.allclose(lens.top_values, np.take_along_axis(logits, lens.top, 1), atol=1e-5)
    assert np.allclose(lens.bottom_values, np.take_along_axis(logits, lens.bottom, 1), atol=1e-5)
    assert np.allclose(lens.products, logits @ logits.T, rtol=1e-5, atol=1e-4)
    apart = logits - logits.mean(axis=1, keepdims=True)
    assert np.allclose(lens.centred, apart @ apart.T, rtol=1e-5, atol=1e-4)


def test_a_words_rank_is_its_best_tokens_and_a_hit_is_among_the_top(gemma: Model) -> None:
    directions = random_directions(gemma)
    logits = directions @ unembedding(gemma).T
    lens = read(gemma, directions, top=100)
    ranks = 1 + (-logits).argsort(axis=1).argsort(axis=1)
    for j, tokens in enumerate(OWN):
        expected = ranks[:, tokens].min(axis=1) if tokens else np.zeros(len(directions))
        assert (lens.ranks[:, j] == expected).all()
    assert (lens.hits == ((lens.ranks > 0) & (lens.ranks <= 100))).all()
    assert lens.hits.any()
    assert not lens.hits.all()
    assert not lens.hits[:, 1].any()


def test_the_row_of_a_token_has_that_token_on_top(tiny: Model) -> None:
    """Orthogonal rows: each direction's own token is first, its opposite's last."""
    weight: Any = tiny.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    kept = weight.weight.detach().clone()
    rows, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(tiny.d_model, 4)))
    with torch.no_grad():
        weight.weight.zero_()
        weight.weight[[5, 90, 200, 389]] = torch.from_numpy(rows.T).float()
        try:
            lens = read_lens(tiny, rows.T, [(5,), (90,), (200,), (389,)], through_norm=False)
            opposite = read_lens(tiny, -rows.T, [(5,), (90,), (200,), (389,)], through_norm=False)
        finally:
            weight.weight.copy_(kept)
    assert (np.diag(lens.ranks) == 1).all()
    assert (opposite.bottom[:, 0] == [5, 90, 200, 389]).all()
    assert np.allclose(lens.products, np.eye(4), atol=1e-6)


def test_tokens_of_one_logit_share_the_better_rank(tiny: Model) -> None:
    """Rows that nobody trained are often the same."""
    head: Any = tiny.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    kept = head.weight.detach().clone()
    direction = random_directions(tiny, 1)
    with torch.no_grad():
        head.weight[100:200] = torch.from_numpy(direction).float() * 50
        try:
            lens = read_lens(tiny, direction, [(100,), (199,)], through_norm=False)
        finally:
            head.weight.copy_(kept)
    assert lens.ranks.tolist() == [[1, 1]]
    assert lens.hits.all()
    assert lens.top.tolist() == [list(range(100, 120))]


def test_slices_of_the_vocabulary_change_nothing(
    gemma: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = random_directions(gemma)
    whole = read(gemma, directions)
    monkeypatch.setattr(heads, "ROWS", 64)
    sliced = read(gemma, directions)
    assert (sliced.top == whole.top).all()
    assert (sliced.ranks == whole.ranks).all()
    assert np.allclose(sliced.products, whole.products, rtol=1e-6)


def test_in_16_bits_nothing_ties_by_rounding(tmp_path: Path) -> None:
    """The product is float32, so tokens differ that one in bfloat16 would not tell apart."""
    folder = save_checkpoint(tmp_path)
    model = load_model(str(folder), device="cpu", dtype="bfloat16")
    directions = random_directions(model)
    logits = directions @ unembedding(model).T
    rounded = torch.from_numpy(logits).bfloat16()
    lens = read(model, directions)
    assert (lens.top == np.argsort(-logits, axis=1)[:, :TOP]).all()
    assert any(len(row.unique()) < len(row) for row in rounded)


def test_a_direction_that_is_not_finite_is_named(tiny: Model) -> None:
    directions = random_directions(tiny)
    directions[2, 7] = np.nan
    with pytest.raises(ModelError, match="direction 2 of 4"):
        read(tiny, directions)


def test_directions_of_another_width_are_refused(tiny: Model) -> None:
    with pytest.raises(ValueError, match=r"expected \[m, 32\]"):
        read(tiny, np.ones((4, 31)))


def fast(backend: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    tokenizer: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = tokenizer(tokenizer_object=backend, **settings)
    return made


def byte_level(*merges: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with these merges, each two pieces with a space between."""
    pairs = [(one, other) for one, other in map(str.split, merges)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *(one + other for one, other in pairs)])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return fast(backend)


def test_every_form_that_is_one_token_is_a_words_token() -> None:
    lower = ("h a", "ha p", "hap p", "happ y", "Ġ happy")
    upper = ("Ġ H", "ĠH a", "ĠHa p", "ĠHap p", "ĠHapp y")
    tokenizer = byte_level(*lower, *upper, "c a", "ca l", "cal m")
    names = tokenizer.convert_ids_to_tokens(list(word_tokens(tokenizer, "happy")))
    assert sorted(names) == ["happy", "ĠHappy", "Ġhappy"]
    calm = tokenizer.convert_ids_to_tokens(list(word_tokens(tokenizer, "calm")))
    assert calm == ["calm"]
    assert word_tokens(tokenizer, "melancholy") == ()
    assert word_tokens(tokenizer, "at ease") == ()


def test_the_token_for_what_is_unknown_is_nobodys() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "calm": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = fast(backend, unk_token="<unk>")
    assert word_tokens(tokenizer, "calm") == (1,)
    assert word_tokens(tokenizer, "happy") == ()


def test_no_token_of_the_frame_is_counted(tiny: Model) -> None:
    """The tokenizer puts a beginning before every text."""
    assert len(word_tokens(tiny.tokenizer, "letter")) == 1
    assert word_tokens(tiny.tokenizer, "melancholy") == ()
