"""Token scores equal dot products with the residual stream, taken one text at a time."""

import threading
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.budget import ExtractionBudget
from engine.capture import recording
from engine.models import Model, hooked
from engine.packing import Batching, Segment
from engine.pooling import ChunkPooler
from engine.projection import passes
from engine.projection.passes import Projecting, TokenProjector, TokenScores
from engine.tokens import encode_raw
from tests.engine.tiny import text_of

Directions = Mapping[int, NDArray[np.float64]]

BATCHINGS: tuple[Batching, ...] = ("packed", "padded", "alone")
LAYERS = (0, 2, 3)
EMOTIONS = 7
BUDGET = 160
START = 4
# Of the norm of a token's residual stream: float32 sums in another order.
TOLERANCE = 1e-5
EXACT = 1e-6


def segments_of(model: Model) -> list[Segment]:
    texts = [text_of(words, start=words) for words in (40, 12, 33, 8, 25, 50, 17)]
    every = [encode_raw(model, text) for text in texts]
    return [Segment(e.ids, slice(e.content.start + START, e.content.stop)) for e in every]


def draw_directions(width: int, layers: Sequence[int] = LAYERS) -> Directions:
    rng = np.random.default_rng(7)
    drawn = {layer: rng.standard_normal((EMOTIONS, width)) for layer in layers}
    return {layer: d / np.linalg.norm(d, axis=1, keepdims=True) for layer, d in drawn.items()}


def projector_of(
    model: Model, batching: Batching = "padded", layers: Sequence[int] = LAYERS
) -> TokenProjector:
    directions = draw_directions(model.d_model, layers)
    return TokenProjector(model, batching, ExtractionBudget(BUDGET), threading.Event(), directions)


def project(
    projector: TokenProjector, segments: Sequence[Segment], wanted: Sequence[int] | None = None
) -> TokenScores:
    every = range(len(segments)) if wanted is None else wanted
    found = projector.project(segments, every, lambda _texts, _tokens: None)
    assert found is not None
    return found


def residuals(model: Model, segment: Segment) -> dict[int, NDArray[np.float64]]:
    """resid_post [t, d] of one text in float64, pooled tokens only, by hooks of the test's own."""
    states: dict[int, Tensor] = {}
    with torch.inference_mode(), hooked(model, LAYERS, states.__setitem__):
        model.model(torch.tensor([segment.ids]))
    return {layer: states[layer][0, segment.pooled].double().numpy() for layer in LAYERS}


def check_text(model: Model, found: TokenScores, segments: Sequence[Segment], i: int) -> None:
    """The definition, slowly: one text, the whole model, dot products in float64."""
    directions = draw_directions(model.d_model)
    own = slice(*found.bounds[i : i + 2])
    for column, (layer, states) in enumerate(residuals(model, segments[i]).items()):
        sizes = np.linalg.norm(states, axis=1)
        off = np.abs(found.scores[layer][:, own] - directions[layer] @ states.T)
        assert off.shape == (EMOTIONS, len(states))
        assert (off <= TOLERANCE * sizes).all()
        assert found.norms[i, column] == pytest.approx(sizes.mean(), rel=TOLERANCE)


def same_bits(one: TokenScores, other: TokenScores) -> bool:
    same = all(one.scores[layer].tobytes() == other.scores[layer].tobytes() for layer in one.scores)
    return same and one.norms.tobytes() == other.norms.tobytes()


@contextmanager
def changed(model: Model, layer: int, change: Any) -> Iterator[None]:
    """`change(states)` in place of what a block returns."""
    block = model.blocks[layer]
    hook = block.register_forward_hook(lambda _module, _inputs, states: change(states))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def short_of_memory(model: Model, too_much: Any) -> Iterator[list[int]]:
    """Passes whose number and token count are `too_much` fail; gives the sizes of all."""
    sizes: list[int] = []

    def refuse(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        sizes.append(inputs["input_ids"].numel())
        if too_much(len(sizes), sizes[-1]):
            raise torch.OutOfMemoryError("simulated")

    hook = model.backbone.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_scores_and_norms_equal_a_plain_computation(tiny_family: Model, batching: Batching) -> None:
    segments = segments_of(tiny_family)
    found = project(projector_of(tiny_family, batching), segments)
    assert list(found.scores) == list(LAYERS)
    for i in range(len(segments)):
        check_text(tiny_family, found, segments, i)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_columns_come_in_the_order_given_whatever_shares_a_batch(
    tiny: Model, batching: Batching
) -> None:
    segments = segments_of(tiny)[::-1]
    found = project(projector_of(tiny, batching), segments)
    lengths = [len(segment.ids[segment.pooled]) for segment in segments]
    assert found.bounds.tolist() == [0, *np.cumsum(lengths).tolist()]
    assert found.bounds.dtype == np.int64
    for scores in found.scores.values():
        assert scores.shape == (EMOTIONS, sum(lengths))
        assert scores.dtype == np.float32
        assert scores.flags.c_contiguous
    for i in range(len(segments)):
        check_text(tiny, found, segments, i)


def test_the_mean_of_a_texts_scores_is_the_projection_of_its_pooled_mean(tiny: Model) -> None:
    segments = segments_of(tiny)
    projector = projector_of(tiny)
    found = project(projector, segments)
    pooler = ChunkPooler(tiny, "padded", ExtractionBudget(BUDGET), threading.Event())
    pools = pooler.pool(segments, range(len(segments)), LAYERS, lambda *_: None)
    assert pools is not None
    for column, layer in enumerate(LAYERS):
        cut = [slice(*found.bounds[i : i + 2]) for i in range(len(segments))]
        means = np.array([found.scores[layer][:, own].mean(axis=1) for own in cut])
        exact = pools.means[:, column] @ projector.directions[layer].T
        assert np.abs(means - exact).max() <= TOLERANCE * pools.norms[:, column].max()
    assert np.allclose(found.norms, pools.norms, rtol=TOLERANCE)


def test_texts_that_are_not_wanted_have_no_columns(tiny: Model) -> None:
    segments = segments_of(tiny)
    found = project(projector_of(tiny), segments, [4, 1])
    assert np.flatnonzero(np.diff(found.bounds)).tolist() == [1, 4]
    assert np.flatnonzero(np.isfinite(found.norms).all(axis=1)).tolist() == [1, 4]
    for i in (1, 4):
        check_text(tiny, found, segments, i)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_text_without_pooled_tokens_has_no_columns_and_leaves_the_others_alone(
    tiny: Model, batching: Batching
) -> None:
    segments = segments_of(tiny)[:2]
    given = [segments[0], Segment((1, 7), slice(2, 2)), segments[1]]
    found = project(projector_of(tiny, batching), given)
    assert found.bounds[1] == found.bounds[2]
    assert np.isnan(found.norms[1]).all()
    check_text(tiny, found, given, 0)
    check_text(tiny, found, given, 2)


def test_where_nothing_is_wanted_nothing_is_run(tiny: Model) -> None:
    with short_of_memory(tiny, lambda *_: True) as sizes:
        found = project(projector_of(tiny), segments_of(tiny), [])
    assert sizes == []
    assert found.bounds.tolist() == [0] * 8
    assert {scores.shape for scores in found.scores.values()} == {(EMOTIONS, 0)}
    assert np.isnan(found.norms).all()


def test_without_takes_columns_away_and_moves_the_others_up(tiny: Model) -> None:
    segments = segments_of(tiny)
    found = project(projector_of(tiny), segments)
    less = found.without({0, 3})
    assert np.flatnonzero(np.diff(less.bounds) == 0).tolist() == [0, 3]
    assert all(scores.shape[1] == less.bounds[-1] for scores in less.scores.values())
    assert all(scores.flags.c_contiguous for scores in less.scores.values())
    for i in (1, 2, 4, 5, 6):
        check_text(tiny, less, segments, i)
    assert found.without(set()) is found


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_token_that_overflows_leaves_all_others_alone(tiny: Model, batching: Batching) -> None:
    segments = segments_of(tiny)
    expected = project(projector_of(tiny, batching), segments)

    def overflow(states: Tensor) -> Tensor:
        states[0, START + 2] = torch.inf
        return states

    with changed(tiny, LAYERS[-1], overflow):
        found = project(projector_of(tiny, batching), segments)
    broken = ~np.isfinite(found.scores[LAYERS[-1]])
    assert 0 < broken.any(axis=0).sum() < len(segments) + 1
    sound = ~broken.any(axis=0)
    for layer in LAYERS:
        assert np.array_equal(found.scores[layer][:, sound], expected.scores[layer][:, sound])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_scores_are_as_exact_as_float32_whatever_the_model_computes_in(
    tiny: Model, dtype: str
) -> None:
    given = Segment(tuple(5 + (7 * i) % 200 for i in range(900)), slice(51, None))
    kept: list[Tensor] = []

    def remember(states: Tensor) -> Tensor:
        # Far from zero, as some dimensions of trained models are.
        kept.append((states + 3).to(getattr(torch, dtype)))
        return kept[-1]

    projector = projector_of(tiny, layers=(0,))
    with changed(tiny, 0, remember):
        found = project(projector, [given])
    exact = kept[0][0, given.pooled].double().numpy()
    sizes = np.linalg.norm(exact, axis=1)
    off = np.abs(found.scores[0] - projector.directions[0] @ exact.T)
    assert found.scores[0].dtype == found.norms.dtype == np.float32
    assert (off <= EXACT * sizes).all()
    assert found.norms[0, 0] == pytest.approx(sizes.mean(), rel=EXACT)


@pytest.mark.parametrize("allowed", ["tf32", "bf16"])
def test_no_product_with_a_direction_is_cut_short_whatever_the_program_allows(
    tiny: Model, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends: Any = torch.backends
    product = backends.mkldnn.matmul if allowed == "bf16" else backends.cuda.matmul
    inside: list[str] = []
    outside: list[str] = []
    multiply = passes._product

    def watched(tokens: Tensor, weight: Tensor) -> Tensor:
        inside.append(product.fp32_precision)
        return multiply(tokens, weight)

    def watch(states: Tensor) -> Tensor:
        outside.append(product.fp32_precision)
        return states

    monkeypatch.setattr(passes, "_product", watched)
    before = product.fp32_precision
    product.fp32_precision = allowed
    try:
        with changed(tiny, 0, watch):
            project(projector_of(tiny), segments_of(tiny))
        assert product.fp32_precision == allowed
    finally:
        product.fp32_precision = before
    assert set(inside) == {"ieee"}
    assert set(outside) == {allowed}


@pytest.mark.parametrize("batching", BATCHINGS)
def test_the_same_texts_give_the_same_bits(tiny: Model, batching: Batching) -> None:
    first, second = (project(projector_of(tiny, batching), segments_of(tiny)) for _ in range(2))
    assert same_bits(first, second)


def test_a_layer_does_not_depend_on_the_others_asked_for(tiny: Model) -> None:
    segments = segments_of(tiny)
    directions = draw_directions(tiny.d_model)
    one = replace(projector_of(tiny), directions={2: directions[2]})
    found, many = project(one, segments), project(projector_of(tiny), segments)
    assert found.scores[2].tobytes() == many.scores[2].tobytes()
    assert found.norms[:, 0].tobytes() == many.norms[:, 1].tobytes()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_memory_that_runs_short_once_costs_no_column(tiny: Model, batching: Batching) -> None:
    segments = segments_of(tiny)
    with short_of_memory(tiny, lambda *_: False) as sizes:
        project(projector_of(tiny, batching), segments)
    for nth in range(1, len(sizes) + 1):
        with short_of_memory(tiny, lambda count, _size, nth=nth: count == nth):
            found = project(projector_of(tiny, batching), segments)
        assert found.too_large == set()
        for i in range(len(segments)):
            check_text(tiny, found, segments, i)


def test_a_text_that_does_not_fit_alone_is_named_and_its_columns_are_nan(tiny: Model) -> None:
    segments = segments_of(tiny)
    lengths = [len(segment.ids) for segment in segments]
    longest = int(np.argmax(lengths))
    projector = projector_of(tiny)
    with short_of_memory(tiny, lambda _count, size: size >= max(lengths)):
        found = project(projector, segments)
    assert found.too_large == {longest}
    assert projector.budget.shrunk
    for scores in found.scores.values():
        missing = np.isnan(scores).any(axis=0)
        assert np.flatnonzero(missing).tolist() == list(range(*found.bounds[longest : longest + 2]))
    assert all(np.isfinite(s).all() for s in found.without(found.too_large).scores.values())
    assert np.flatnonzero(np.isnan(found.norms).any(axis=1)).tolist() == [longest]


def test_after_a_stop_there_is_no_result(tiny: Model) -> None:
    projector = projector_of(tiny)
    projector.stop.set()
    assert projector.project(segments_of(tiny), range(7), lambda *_: None) is None


def test_what_is_read_is_told_and_its_time_kept(tiny: Model) -> None:
    segments = segments_of(tiny)
    projector = projector_of(tiny)
    told: list[tuple[int, int]] = []
    projector.project(segments, [0, 2, 5], lambda texts, tokens: told.append((texts, tokens)))
    tokens = sum(len(segments[i].ids) for i in (0, 2, 5))
    assert np.sum(told, axis=0).tolist() == [3, tokens]
    assert projector.seconds > 0


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_batch_leaves_the_device_as_scores_and_one_norm_a_token(
    tiny: Model, batching: Batching
) -> None:
    segments = segments_of(tiny)
    tokens = sum(len(segment.ids[segment.pooled]) for segment in segments)
    with recording(Projecting(tiny, draw_directions(tiny.d_model), batching)) as projecting:
        rows = projecting.start(segments).wait()
    assert rows.shape == (len(LAYERS), tokens, EMOTIONS + 1)


def test_the_host_holds_the_scores_and_little_beside_them(tiny: Model) -> None:
    """What torch holds is not traced: that is one batch, at most two."""
    segments = segments_of(tiny) * 200
    projector = replace(projector_of(tiny), budget=ExtractionBudget(4096))
    tracemalloc.start()
    try:
        found = project(projector, segments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(scores.nbytes for scores in found.scores.values())
    assert size > 2e6
    assert peak < 1.3 * size


def test_no_block_after_the_last_wanted_one_is_run_and_no_hook_is_left(tiny: Model) -> None:
    ran: list[int] = []
    before = [len(block._forward_hooks) for block in tiny.blocks]
    with hooked(tiny, (0, 1, 2, 3), lambda layer, _states: ran.append(layer)):
        project(projector_of(tiny, layers=(0, 1)), segments_of(tiny))
    assert max(ran) == 1
    assert [len(block._forward_hooks) for block in tiny.blocks] == before


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, "expected"),
        ({0: (3, 31)}, "expected .e, 32."),
        ({0: (3, 32), 1: (4, 32)}, "one e"),
        ({0: (32,)}, "expected"),
        ({4: (3, 32)}, "not ascending blocks of 4"),
    ],
)
def test_directions_of_another_shape_are_refused(
    tiny: Model, shapes: dict[int, tuple[int, ...]], words: str
) -> None:
    directions = {layer: np.ones(shape) for layer, shape in shapes.items()}
    projector = replace(projector_of(tiny), directions=directions)
    with pytest.raises(ValueError, match=words):
        project(projector, segments_of(tiny))


def test_directions_may_be_a_view_of_another_array_and_closed_to_writing(tiny: Model) -> None:
    segments = segments_of(tiny)
    expected = project(projector_of(tiny), segments)
    turned = {layer: rows[::-1].copy()[::-1] for layer, rows in draw_directions(32).items()}
    for rows in turned.values():
        rows.flags.writeable = False
    assert same_bits(project(replace(projector_of(tiny), directions=turned), segments), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_card_gives_what_the_cpu_gives_with_tf32_allowed(tiny: Model, batching: Batching) -> None:
    segments = segments_of(tiny) * 6
    network: Any = tiny.model
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        model = replace(tiny, model=network.to("cuda"), device=torch.device("cuda"))
        found = project(projector_of(model, batching), segments)
        matmul.fp32_precision = "tf32"
        states = torch.randn(900, 512, device="cuda")
        directions = torch.randn(171, 512, device="cuda")
        with passes._whole_products():
            product = passes._product(states, directions)
    finally:
        matmul.fp32_precision = before
        network.to("cpu")
    off = (product.double() - states.double() @ directions.double().T).abs().max()
    assert float(off) <= EXACT * 512
    for i in range(len(segments)):
        check_text(tiny, found, segments, i)
