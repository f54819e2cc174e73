"""What is kept of a chunk's tokens: moments, order statistics, and how far they can be off."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.projection.summaries import (
    KEPT,
    SHARES,
    best_windows,
    merge_moments,
    quantiles_at,
    rank_error,
    shares_below,
    summarise_tokens,
)
from stores.projections import TokenSummary

Scores = NDArray[np.float32]
ASKED = np.unique(np.concatenate([np.linspace(0, 1, 1001), [0.0005, 0.9995, 1 / 3]]))
# A share is a sum of whole numbers, divided once: what rounding may add to a bound.
ROUNDING = 1e-12


def normal(rng: np.random.Generator, tokens: int) -> Scores:
    return rng.standard_normal(tokens).astype(np.float32)


def heavy(rng: np.random.Generator, tokens: int) -> Scores:
    return rng.standard_cauchy(tokens).astype(np.float32)


def tied(rng: np.random.Generator, tokens: int) -> Scores:
    return rng.integers(-2, 3, tokens).astype(np.float32)


def constant(rng: np.random.Generator, tokens: int) -> Scores:
    return np.full(tokens, rng.standard_normal(), dtype=np.float32)


def rising(rng: np.random.Generator, tokens: int) -> Scores:
    return np.sort(normal(rng, tokens))


def falling(rng: np.random.Generator, tokens: int) -> Scores:
    return rising(rng, tokens)[::-1]


def with_outliers(rng: np.random.Generator, tokens: int) -> Scores:
    scores = normal(rng, tokens)
    scores[rng.random(tokens) < 0.003] *= np.float32(1e6)
    return scores


def in_steps(rng: np.random.Generator, tokens: int) -> Scores:
    """Values of very unequal shares, each share next to a gap."""
    return (10.0 ** rng.geometric(0.4, tokens)).astype(np.float32)


KINDS = [normal, heavy, tied, constant, rising, falling, with_outliers, in_steps]
SIZES: dict[str, list[int]] = {
    "one": [1],
    "few": [KEPT],
    "one more": [KEPT + 1],
    "equal": [5000] * 4,
    "unequal": [1, 17, KEPT, KEPT + 1, 350, 4001, 12_800],
    "many small": [230] * 40,
}


def make_chunks(
    kind: Callable[[np.random.Generator, int], Scores], sizes: list[int], probes: int = 3
) -> list[Scores]:
    """Chunks [e, t] whose probes differ, and whose place and width differ from chunk to chunk."""
    rng = np.random.default_rng(sum(sizes))
    chunks = []
    for size in sizes:
        scale, shift = np.exp(rng.standard_normal()), rng.standard_normal()
        rows = [(kind(rng, size) + shift) * scale * (row + 1) for row in range(probes)]
        chunks.append(np.stack(rows).astype(np.float32))
    return chunks


def summarise(chunks: list[Scores]) -> list[TokenSummary]:
    return [summarise_tokens(chunk) for chunk in chunks]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantile_lies_where_it_should_within_the_bound_whatever_the_values(
    kind: Callable[[np.random.Generator, int], Scores], sizes: list[int]
) -> None:
    chunks = make_chunks(kind, sizes)
    summaries = summarise(chunks)
    bound = rank_error(summaries) + ROUNDING
    tokens = np.sort(np.concatenate(chunks, axis=1), axis=1)
    for probe, found in enumerate(quantiles_at(summaries, ASKED)):
        below = np.searchsorted(tokens[probe], found, side="left") / tokens.shape[1]
        upto = np.searchsorted(tokens[probe], found, side="right") / tokens.shape[1]
        assert (below <= ASKED + bound).all()
        assert (upto >= ASKED - bound).all()


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_share_is_within_the_bound_of_a_count_of_all_tokens(
    kind: Callable[[np.random.Generator, int], Scores], sizes: list[int]
) -> None:
    chunks = make_chunks(kind, sizes)
    summaries = summarise(chunks)
    tokens = np.sort(np.concatenate(chunks, axis=1), axis=1)
    values = tokens[:, np.linspace(0, tokens.shape[1] - 1, 300).astype(int)]
    values = np.concatenate([values, values + 1e-3, values[:, :1] - 9, values[:, -1:] + 9], axis=1)
    exact = np.stack([np.searchsorted(t, v) for t, v in zip(tokens, values, strict=True)])
    error = np.abs(shares_below(summaries, values) - exact / tokens.shape[1])
    assert error.max() <= rank_error(summaries) + ROUNDING


def test_the_bound_is_half_a_share_at_most_and_is_reached() -> None:
    """Just below the middle of a share, what is said is half a share less than what is."""
    tokens = 64 * SHARES
    summary = summarise_tokens(np.arange(tokens, dtype=np.float32)[None])
    assert rank_error([summary]) == 1 / (2 * SHARES)
    middle = summary.quantiles[:, KEPT // 2 : KEPT // 2 + 1]
    error = shares_below([summary], middle)[0, 0] - middle[0, 0] / tokens
    assert abs(error) == pytest.approx(1 / (2 * SHARES), rel=1e-9)


def test_chunks_of_few_tokens_are_kept_whole_and_nothing_is_lost() -> None:
    chunks = make_chunks(heavy, [KEPT, 1, 40, 100])
    summaries = summarise(chunks)
    tokens = np.sort(np.concatenate(chunks, axis=1), axis=1)
    assert rank_error(summaries) == 0
    exact = (np.arange(tokens.shape[1]) + 0.5) / tokens.shape[1]
    assert np.array_equal(quantiles_at(summaries, exact), tokens)


def test_of_the_values_that_leave_a_share_at_or_below_them_the_lowest_is_its_quantile() -> None:
    summary = summarise_tokens(np.array([[4, 1, 3, 2]], dtype=np.float32))
    assert quantiles_at([summary], [0, 0.25, 0.3, 0.5, 0.75, 1])[0].tolist() == [1, 1, 2, 2, 3, 4]


def test_whole_and_half_percentiles_of_one_chunk_are_exact_and_the_tails_nearly() -> None:
    tokens = 12_800
    summary = summarise_tokens(np.arange(tokens, dtype=np.float32)[None])
    halves = np.arange(1, 200)
    found = quantiles_at([summary], halves / 200)
    assert np.array_equal(found[0], halves * (tokens // 200))
    (low, high) = quantiles_at([summary], [0.001, 0.999])[0] / tokens
    assert [low, high] == pytest.approx([0.001, 0.999], abs=0.0001)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_chunks_are_those_of_all_tokens_at_once(
    kind: Callable[[np.random.Generator, int], Scores],
) -> None:
    chunks = make_chunks(kind, SIZES["unequal"])
    tokens = np.concatenate(chunks, axis=1).astype(np.float64)
    count, mean, sd = merge_moments(summarise(chunks))
    assert count == tokens.shape[1]
    scale = np.abs(tokens).max(axis=1)
    assert np.abs(mean - tokens.mean(axis=1)).max() <= 1e-9 * scale.max()
    np.testing.assert_allclose(sd, tokens.std(axis=1), rtol=1e-9, atol=1e-12)


def test_a_spread_far_from_zero_keeps_its_digits() -> None:
    """A sum of squares less the square of a sum would have none left."""
    chunks = [chunk + np.float32(3e4) for chunk in make_chunks(normal, [5000, 300])]
    tokens = np.concatenate(chunks, axis=1).astype(np.float64)
    _, _, sd = merge_moments(summarise(chunks))
    np.testing.assert_allclose(sd, tokens.std(axis=1), rtol=1e-9)


def test_the_order_of_the_chunks_and_of_their_tokens_changes_no_quantile() -> None:
    chunks = make_chunks(normal, SIZES["unequal"])
    turned = [chunk[:, ::-1] for chunk in reversed(chunks)]
    there, back = summarise(chunks), summarise(turned)
    assert np.array_equal(quantiles_at(there, ASKED), quantiles_at(back, ASKED))


def test_bad_input_is_refused() -> None:
    summary = summarise_tokens(np.zeros((2, 300), dtype=np.float32))
    with pytest.raises(ValueError, match="without tokens"):
        summarise_tokens(np.zeros((2, 0), dtype=np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        scores = np.zeros((2, 300), dtype=np.float32)
        scores[1, 7] = bad
        with pytest.raises(ValueError, match="finite"):
            summarise_tokens(scores)
    with pytest.raises(ValueError, match="no tokens"):
        merge_moments([])
    with pytest.raises(ValueError, match="outside"):
        quantiles_at([summary], [0.5, 1.01])
    torn = TokenSummary(300, summary.mean, summary.scatter, summary.quantiles[:, :-1])
    with pytest.raises(ValueError, match="order statistics"):
        quantiles_at([torn], [0.5])


@pytest.mark.parametrize("width", [1, 2, 3, 7, 29, 30, 31, 32])
def test_the_best_window_is_the_one_a_plain_search_finds(width: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = with_outliers(rng, 5 * 97).reshape(5, 97)
        found = best_windows(scores, width)
        assert found is not None
        for probe, row in enumerate(scores.astype(np.float64)):
            means = [float(np.mean(row[i : i + width])) for i in range(len(row) - width + 1)]
            assert found[1][probe] == pytest.approx(max(means), rel=1e-12)
            assert means[found[0][probe]] == pytest.approx(max(means), rel=1e-12)


def test_of_equal_windows_the_first_is_taken_whatever_stands_before_it() -> None:
    rng = np.random.default_rng(0)
    motif = normal(rng, 30) / 3 + 5
    before, gap = np.full(70, -1e12, dtype=np.float32), np.full(31, -1.1, dtype=np.float32)
    scores = np.concatenate([before, motif, *[gap, motif] * 9])[None]
    found = best_windows(scores)
    assert found is not None and found[0].tolist() == [70]
    assert found[1][0] == pytest.approx(motif.astype(np.float64).mean(), rel=1e-12)
    level = best_windows(np.full((2, 80), 0.1, dtype=np.float32))
    assert level is not None and level[0].tolist() == [0, 0]


@pytest.mark.parametrize("tokens", [30, 512, 20_000])
def test_a_probes_best_window_does_not_hang_on_the_other_probes(tokens: int) -> None:
    scores = normal(np.random.default_rng(0), 40 * tokens).reshape(40, tokens)
    together = best_windows(scores)
    assert together is not None
    for probe in range(len(scores)):
        alone = best_windows(scores[probe : probe + 1])
        assert alone is not None
        assert (together[0][probe], together[1][probe]) == (alone[0][0], alone[1][0])


def test_a_document_shorter_than_a_window_has_none_and_one_as_long_has_one() -> None:
    scores = normal(np.random.default_rng(0), 60).reshape(2, 30)
    assert best_windows(scores[:, :29]) is None
    found = best_windows(scores)
    assert found is not None and found[0].tolist() == [0, 0]


def test_five_million_scores_a_second_are_summarised() -> None:
    scores = np.random.default_rng(0).standard_normal((171, 20_000), dtype=np.float32)
    elapsed = []
    for _ in range(3):
        started = time.process_time()
        summarise_tokens(scores)
        elapsed.append(time.process_time() - started)
    assert scores.size / min(elapsed) > 5e6
