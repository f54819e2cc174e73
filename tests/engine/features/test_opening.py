"""SAEs in folders: what they say of themselves, broken ones refused, the others as they are."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.features.opening import describe_folder, fingerprint, open_sae
from stores.errors import UsageError
from tests.engine.features.saes import HOOK, load_plainly, make_sae, save_sae

D, F = 16, 64
KINDS = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
ROOT = Path(__file__).parents[3]


def saved(folder: Path, kind: str = "topk", **more: Any) -> Path:
    return save_sae(make_sae(kind, d_in=D, d_sae=F, **more), folder)


def edit(folder: Path, **changes: Any) -> None:
    """`...` removes; of metadata too, where `metadata__NAME` is given."""
    written = json.loads((folder / "cfg.json").read_text())
    for name, value in changes.items():
        place = written["metadata"] if name.startswith("metadata__") else written
        key = name.removeprefix("metadata__")
        place.pop(key, None)
        if value is not ...:
            place[key] = value
    (folder / "cfg.json").write_text(json.dumps(written))


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as refused:
        describe_folder(folder)
    line = str(refused.value)
    assert "\n" not in line and str(folder) in line
    return line


def refusal_of_weights(folder: Path) -> str:
    found = describe_folder(folder)
    with pytest.raises(UsageError) as refused:
        open_sae(found, device="cpu", dtype="float32", mean_norm=1.0)
    line = str(refused.value)
    assert "\n" not in line and str(folder) in line
    return line


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "model_name": "demo",
        "weights_sha": "sha256:aa",
        "held_out": {"l0": 4.0},
    }
    folder = saved(tmp_path / "my sae.v2", neuronpedia_id="gpt2-small/3-x", **more)
    found = describe_folder(folder)
    assert asdict(found) == {
        "source": str(folder),
        "name": "my-sae-v2",
        "architecture": "topk",
        "d_in": D,
        "d_sae": F,
        "hook_name": HOOK,
        "model": "demo",
        "weights_sha": "sha256:aa",
        "normalize_activations": "none",
        "stated": {"l0": 4.0},
        "neuronpedia": "gpt2-small/3-x",
        "release": None,
        "sae_id": None,
        "folder": str(folder),
        "commit": None,
    }
    assert found.layer == 3


def test_describing_opens_no_weights_and_imports_nothing_heavy(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    (folder / "sae_weights.safetensors").write_bytes(b"")
    (folder / "sae_weights.safetensors").chmod(0)
    script = (
        "import sys; from pathlib import Path; from engine.features.opening import describe_folder;"
        "print(describe_folder(Path(sys.argv[1])).layer, {'torch', 'sae_lens'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split(maxsplit=1) == ["3", "set()\n"]


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_gives_the_codes_that_were_saved(
    tmp_path: Path, kind: str, normalize: str
) -> None:
    folder = saved(tmp_path / "sae", kind, normalize=normalize)
    opened = open_sae(describe_folder(folder), device="cpu", dtype="float32", mean_norm=None)
    tokens = torch.randn(20, D, generator=torch.Generator().manual_seed(1))
    plain = load_plainly(folder)
    assert torch.equal(opened.sae.encode(tokens), plain.encode(tokens))
    assert torch.equal(opened.sae.forward(tokens), plain.forward(tokens))
    assert opened.scaled is None
    assert not opened.sae.training
    assert not any(each.requires_grad for each in opened.sae.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_an_sae_of_scaled_activations_takes_them_as_they_are(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path / "sae", kind, normalize="expected_average_only_in")
    found = describe_folder(folder)
    assert found.normalize_activations == "expected_average_only_in"
    opened = open_sae(found, device="cpu", dtype="float32", mean_norm=10.0)
    assert opened.scaled == D**0.5 / 10.0
    tokens = 10 * torch.randn(20, D, generator=torch.Generator().manual_seed(1)) / D**0.5
    plain = load_plainly(folder)
    codes = plain.encode(tokens * opened.scaled)
    assert torch.allclose(opened.sae.encode(tokens), codes, atol=1e-5)
    assert torch.allclose(opened.sae.decode(codes), plain.decode(codes) / opened.scaled, atol=1e-5)
    with pytest.raises(ValueError, match="mean norm"):
        open_sae(found, device="cpu", dtype="float32", mean_norm=None)


def test_it_is_loaded_in_the_type_that_is_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    for dtype in ("float32", "bfloat16"):
        sae = open_sae(describe_folder(folder), device="cpu", dtype=dtype, mean_norm=None).sae
        assert {each.dtype for each in sae.parameters()} == {getattr(torch, dtype)}
        assert sae.encode(torch.randn(2, D).to(sae.dtype)).dtype == sae.dtype


@pytest.mark.parametrize("flat", [{"activation_fn_str": "topk"}, {"architecture": "gated"}, {}])
def test_a_folder_of_before_six_is_read(tmp_path: Path, flat: dict[str, Any]) -> None:
    kind = "topk" if "activation_fn_str" in flat else flat.get("architecture", "standard")
    folder = saved(tmp_path / "sae", kind)
    written = {"d_in": D, "d_sae": F, "dtype": "float32", "hook_point": "blocks.2.hook_resid_pre"}
    written |= {"model_name": "gpt2-small", "normalize_activations": False, **flat}
    written |= {"activation_fn_kwargs": {"k": 4}, "prepend_bos": True, "sae_lens_version": "3.9.0"}
    (folder / "cfg.json").write_text(json.dumps(written))
    found = describe_folder(folder)
    assert (found.layer, found.model, found.architecture) == (1, "gpt2-small", kind)
    assert found.normalize_activations == "none"
    tokens = torch.randn(5, D)
    codes = open_sae(found, device="cpu", dtype="float32", mean_norm=None).sae.encode(tokens)
    assert torch.equal(codes, make_sae(kind, d_in=D, d_sae=F).encode(tokens))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_in": ...}, "d_in = None"),
        ({"d_sae": -4}, "d_sae = -4"),
        ({"d_in": "16"}, "d_in = '16'"),
        ({"d_in": True}, "d_in = True"),
        ({"architecture": "batchtopk"}, "save it with save_inference_model"),
        ({"architecture": "abstopk"}, "architecture abstopk"),
        ({"architecture": "temporal"}, "architecture temporal"),
        ({"architecture": "jumprelu_transcoder"}, "architecture jumprelu_transcoder"),
        ({"metadata__hook_name_out": "blocks.3.hook_mlp_out"}, "to blocks.3.hook_mlp_out"),
        ({"reshape_activations": "hook_z"}, "heads of attention"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"normalize_activations": "constant_scalar_rescale"}, "constant_scalar_rescale"),
    ],
)
def test_a_configuration_that_cannot_be_compared_is_one_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = saved(tmp_path / "sae")
    edit(folder, **changes)
    assert said in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_a_broken_configuration_is_one_line(tmp_path: Path, content: bytes) -> None:
    folder = saved(tmp_path / "sae")
    (folder / "cfg.json").write_bytes(content)
    assert "copy it again" in refusal(folder)


def test_a_folder_without_its_files_is_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    (folder / "sae_weights.safetensors").unlink()
    assert "no sae_weights.safetensors beside" in refusal(folder)
    assert "no cfg.json in this folder" in refusal(tmp_path)
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    assert "there is no such folder" in refusal(folder / "cfg.json")


class Runs:
    """A pickle of this makes a folder when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.place,)


def test_a_pickle_under_another_name_is_not_read(tmp_path: Path) -> None:
    folder, place = saved(tmp_path / "sae"), tmp_path / "ran"
    (folder / "sae_weights.safetensors").write_bytes(pickle.dumps(Runs(place)))
    assert "cannot be read" in refusal_of_weights(folder)
    torch.save({"W_dec": Runs(place)}, folder / "sae_weights.safetensors")
    assert "cannot be read" in refusal_of_weights(folder)
    assert not place.exists()


def changed_weights(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    path = folder / "sae_weights.safetensors"
    weights = {key: value for key, value in load_file(path).items() if key != name}
    save_file(weights | ({} if tensor is None else {name: tensor}), path)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("W_dec", torch.zeros(F, D - 1), f"W_dec .* is [{F}, {D - 1}], but .* says [{F}, {D}]"),
        ("W_dec", torch.zeros(D, F), f"W_dec .* is [{D}, {F}], but .* says [{F}, {D}]"),
        ("W_dec", None, f"W_dec .* is None, but .* says [{F}, {D}]"),
        ("b_enc", torch.zeros(F - 1), "cannot be read"),
        ("b_enc", None, "cannot be read"),
        ("extra", torch.zeros(1), "cannot be read"),
        ("scaling_factor", torch.full((F,), 2.0), "cannot be read"),
        ("b_dec", torch.full((D,), float("nan")), "not finite"),
        ("W_enc", torch.full((D, F), float("inf")), "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, said: str
) -> None:
    folder = saved(tmp_path / "sae")
    changed_weights(folder, name, tensor)
    line = refusal_of_weights(folder)
    assert all(part in line for part in said.split(" .* "))


@pytest.mark.parametrize("kept", [0, 7, 100, 2000])
def test_torn_weights_are_one_line(tmp_path: Path, kept: int) -> None:
    folder = saved(tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "cannot be read" in refusal_of_weights(folder)


def test_metadata_of_others_cannot_break_in(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    for changes in ({"metadata__self": 1}, {"metadata__self": ..., "metadata____class__": 1}):
        edit(folder, **changes)
        assert "cannot be read" in refusal_of_weights(folder)


def test_a_fingerprint_is_of_configuration_and_weights_alone(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other")
    first = fingerprint(describe_folder(one))
    assert first == fingerprint(describe_folder(other)) and len(first) == 64
    (other / "notes.txt").write_text("mine")
    assert first == fingerprint(describe_folder(other))
    edit(other, metadata__hook_name="blocks.4.hook_resid_post")
    assert first != fingerprint(describe_folder(other))
    changed_weights(one, "b_dec", torch.ones(D))
    assert first != fingerprint(describe_folder(one))


def test_a_fingerprint_of_weights_that_are_gone_is_one_line(tmp_path: Path) -> None:
    found = describe_folder(saved(tmp_path / "sae"))
    (tmp_path / "sae" / "sae_weights.safetensors").unlink()
    with pytest.raises(UsageError, match=r"cannot be read"):
        fingerprint(found)
