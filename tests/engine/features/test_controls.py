"""A control is a random SAE whose rows vary as the tokens do, as sparse as the one beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.features import codes
from engine.features.codes import decoder_rows
from engine.features.controls import Spread, draw_control, measure_l0, measure_spread
from tests.engine.features.saes import make_sae

WIDTH, FEATURES = 24, 300


def anisotropic(width: int = WIDTH) -> NDArray[np.float64]:
    """A covariance of which a few directions carry most."""
    rng = np.random.default_rng(3)
    turned = np.linalg.qr(rng.standard_normal((width, width)))[0]
    covariance: NDArray[np.float64] = turned * 0.7 ** np.arange(width) @ turned.T
    return covariance


def tokens_of(count: int, covariance: NDArray[np.float64], seed: int = 5) -> NDArray[np.float32]:
    """Activations of that covariance, far from zero as those of models are."""
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(np.full(len(covariance), 4.0), covariance, count)
    return drawn.astype(np.float32)


def control_of(spread: Spread, **more: Any) -> Any:
    given: dict[str, Any] = {"features": FEATURES, "l0": 8.0, "seed": 1}
    given |= {"device": "cpu", "dtype": "float32"} | more
    return draw_control(spread, **given)


SPREAD = measure_spread(tokens_of(4000, anisotropic()))


def unexplained(sae: Any, tokens: NDArray[np.float32], factor: float = 1.0) -> float:
    """Share of the variance that the SAE's reconstruction leaves, its codes times `factor`."""
    given = torch.from_numpy(tokens)
    with torch.inference_mode():
        made = sae.decode(sae.encode(given) * factor)
    left = (made - given).double().square().sum()
    return float(left / (given.double() - given.double().mean(dim=0)).square().sum())


def test_the_spread_is_mean_and_covariance_in_float64() -> None:
    tokens = tokens_of(50, anisotropic())
    spread = measure_spread(tokens)
    assert np.allclose(spread.mean, tokens.astype(np.float64).mean(axis=0), rtol=1e-12)
    assert np.allclose(spread.covariance, np.cov(tokens.astype(np.float64).T), rtol=1e-9)
    assert spread.tokens == 50


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.ones((0, 4)), "0 tokens: activations that do not vary"),
        (np.ones((1, 4)), "1 tokens: activations that do not vary"),
        (np.full((5, 4), 0.1), "5 tokens: activations that do not vary"),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), "2 tokens: activations that are not finite"),
        (np.array([[1.0, np.inf], [2.0, 3.0]]), "2 tokens: activations that are not finite"),
    ],
)
def test_tokens_without_a_spread_are_refused(tokens: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_spread(tokens.astype(np.float32))


def test_rows_have_length_1_and_vary_as_the_tokens_do() -> None:
    """Against normal draws made otherwise and scaled to length 1."""
    rows = decoder_rows(control_of(SPREAD, features=30_000)).astype(np.float64)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    rng = np.random.default_rng(9)
    drawn = rng.multivariate_normal(np.zeros(WIDTH), SPREAD.covariance, 100_000)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    found, expected = (each.T @ each / len(each) for each in (rows, drawn))
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert np.abs(rows.mean(axis=0)).max() < 0.01


def test_rows_do_not_hang_on_which_eigenvectors_a_library_chooses() -> None:
    """Half the directions vary alike: the last bits decide which vectors span them."""
    same = np.diag([9.0] * 12 + [1.0] * 12)
    noise = np.random.default_rng(2).standard_normal((24, 24)) * 1e-13
    spreads = [Spread(np.zeros(24), each, 100) for each in (same, same + noise + noise.T)]
    one, other = (decoder_rows(control_of(spread)) for spread in spreads)
    assert np.abs(one - other).max() < 1e-6


def test_the_encoder_is_the_rows_times_one_positive_factor_around_the_mean() -> None:
    sae = control_of(SPREAD)
    factors = (sae.W_enc.T / sae.W_dec).detach()
    assert torch.allclose(factors, factors[0, 0].expand_as(factors), rtol=1e-4)
    assert 0 < float(factors[0, 0]) <= 1
    assert np.allclose(sae.b_dec.detach().numpy(), SPREAD.mean, rtol=1e-6)
    assert not sae.b_enc.any()


@pytest.mark.parametrize("l0", [1.0, 7.6, 40.0])
def test_no_other_factor_rebuilds_the_tokens_much_better(l0: float) -> None:
    tokens = tokens_of(3000, anisotropic(), seed=6)
    sae = control_of(SPREAD, l0=l0)
    found = unexplained(sae, tokens)
    best = min(unexplained(sae, tokens, factor) for factor in np.linspace(0.5, 2, 31))
    assert found < 0.8
    assert found < best + 0.01


@pytest.mark.parametrize(("l0", "k"), [(0.0, 1), (0.4, 1), (7.6, 8), (40.2, 40), (1e9, FEATURES)])
def test_as_many_features_fire_as_in_the_sae_it_stands_beside(l0: float, k: int) -> None:
    sae = control_of(SPREAD, l0=l0)
    assert sae.cfg.k == k
    if k < 100:
        fired = sae.encode(torch.from_numpy(tokens_of(500, anisotropic()))) != 0
        assert set(fired.sum(dim=1).tolist()) == {k}


def test_the_seed_alone_decides_and_torchs_own_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (control_of(SPREAD, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert np.abs(decoder_rows(one) - decoder_rows(other)).max() > 0.1


def test_rows_drawn_in_blocks_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decoder_rows(control_of(SPREAD))
    monkeypatch.setattr("engine.features.controls._ROWS_AT_ONCE", 7)
    assert np.allclose(decoder_rows(control_of(SPREAD)), whole, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_computes_in_the_type_asked_for(dtype: str) -> None:
    sae = control_of(SPREAD, dtype=dtype)
    assert {str(each.dtype) for each in sae.parameters()} == {f"torch.{dtype}"}
    assert sae.dtype == getattr(torch, dtype)
    assert not sae.training
    assert unexplained(sae, tokens_of(200, anisotropic())) < 0.8


@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated", "abstopk"])
def test_l0_is_the_mean_number_of_codes_that_are_not_0(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = make_sae(kind, d_in=WIDTH, d_sae=FEATURES)
    tokens = tokens_of(100, anisotropic())
    tokens.flags.writeable = False
    plain = (sae.encode(torch.tensor(tokens)) != 0).sum(dim=1).double().mean().item()
    assert measure_l0(sae, tokens) == pytest.approx(plain, rel=1e-12)
    monkeypatch.setattr(codes, "CODES_AT_ONCE", 9 * FEATURES)
    assert measure_l0(sae, tokens) == pytest.approx(plain, rel=1e-3)
