"""Pooled codes equal what sae-lens itself encodes, token by token, however texts share a pass."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.budget import ExtractionBudget
from engine.features import codes
from engine.features.codes import (
    CodePooler,
    Encoded,
    TextCodes,
    decoder_rows,
    encode_tokens,
    read_tokens,
)
from engine.models import Model
from engine.packing import Batching, Segment
from engine.tokens import encode_raw
from stores.errors import ModelError
from tests.engine.features.saes import load_plainly, make_sae, save_sae
from tests.engine.tiny import text_of

BATCHINGS: tuple[Batching, ...] = ("packed", "padded", "alone")
KINDS = ("standard", "topk", "jumprelu", "gated", "abstopk", "batchtopk", "matryoshka_batchtopk")
LAYER, WIDTH, FEATURES, START, BUDGET = 2, 32, 96, 4, 160
# Of the tiny model's residual stream there, about.
NORM = 12.0
EXACT = 1e-6


def segments_of(model: Model) -> list[Segment]:
    texts = [text_of(words, start=words) for words in (40, 12, 33, 8, 25, 50, 17)]
    every = [encode_raw(model, text) for text in texts]
    return [Segment(e.ids, slice(e.content.start + START, e.content.stop)) for e in every]


def pooler_of(model: Model, saes: Sequence[Any], batching: Batching = "padded") -> CodePooler:
    stop = threading.Event()
    return CodePooler(model, batching, ExtractionBudget(BUDGET), stop, LAYER, saes)


def encode(
    pooler: CodePooler, segments: Sequence[Segment], wanted: Sequence[int] | None = None
) -> Encoded:
    every = range(len(segments)) if wanted is None else wanted
    found = pooler.encode(segments, every, lambda _texts, _tokens: None)
    assert found is not None
    return found


def texts_of(found: Encoded) -> list[tuple[TextCodes, ...]]:
    texts = [text for text in found.texts if text is not None]
    assert len(texts) == len(found.texts)
    return texts


def bits(text: Sequence[TextCodes]) -> list[tuple[bytes, bytes, int, float, float, float]]:
    return [
        (c.features.tobytes(), c.means.tobytes(), c.tokens, c.l0, c.error, c.square) for c in text
    ]


@contextmanager
def changed(model: Model, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """`change(states)` in place of what the block at LAYER returns."""
    block = model.blocks[LAYER]
    hook = block.register_forward_hook(lambda _module, _inputs, states: change(states))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def remembered(model: Model) -> Iterator[list[Tensor]]:
    """What the block at LAYER returned in each pass, [b, t, d]."""
    kept: list[Tensor] = []

    def remember(states: Tensor) -> Tensor:
        kept.append(states.clone())
        return states

    with changed(model, remember):
        yield kept


@contextmanager
def states_by_token(model: Model, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """Let the block at LAYER return a row of a table for each token, whatever is around it."""
    made = torch.Generator().manual_seed(1)
    table = torch.randn(len(model.tokenizer), WIDTH, generator=made) * NORM / WIDTH**0.5
    table = (table + 1).to(dtype)
    ids: list[Tensor] = []

    def see(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        ids[:] = [inputs["input_ids"]]

    hook = model.backbone.register_forward_pre_hook(see, with_kwargs=True)
    try:
        with changed(model, lambda _states: table[ids[0]]):
            yield table
    finally:
        hook.remove()


@contextmanager
def short_of_memory(model: Model, too_much: Callable[[int, int], bool]) -> Iterator[None]:
    """Passes whose number and token count are `too_much` fail."""
    sizes: list[int] = []

    def refuse(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        sizes.append(inputs["input_ids"].numel())
        if too_much(len(sizes), sizes[-1]):
            raise torch.OutOfMemoryError("simulated")

    hook = model.backbone.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def check_text(sae: Any, states: Tensor, found: TextCodes, tolerance: float = EXACT) -> None:
    """The definition: sae-lens called on all tokens of a text, its codes averaged in float64."""
    with torch.inference_mode():
        plain = sae.encode(states)
        rebuilt = sae.decode(plain)
    means = plain.double().mean(dim=0).numpy()
    off = (rebuilt.double() - states.double()).square().sum(dim=-1).mean().item()
    dense = np.zeros(len(means))
    dense[found.features] = found.means
    assert found.features.dtype == np.int32
    assert found.means.dtype == np.float32
    assert np.array_equal(found.features, np.flatnonzero((plain != 0).any(dim=0).numpy()))
    sizes = plain.double().abs().mean(dim=0).numpy()
    assert (np.abs(dense - means) <= tolerance * sizes).all()
    assert found.tokens == len(states)
    assert found.l0 == pytest.approx((plain != 0).sum().item() / len(states), rel=tolerance)
    assert found.error == pytest.approx(off, rel=max(tolerance, 1e-5))
    square = states.double().square().sum(dim=-1).mean().item()
    assert found.square == pytest.approx(square, rel=tolerance)


def sae_of(
    kind: str, folder: Path, normalize: str = "none", dtype: str = "float32", **more: Any
) -> Any:
    """Written, and read back by sae-lens."""
    named = "none" if normalize == "folded" else normalize
    norm = None if normalize == "constant_norm_rescale" else NORM
    norm = WIDTH**0.5 if normalize in ("folded", "layer_norm") else norm
    more = {"d_in": WIDTH, "d_sae": FEATURES, "norm": norm, "dtype": dtype} | more
    sae = make_sae(kind, normalize=named, **more)
    if normalize == "folded":
        sae.fold_activation_norm_scaling_factor(WIDTH**0.5 / NORM)
    return load_plainly(save_sae(sae, folder))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale", "folded"])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_sae_lens_called_plainly(
    tiny: Model, tmp_path: Path, kind: str, normalize: str, dtype: str
) -> None:
    sae = sae_of(kind, tmp_path, normalize, dtype)
    segment = segments_of(tiny)[0]
    with remembered(tiny) as states:
        (every,) = encode_tokens(tiny, LAYER, [sae], segment)
        found = texts_of(encode(pooler_of(tiny, [sae], "alone"), [segment]))
    own = [each[0, segment.pooled] for each in states]
    with torch.inference_mode():
        plain = sae.encode(own[0]).float().numpy()
    assert every.dtype == np.float32
    assert every.tobytes() == plain.tobytes()
    assert 0 < np.count_nonzero(every) < every.size
    assert torch.equal(own[0], own[1])
    # Codes of bfloat16 are exact numbers like any others; what decodes them rounds them again.
    check_text(sae, own[1], found[0][0])


@pytest.mark.parametrize("batching", BATCHINGS)
def test_pooled_codes_equal_a_plain_computation_in_every_family(
    tiny_family: Model, tmp_path: Path, batching: Batching
) -> None:
    sae = sae_of("standard", tmp_path)
    segments = segments_of(tiny_family)
    found = texts_of(encode(pooler_of(tiny_family, [sae], batching), segments))
    for segment, (text,) in zip(segments, found, strict=True):
        (states,) = read_tokens(tiny_family, LAYER, [segment])
        with torch.inference_mode():
            means = sae.encode(torch.from_numpy(states)).double().mean(dim=0).numpy()
        dense = np.zeros(FEATURES)
        dense[text.features] = text.means
        # Other sums in the model's own products, text by text or together.
        assert np.abs(dense - means).max() <= 1e-5 * NORM
        assert text.square == pytest.approx(np.square(states, dtype=float).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated"])
def test_a_texts_codes_do_not_depend_on_what_shares_its_batch(
    tiny: Model, tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    sae = sae_of(kind, tmp_path)
    segments = segments_of(tiny)
    with states_by_token(tiny, dtype) as table:
        plain = [table[list(s.ids[s.pooled])] for s in segments]
        found = [texts_of(encode(pooler_of(tiny, [sae], b), segments)) for b in BATCHINGS]
        single = [encode(pooler_of(tiny, [sae]), [s]).texts[0] for s in segments]
    for i, states in enumerate(plain):
        check_text(sae, states, found[0][i][0])
        same = {str(bits(texts[i])) for texts in [*found, texts_of(Encoded(single))]}
        assert len(same) == 1


def test_two_saes_read_at_once_give_what_each_gives_alone(tiny: Model, tmp_path: Path) -> None:
    one = sae_of("topk", tmp_path / "one", "layer_norm")
    other = sae_of("jumprelu", tmp_path / "other", "constant_norm_rescale", d_sae=2 * FEATURES)
    segments = segments_of(tiny)
    both = texts_of(encode(pooler_of(tiny, [one, other]), segments))
    for j, sae in enumerate((one, other)):
        alone = texts_of(encode(pooler_of(tiny, [sae]), segments))
        assert [bits([text[j]]) for text in both] == [bits(text) for text in alone]
    again = texts_of(encode(pooler_of(tiny, [one, other]), segments))
    assert [bits(text) for text in again] == [bits(text) for text in both]


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_few_tokens_are_encoded_at_once_however_long_a_text_is(
    tiny: Model, tmp_path: Path, normalize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = sae_of("jumprelu", tmp_path, normalize)
    monkeypatch.setattr(codes, "CODES_AT_ONCE", 7 * FEATURES + 5)
    sizes: list[int] = []
    plainly = sae.encode

    def watched(tokens: Tensor) -> Tensor:
        sizes.append(len(tokens))
        encoded: Tensor = plainly(tokens)
        return encoded

    given = Segment(tuple(5 + (7 * i) % 200 for i in range(200)), slice(51, None))
    with states_by_token(tiny) as table:
        monkeypatch.setattr(sae, "encode", watched, raising=False)
        ((found,),) = texts_of(encode(pooler_of(tiny, [sae]), [given]))
        monkeypatch.undo()
    assert max(sizes) == 7
    assert sum(sizes) == 149
    check_text(sae, table[list(given.ids[given.pooled])], found)


def test_a_wide_sae_is_still_given_one_token_at_a_time(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "CODES_AT_ONCE", FEATURES // 2)
    sae = sae_of("topk", tmp_path)
    with states_by_token(tiny) as table:
        segment = segments_of(tiny)[3]
        ((found,),) = texts_of(encode(pooler_of(tiny, [sae]), [segment]))
    check_text(sae, table[list(segment.ids[segment.pooled])], found)


def test_the_code_of_the_mean_is_not_what_is_kept(tiny: Model, tmp_path: Path) -> None:
    sae = sae_of("topk", tmp_path)
    segment = segments_of(tiny)[0]
    (states,) = read_tokens(tiny, LAYER, [segment])
    ((found,),) = texts_of(encode(pooler_of(tiny, [sae], "alone"), [segment]))
    with torch.inference_mode():
        of_mean = sae.encode(torch.from_numpy(states.mean(axis=0)))
    assert len(found.features) > np.count_nonzero(of_mean)
    assert found.l0 == sae.cfg.k


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated"])
def test_a_token_that_is_not_finite_shows_in_its_own_text_alone(
    tiny: Model, tmp_path: Path, kind: str, bad: float
) -> None:
    sae = sae_of(kind, tmp_path)
    segments = segments_of(tiny)[:3]

    def spoil(states: Tensor) -> Tensor:
        # The first text of the packed row is the longest one.
        states[0, START + 3] = bad
        return states

    sound = texts_of(encode(pooler_of(tiny, [sae], "packed"), segments))
    with changed(tiny, spoil):
        found = texts_of(encode(pooler_of(tiny, [sae], "packed"), segments))
    assert [bool(np.isfinite(text[0].error)) for text in found] == [False, True, True]
    assert [bits(text) for text in found[1:]] == [bits(text) for text in sound[1:]]


def test_a_reconstruction_that_overflows_shows_as_an_error_that_is_not_finite(
    tiny: Model, tmp_path: Path
) -> None:
    sae = sae_of("standard", tmp_path, dtype="float16")
    with changed(tiny, lambda states: states * 1e4):
        found = texts_of(encode(pooler_of(tiny, [sae]), segments_of(tiny)))
    assert not any(np.isfinite(text[0].error) for text in found)
    assert all(np.isfinite(text[0].square) for text in found)


def test_texts_that_are_not_wanted_or_have_no_pooled_token_have_no_codes(
    tiny: Model, tmp_path: Path
) -> None:
    segments = segments_of(tiny)
    segments[4] = Segment((1, 7), slice(2, 2))
    for batching in BATCHINGS:
        pooler = pooler_of(tiny, [sae_of("topk", tmp_path)], batching)
        found = encode(pooler, segments, [0, 4, 6])
        read = [i for i, text in enumerate(found.texts) if text is not None]
        assert read == [0, 6]
        assert found.too_large == set()


def test_memory_that_runs_short_costs_no_code(tiny: Model, tmp_path: Path) -> None:
    sae = sae_of("topk", tmp_path)
    segments = segments_of(tiny)
    with states_by_token(tiny):
        sound = texts_of(encode(pooler_of(tiny, [sae]), segments))
        with short_of_memory(tiny, lambda nth, _size: nth in (1, 4)):
            found = texts_of(encode(pooler_of(tiny, [sae]), segments))
    assert [bits(text) for text in found] == [bits(text) for text in sound]


def test_memory_that_runs_short_while_encoding_costs_no_code(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = sae_of("topk", tmp_path)
    plainly, calls = sae.encode, iter(range(100))

    def short(tokens: Tensor) -> Tensor:
        if next(calls) in (0, 3):
            raise torch.OutOfMemoryError("simulated")
        encoded: Tensor = plainly(tokens)
        return encoded

    segments = segments_of(tiny)
    with states_by_token(tiny):
        sound = texts_of(encode(pooler_of(tiny, [sae]), segments))
        monkeypatch.setattr(sae, "encode", short, raising=False)
        found = texts_of(encode(pooler_of(tiny, [sae]), segments))
    assert [bits(text) for text in found] == [bits(text) for text in sound]


def test_a_text_that_does_not_fit_alone_is_named_and_has_no_codes(
    tiny: Model, tmp_path: Path
) -> None:
    segments = segments_of(tiny)
    longest = int(np.argmax([len(segment.ids) for segment in segments]))
    size = len(segments[longest].ids)
    with short_of_memory(tiny, lambda _nth, tokens: tokens >= size):
        found = encode(pooler_of(tiny, [sae_of("topk", tmp_path)]), segments)
    assert found.too_large == {longest}
    assert [i for i, text in enumerate(found.texts) if text is None] == [longest]


def test_after_a_stop_there_is_no_result(tiny: Model, tmp_path: Path) -> None:
    pooler = pooler_of(tiny, [sae_of("topk", tmp_path)])
    pooler.stop.set()
    assert pooler.encode(segments_of(tiny), range(7), lambda *_: None) is None


def test_what_is_read_is_told(tiny: Model, tmp_path: Path) -> None:
    segments = segments_of(tiny)
    told: list[tuple[int, int]] = []
    pooler = pooler_of(tiny, [sae_of("topk", tmp_path)])
    pooler.encode(segments, [0, 2, 5], lambda texts, tokens: told.append((texts, tokens)))
    assert np.sum(told, axis=0).tolist() == [3, sum(len(segments[i].ids) for i in (0, 2, 5))]


def test_read_tokens_gives_the_residual_stream_as_it_is(tiny: Model) -> None:
    segments = [*segments_of(tiny)[:2], Segment((1, 7), slice(2, 2))]
    with remembered(tiny) as states:
        found = read_tokens(tiny, LAYER, segments)
    expected: list[NDArray[np.float32]] = [
        each[0, segment.pooled].numpy() for each, segment in zip(states, segments, strict=True)
    ]
    assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]
    assert [each.shape for each in found] == [each.shape for each in expected]


def test_activations_that_are_not_finite_are_named_and_not_read(tiny: Model) -> None:
    with (
        changed(tiny, lambda states: states * torch.inf),
        pytest.raises(ModelError, match=r"layer 2 gives numbers that are not finite in float32;"),
    ):
        read_tokens(tiny, LAYER, segments_of(tiny)[:2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decoder_rows_are_a_copy_in_float32(tmp_path: Path, dtype: str) -> None:
    sae = sae_of("topk", tmp_path, dtype=dtype)
    rows = decoder_rows(sae)
    assert rows.dtype == np.float32
    assert rows.shape == (FEATURES, WIDTH)
    assert np.array_equal(rows, sae.W_dec.detach().float().numpy())
    rows[:] = 0
    assert sae.W_dec.any()
