"""Pooled activations equal a plain loop over single texts, however the texts share a pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.capture import Pooled, capture
from engine.models import Model, hooked
from engine.packing import Batching, Segment
from engine.tokens import encode_raw
from stores.errors import ModelError
from tests.engine.tiny import text_of

TEXTS = tuple(text_of(words, start=words) for words in (60, 9, 33, 21))
START = 4
BATCHINGS: tuple[Batching, ...] = ("packed", "padded", "alone")
# float32 sums in another order; relative to the norm of the row they estimate
TOLERANCE = 1e-5
EXACT = 1e-6


def segments(model: Model) -> list[Segment]:
    encoded = [encode_raw(model, text) for text in TEXTS]
    return [Segment(e.ids, slice(e.content.start + START, e.content.stop)) for e in encoded]


def pool(
    model: Model,
    given: Sequence[Segment],
    layers: Sequence[int],
    batching: Batching = "padded",
) -> Pooled:
    with capture(model, layers, batching) as pooling:
        return pooling.start(given).wait()


def residuals(model: Model, segment: Segment, layers: tuple[int, ...]) -> list[Tensor]:
    """resid_post [t, d] of one text in float64, pooled tokens only, by hooks of the test's own."""
    states: dict[int, Tensor] = {}
    with torch.inference_mode(), hooked(model, layers, states.__setitem__):
        model.model(torch.tensor([segment.ids]))
    return [states[layer][0, segment.pooled].double() for layer in layers]


def plain_loop(model: Model, given: Sequence[Segment], layers: tuple[int, ...]) -> Pooled:
    """One text at a time, the whole model, every state kept: the definition, slowly."""
    rows = [residuals(model, segment, layers) for segment in given]
    means = torch.stack([torch.stack([s.mean(dim=0) for s in row]) for row in rows])
    norms = torch.stack([torch.stack([s.norm(dim=-1).mean() for s in row]) for row in rows])
    return Pooled(means.float().numpy(), norms.float().numpy())


def close(found: Pooled, expected: Pooled, tolerance: float = TOLERANCE) -> bool:
    lengths = np.linalg.norm(expected.means, axis=-1, keepdims=True)
    means = np.abs(found.means - expected.means) <= tolerance * lengths
    norms = np.abs(found.norms - expected.norms) <= tolerance * expected.norms
    return bool(means.all() and norms.all())


def same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


@contextmanager
def changed(block: nn.Module, change: Any) -> Iterator[None]:
    """`change(states)` in place of what a block returns."""
    hook = block.register_forward_hook(lambda _module, _inputs, states: change(states))
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_means_and_norms_equal_a_plain_loop(tiny_family: Model, batching: Batching) -> None:
    given, layers = segments(tiny_family), (0, 1, 2, 3)
    found = pool(tiny_family, given, layers, batching)
    assert close(found, plain_loop(tiny_family, given, layers))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_rows_come_in_the_order_given(tiny: Model, batching: Batching) -> None:
    given = segments(tiny)
    expected = plain_loop(tiny, given[::-1], (1, 3))
    assert close(pool(tiny, given[::-1], (1, 3), batching), expected)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_text_does_not_depend_on_its_neighbours(tiny: Model, batching: Batching) -> None:
    given = segments(tiny)
    pairs = [pool(tiny, [given[0], other], (3,), batching) for other in given[1:]]
    expected = pool(tiny, given[:1], (3,), "alone")
    assert all(close(Pooled(p.means[:1], p.norms[:1]), expected) for p in pairs)


@pytest.mark.parametrize("batching", ["padded", "alone"])
def test_a_text_that_overflows_leaves_its_neighbours_alone(tiny: Model, batching: Batching) -> None:
    """Its token 7 has an infinite embedding; nobody else has that token."""
    given = [s for s in segments(tiny) if 7 not in s.ids]
    broken = Segment((1, 9, 7, 9), slice(1, 4))
    expected = pool(tiny, given, (0, 3), batching)
    weights: Any = tiny.model.get_input_embeddings().weight
    kept = weights[7].clone()
    with torch.no_grad():
        weights[7] = torch.inf
        try:
            found = pool(tiny, [given[0], broken, *given[1:]], (0, 3), batching)
        finally:
            weights[7] = kept
    assert not np.isfinite(found.means[1]).any()
    assert close(Pooled(np.delete(found.means, 1, 0), np.delete(found.norms, 1, 0)), expected)


def test_tokens_outside_the_span_are_not_touched_be_they_infinite(tiny: Model) -> None:
    given = segments(tiny)

    def overflow(states: Tensor) -> Tensor:
        states[:, 0] = torch.inf
        return states

    expected = pool(tiny, given, (2,))
    with changed(tiny.blocks[2], overflow):
        found = pool(tiny, given, (2,))
    assert same_bits(found.means, expected.means)
    assert same_bits(found.norms, expected.norms)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_the_same_batch_gives_the_same_bits(tiny: Model, batching: Batching) -> None:
    first, second = (pool(tiny, segments(tiny), (1, 3), batching) for _ in range(2))
    assert same_bits(first.means, second.means)
    assert same_bits(first.norms, second.norms)


def test_a_layer_does_not_depend_on_the_others_asked_for(tiny: Model) -> None:
    one, many = (pool(tiny, segments(tiny), layers) for layers in ((1,), (0, 1, 3)))
    assert same_bits(one.means[:, 0], many.means[:, 1])
    assert same_bits(one.norms[:, 0], many.norms[:, 1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pooling_is_as_exact_as_float32_whatever_the_model_computes_in(
    tiny: Model, dtype: str
) -> None:
    """3000 tokens: sums in the model's own type would be off in the third decimal."""
    span = slice(51, None)
    given = Segment(tuple(5 + (7 * i) % 200 for i in range(3000)), span)
    kept: list[Tensor] = []

    def remember(states: Tensor) -> Tensor:
        # Far from zero, as some dimensions of trained models are.
        kept.append((states + 3).to(getattr(torch, dtype)))
        return kept[-1]

    with changed(tiny.blocks[0], remember):
        found = pool(tiny, [given], (0,))
    exact = kept[0][0, span].double()
    mean, norm = exact.mean(dim=0).numpy(), exact.norm(dim=-1).mean().item()
    assert found.means.dtype == found.norms.dtype == np.float32
    assert np.linalg.norm(found.means[0, 0] - mean) <= EXACT * np.linalg.norm(mean)
    assert abs(found.norms[0, 0] - norm) <= EXACT * norm


def test_a_residual_beyond_float16_reaches_the_caller(tiny: Model) -> None:
    with changed(tiny.blocks[1], lambda states: (states * 1e6).half()):
        found = pool(tiny, segments(tiny), (0, 1))
    assert np.isfinite(found.means[:, 0]).all()
    assert not np.isfinite(found.means[:, 1]).all(axis=-1).any()
    assert not np.isfinite(found.norms[:, 1]).any()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_text_without_pooled_tokens_is_nan_and_leaves_the_others_alone(
    tiny: Model, batching: Batching
) -> None:
    given = segments(tiny)[:2]
    found = pool(tiny, [given[0], Segment((1, 7), slice(2, 2)), given[1]], (2,), batching)
    assert np.isnan(found.means[1]).all()
    assert np.isnan(found.norms[1]).all()
    assert close(Pooled(found.means[::2], found.norms[::2]), plain_loop(tiny, given, (2,)))


def test_no_block_after_the_last_wanted_one_is_run(tiny: Model) -> None:
    ran: list[int] = []
    with hooked(tiny, (0, 1, 2, 3), lambda layer, _states: ran.append(layer)):
        pool(tiny, segments(tiny), (1,))
    assert max(ran) == 1


def test_the_model_works_as_before_after_leaving_early(tiny: Model) -> None:
    ids = torch.tensor([[1, 5, 6]])
    with torch.inference_mode():
        before = tiny.model(ids).logits
        pool(tiny, segments(tiny), (0,))
        assert torch.equal(tiny.model(ids).logits, before)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_after_a_failure_in_the_middle_the_next_pass_is_right(
    tiny: Model, batching: Batching
) -> None:
    def fail(_states: Tensor) -> None:
        raise torch.OutOfMemoryError("simulated")

    given = segments(tiny)
    before = [len(block._forward_hooks) for block in tiny.blocks]
    with capture(tiny, (0, 3), batching) as pooling:
        first = pooling.start(given[:2])
        with changed(tiny.blocks[2], fail), pytest.raises(torch.OutOfMemoryError):
            pooling.start(given)
        second = pooling.start(given[2:])
    assert close(first.wait(), plain_loop(tiny, given[:2], (0, 3)))
    assert close(second.wait(), plain_loop(tiny, given[2:], (0, 3)))
    assert [len(block._forward_hooks) for block in tiny.blocks] == before


def test_no_hook_is_left_after_an_error_of_the_caller(tiny: Model) -> None:
    before = [len(block._forward_hooks) for block in tiny.blocks]
    with pytest.raises(RuntimeError, match="stop"), capture(tiny, (0, 2)):
        raise RuntimeError("stop")
    assert [len(block._forward_hooks) for block in tiny.blocks] == before


def test_batches_may_be_awaited_in_any_order(tiny: Model) -> None:
    given = segments(tiny)
    with capture(tiny, (1, 3)) as pooling:
        pending = [pooling.start([segment]) for segment in given]
        found = {i: pending[i].wait() for i in (2, 0, 3, 1)}
    for i, segment in enumerate(given):
        assert close(found[i], plain_loop(tiny, [segment], (1, 3)))


def test_a_model_that_skips_the_last_wanted_block_is_refused(tiny: Model) -> None:
    elsewhere = replace(tiny, blocks=(*tiny.blocks[:3], nn.Identity()))
    with pytest.raises(ModelError, match="without block 3"):
        pool(elsewhere, segments(tiny), (0, 3))


def test_a_flash_kernel_is_told_where_packed_texts_end(tiny: Model) -> None:
    given = segments(tiny)
    told: list[dict[str, Any]] = []

    def remember(_module: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
        told.append(inputs)

    hook = tiny.blocks[0].register_forward_pre_hook(remember, with_kwargs=True)
    try:
        found = pool(replace(tiny, attention="flash_attention_2"), given, (1,), "packed")
    finally:
        hook.remove()
    lengths = [len(segment.ids) for segment in given]
    for side in ("q", "k"):
        assert told[0][f"cu_seq_lens_{side}"].tolist() == np.cumsum([0, *lengths]).tolist()
        assert told[0][f"cu_seq_lens_{side}"].dtype == torch.int32
        assert told[0][f"max_length_{side}"] == max(lengths)
    assert close(found, plain_loop(tiny, given, (1,)))


def test_no_mask_is_built_for_texts_shorter_than_a_window(tiny_family: Model) -> None:
    masks: list[Tensor | None] = []

    def remember(_module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        # GPT-2 hands it over by position, after the cache.
        masks.append(inputs["attention_mask"] if "attention_mask" in inputs else args[2])

    given = [Segment(s.ids[:15], slice(5, None)) for s in segments(tiny_family)]
    hook = tiny_family.blocks[0].register_forward_pre_hook(remember, with_kwargs=True)
    try:
        pool(tiny_family, [*given, Segment(given[0].ids[:9], slice(5, None))], (1,))
    finally:
        hook.remove()
    assert masks == [None]


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (4,), (-1,)])
def test_layers_must_be_ascending_blocks(tiny: Model, layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not ascending blocks"), capture(tiny, layers):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_card_gives_what_the_cpu_gives_with_copies_under_way(
    tiny: Model, batching: Batching
) -> None:
    given = segments(tiny) * 6
    expected = plain_loop(tiny, given, (1, 3))
    network: Any = tiny.model
    try:
        model = replace(tiny, model=network.to("cuda"), device=torch.device("cuda"))
        with capture(model, (1, 3), batching) as pooling:
            pending = [pooling.start(given[i : i + 4]) for i in range(0, len(given), 4)]
            found = [each.wait() for each in pending]
    finally:
        network.to("cpu")
    rows = Pooled(*(np.concatenate([getattr(p, n) for p in found]) for n in ("means", "norms")))
    assert close(rows, expected)
