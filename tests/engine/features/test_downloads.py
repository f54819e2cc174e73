"""SAEs from a hub that is on the loopback: every format that is read, and every way it can fail."""

import io
import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from engine.features.downloads import pinned
from engine.features.library import loaders
from stores.errors import UsageError
from tests.engine.features.model_hub import TOKEN, Child, ModelHub, asking_child, serving_models
from tests.engine.features.saes import make_sae, save_sae
from tests.engine.sources.hubs import Repository

LENS = "gemma-2b-res-jb"
LENS_REPO = "jbloom/Gemma-2b-Residual-Stream-SAEs"
SCOPE_2 = ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6")
SCOPE_3 = ("gemma-scope-2-1b-it-res", "layer_13_width_16k_l0_big")
LLAMA = ("llama_scope_lxr_8x", "l5r_8x")
DISTILL = ("llama_scope_r1_distill", "l0r_800m_slimpajama")
D, F = 8, 32
RUN_BY_PICKLE = "sae_ran_code"


class Runs:
    """A pickle of this makes a folder in the working directory when it is read."""

    def __reduce__(self) -> Any:
        return Path.mkdir, (Path(RUN_BY_PICKLE),)


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    names = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    drawn = {name: torch.rand(shape, generator=made) for name, shape in names.items()}
    return {**drawn, **more}


def turned(drawn: dict[str, torch.Tensor], **more: torch.Tensor) -> bytes:
    """As layers of torch keep them."""
    linear = {"encoder.weight": drawn["w_enc"].T, "decoder.weight": drawn["w_dec"].T}
    biases = {"encoder.bias": drawn["b_enc"], "decoder.bias": drawn["b_dec"]}
    return save({k: v.contiguous() for k, v in {**linear, **biases, **more}.items()})


def lens_files(folder: Path, seed: int = 0) -> dict[str, bytes]:
    made = make_sae("standard", d_in=D, d_sae=F, model_name="gemma-2b", seed=seed)
    return {path.name: path.read_bytes() for path in sorted(save_sae(made, folder).iterdir())}


def archive(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def repositories(folder: Path) -> dict[str, Repository]:
    """One SAE of each format, tiny where its configuration allows it."""
    lens = lens_files(folder / "lens")
    drawn = weights()
    names = [f"gemma_2b_blocks.{layer}.hook_resid_post_16384" for layer in (0, 6, 10, 12, 17)]
    names[0], names[1] = f"{names[0]}_anthropic", f"{names[1]}_anthropic_fast_lr"
    lens_repo = {f"{name}/{file}": content for name in names for file, content in lens.items()}
    lens_repo[f"{names[3]}/sae_weights.safetensors"] = pickle.dumps(Runs())
    del lens_repo[f"{names[4]}/cfg.json"]
    other = lens_files(folder / "other", seed=1)
    lens_repo[f"{names[2]}/sae_weights.safetensors"] = other["sae_weights.safetensors"]
    big = {"w_enc": (2304, 4096), "w_dec": (4096, 2304), "b_enc": (4096,), "b_dec": (2304,)}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in big.items()}
    layer = "layer_20/width_16k/average_l0_71"
    scope_2 = {
        f"{SCOPE_2[1]}/params.npz": archive({**zeros, "threshold": np.ones(4096, np.float32)}),
        f"{layer}/params.npz": archive({"w_enc": np.array([Runs()], dtype=object)}),
    }
    scope_3 = {f"resid_post/{SCOPE_3[1]}/params.safetensors": save(drawn)}
    norm = {"dataset_average_activation_norm": {"in": 2.0, "out": 2.0}}
    sizes = {"d_model": D, "d_sae": F, "jump_relu_threshold": 0.5, **norm}
    hyper = json.dumps({**sizes, "hook_point_in": "blocks.5.hook_resid_post"}).encode()
    llama = {
        "Llama3_1-8B-Base-L5R-8x/hyperparams.json": hyper,
        "Llama3_1-8B-Base-L5R-8x/checkpoints/final.safetensors": turned(drawn),
    }
    config = {"d_model": D, "expansion_factor": F // D, "hook_point_in": "blocks.0.hook_resid_post"}
    distill_folder = "800M-Slimpajama-0-OpenR1-Math-220k/L0R"
    log = {"log_jumprelu_threshold": torch.zeros(F)}
    distill = {
        f"{distill_folder}/config.json": json.dumps(config).encode(),
        f"{distill_folder}/sae_weights.safetensors": turned(drawn, **log),
    }
    return {
        LENS_REPO: Repository(lens_repo),
        "google/gemma-scope-2b-pt-res": Repository(scope_2),
        "google/gemma-scope-2-1b-it": Repository(scope_3),
        "fnlp/Llama3_1-8B-Base-LXR-8x": Repository(llama),
        "fnlp/Llama-Scope-R1-Distill": Repository(distill),
        "jbloom/Gemma-2b-IT-Residual-Stream-SAEs": Repository(dict(lens_repo), gated=True),
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def models(home: Path) -> Iterator[ModelHub]:
    with serving_models(repositories(home)) as found:
        yield found


@pytest.fixture(scope="module")
def child(models: ModelHub, home: Path) -> Iterator[Child]:
    with asking_child(models.hub.url, home) as found:
        yield found


@pytest.mark.parametrize(
    ("release", "sae_id", "layer", "model", "architecture"),
    [
        (LENS, "blocks.6.hook_resid_post", 3, "gemma-2b", "standard"),
        (*SCOPE_2, None, "gemma-2-2b", "jumprelu"),
        (*SCOPE_3, 13, "google/gemma-3-1b-it", "jumprelu"),
        (*LLAMA, 5, "meta-llama/Llama-3.1-8B", "jumprelu"),
        (*DISTILL, 0, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "jumprelu"),
    ],
)
def test_every_format_without_code_is_described_and_loaded(
    child: Child, release: str, sae_id: str, layer: int | None, model: str, architecture: str
) -> None:
    found = child.ask(release, sae_id, load=True)
    assert "error" not in found
    assert (found["layer"], found["model"]) == (layer, model)
    assert (found["architecture"], found["dtype"]) == (architecture, "torch.bfloat16")
    assert (found["commit"], found["scaled"]) == ("c" * 40, None)


def test_what_was_loaded_is_what_lies_on_the_hub(child: Child) -> None:
    drawn = weights()
    found = child.ask(*SCOPE_3, load=True)
    assert torch.tensor(found["rows"]).allclose(drawn["w_dec"][:2, :2], rtol=0.01)
    # this catalogue says by how much activations are to be multiplied, and it is in the weights
    scaled = child.ask(*LLAMA, load=True)
    factor = drawn["w_dec"][:2, :2] / torch.tensor(scaled["rows"])
    assert factor.allclose(factor[0, 0], rtol=0.01)
    assert (torch.tensor(scaled["columns"]) / drawn["w_enc"][:2, :2]).allclose(factor, rtol=0.01)
    assert scaled["normalize_activations"] == "none"


def test_describing_reads_no_weights(child: Child, models: ModelHub) -> None:
    path = "gemma_2b_blocks.10.hook_resid_post_16384/sae_weights.safetensors"
    found = child.ask(LENS, "blocks.10.hook_resid_post")
    assert found["d_sae"] == F
    assert path not in models.hub.fetched
    child.ask(LENS, "blocks.10.hook_resid_post", load=True)
    assert path in models.hub.fetched


def test_a_pickle_under_another_name_is_one_line_and_runs_nothing(child: Child, home: Path) -> None:
    renamed = child.ask(LENS, "blocks.12.hook_resid_post", load=True)
    arrays = child.ask("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", load=True)
    for found in (renamed, arrays):
        assert found["kind"] == "UsageError"
        assert "cannot be read" in found["error"] and "\n" not in found["error"]
    assert not (home / RUN_BY_PICKLE).exists()


def test_a_file_that_could_be_a_pickle_is_not_even_downloaded() -> None:
    with pinned("c" * 40), pytest.raises(UsageError, match=r"ae\.pt may be a pickle"):
        loaders().dictionary_learning_sae_huggingface_loader_1.__globals__["hf_hub_download"](
            repo_id="someone/saes", filename="trainer_0/ae.pt", force_download=False
        )


def test_loaders_are_left_as_they_were() -> None:
    before = loaders().hf_hub_download
    with pytest.raises(KeyError), pinned("c" * 40):
        assert loaders().hf_hub_download is not before
        raise KeyError
    assert loaders().hf_hub_download is before


@pytest.mark.parametrize("token", [None, TOKEN, "hf_" + "u" * 34])
def test_a_closed_gate_is_one_line_without_the_token(child: Child, token: str | None) -> None:
    found = child.ask("gemma-2b-it-res-jb", token=token)
    assert found["kind"] == "ModelError"
    assert "HF_TOKEN" in found["error"] and "\n" not in found["error"]
    assert token is None or token not in found["error"]


def test_a_repository_that_is_not_there_is_one_line(child: Child) -> None:
    found = child.ask("gpt2-small-res-jb", "blocks.5.hook_resid_pre")
    assert found["kind"] == "ModelError"
    assert "jbloom/GPT2-Small-SAEs-Reformatted is not on the hub" in found["error"]


def test_a_file_that_is_not_there_is_one_line(child: Child) -> None:
    found = child.ask(LENS, "blocks.17.hook_resid_post")
    assert found["kind"] == "ModelError" and "lacks a file" in found["error"]


def test_a_hub_out_of_order_is_one_line(child: Child, models: ModelHub) -> None:
    models.hub.refused = 503
    found = child.ask("gpt2-small-res-jb", "blocks.5.hook_resid_pre")
    models.hub.refused = None
    assert found["kind"] == "ModelError" and "503" in found["error"]


def test_what_was_loaded_stays_the_same_when_the_hub_changes(
    child: Child, models: ModelHub
) -> None:
    before = child.ask(LENS, "blocks.6.hook_resid_post", load=True)
    models.hub.repositories[LENS_REPO].commit = "d" * 40
    after = child.ask(LENS, "blocks.6.hook_resid_post", load=True)
    newer = child.ask(LENS, "blocks.0.hook_resid_post", load=True)
    models.hub.repositories[LENS_REPO].commit = "c" * 40
    assert after == before
    assert newer["commit"] == "d" * 40
    assert newer["fingerprint"] != before["fingerprint"]


def test_what_is_in_the_cache_needs_no_network(child: Child, models: ModelHub) -> None:
    """The last test: the hub is gone after it."""
    there = [(LENS, "blocks.6.hook_resid_post"), SCOPE_2, SCOPE_3, LLAMA, DISTILL]
    online = [child.ask(*each, load=True) for each in there]
    models.shut()
    for offline in (True, False):
        assert [child.ask(*each, load=True, offline=offline) for each in there] == online
        began = time.monotonic()
        found = child.ask("gpt2-small-res-jb", "blocks.5.hook_resid_pre", offline=offline)
        assert time.monotonic() - began < 5
        assert found["kind"] == "ModelError" and "cannot be reached" in found["error"]
        assert "\n" not in found["error"] and models.hub.url not in found["error"]
