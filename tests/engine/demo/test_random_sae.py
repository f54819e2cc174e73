"""An SAE that has learnt nothing has the shape of the one it is made after, and claims nothing."""

import json
from pathlib import Path

import pytest
import torch

from engine.demo.random_sae import write_random
from tests.engine.features.saes import load_plainly, make_sae, save_sae


def write_like(kind: str, folder: Path) -> Path:
    claims = {"held_out": {"l0": 16.0}, "tokens": 9}
    sae = make_sae(kind, d_in=32, d_sae=96, model_name="demo", weights_sha="abc", claims=claims)
    return save_sae(sae, folder)


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "standard", "gated"])
def test_shape_kind_and_k_are_those_of_the_other(tmp_path: Path, kind: str) -> None:
    like = write_like(kind, tmp_path / "like")
    write_random(like, tmp_path / "random", 0)
    real, random = load_plainly(like), load_plainly(tmp_path / "random")
    assert type(random) is type(real)
    assert {n: t.shape for n, t in random.state_dict().items()} == {
        n: t.shape for n, t in real.state_dict().items()
    }
    assert {k: v for k, v in random.cfg.to_dict().items() if k != "metadata"} == {
        k: v for k, v in real.cfg.to_dict().items() if k != "metadata"
    }


def test_it_says_what_it_reads_and_nothing_of_how_well(tmp_path: Path) -> None:
    like = write_like("topk", tmp_path / "like")
    write_random(like, tmp_path / "random", 0)
    written = json.loads((tmp_path / "random" / "cfg.json").read_text())
    assert written["metadata"] == {
        "model_name": "demo",
        "hook_name": "blocks.3.hook_resid_post",
        "weights_sha": "abc",
    }


def test_rows_have_length_1_and_are_the_encoder_too_around_the_same_centre(tmp_path: Path) -> None:
    like = write_like("topk", tmp_path / "like")
    write_random(like, tmp_path / "random", 0)
    real, random = load_plainly(like), load_plainly(tmp_path / "random")
    assert torch.allclose(random.W_dec.norm(dim=1), torch.ones(96))
    assert torch.equal(random.W_enc, random.W_dec.T)
    assert torch.equal(random.b_dec, real.b_dec)
    assert not random.b_enc.any()
    assert (random.W_dec @ real.W_dec.T).detach().abs().mean() < 0.2


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    like = write_like("topk", tmp_path / "like")
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_random(like, tmp_path / name, seed)
    one, again, other = (
        (tmp_path / name / "sae_weights.safetensors").read_bytes()
        for name in ("one", "again", "other")
    )
    assert one == again
    assert one != other
