"""Which SAEs belong to a reader: hook points, layers, widths, models and their kinds."""

from dataclasses import replace

import pytest

from engine.features.identity import (
    Identity,
    Read,
    choose_layer,
    find_differences,
    require_match,
    residual_layer,
)
from engine.features.naming import same_model
from stores.errors import FingerprintMismatch, UsageError

SHA = "sha256:aa"
READ = Read(
    model="google/gemma-2-2b", weights_sha=SHA, n_layers=26, d_model=2304, layers=(9, 12, 20)
)
FITTING = Identity(
    source="gemma-scope-2b-pt-res/layer_20",
    name="gemma-scope",
    architecture="jumprelu",
    d_in=2304,
    d_sae=16384,
    hook_name="blocks.20.hook_resid_post",
    model="gemma-2-2b",
    release="gemma-scope-2b-pt-res",
    sae_id="layer_20",
)


@pytest.mark.parametrize(
    ("hook_name", "layer"),
    [
        ("blocks.5.hook_resid_post", 5),
        ("blocks.0.hook_resid_post", 0),
        ("model.layers.5", 5),
        ("model.layers.5.output", 5),
        ("model.language_model.layers.31", 31),
        ("transformer.h.11", 11),
        ("blocks.6.hook_resid_pre", 5),
    ],
)
def test_what_a_block_leaves_is_its_layer(hook_name: str, layer: int) -> None:
    assert residual_layer(hook_name) == layer


@pytest.mark.parametrize(
    "hook_name",
    [
        "blocks.0.hook_resid_pre",
        "blocks.5.hook_resid_mid",
        "blocks.5.hook_mlp_out",
        "blocks.5.mlp.hook_in",
        "blocks.5.hook_attn_out",
        "blocks.5.attn.hook_z",
        "blocks.5.ln2.hook_normalized",
        "model.layers.5.mlp",
        "model.layers.5.input",
        "hook_embed",
        "blocks.x.hook_resid_post",
        "",
    ],
)
def test_other_hook_points_have_no_layer(hook_name: str) -> None:
    assert residual_layer(hook_name) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("gemma-2-2b", "/models/gemma-2-2b/"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1-8b-it"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b-it"),
        ("meta-llama/Llama-3.1-8B", "Llama3.1-8B-Base"),
        ("gpt2-small", "openai-community/gpt2"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("gemma-3-270m", "google/gemma-3-270m-pt"),
        ("Qwen/Qwen3-8B-Base", "qwen3-8b-base"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-it"),
        ("google/gemma-3-4b-it", "gemma_3_4b_it"),
    ],
)
def test_one_model_has_many_spellings(one: str, other: str) -> None:
    assert same_model(one, other) and same_model(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("google/gemma-2-2b", "google/gemma-2-2b-it"),
        ("google/gemma-3-4b-pt", "google/gemma-3-4b-it"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"),
        ("Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-9B-Base"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3-8B"),
        ("google/gemma-2-2b", "google/gemma-2-9b"),
        ("google/gemma-2b", "google/gemma-2-2b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "meta-llama/Llama-3.1-8B"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m-deduped"),
    ],
)
def test_models_that_differ_are_told_apart(one: str, other: str) -> None:
    assert not same_model(one, other) and not same_model(other, one)


def test_an_sae_of_this_model_and_layer_has_no_differences() -> None:
    assert choose_layer(FITTING, READ, None, force=False) == 20
    assert require_match(FITTING, READ, 20, force=False) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"hook_name": "blocks.20.hook_mlp_out"},
            r"blocks\.20\.hook_mlp_out is no residual stream",
        ),
        ({"hook_name": "blocks.20.hook_resid_mid"}, "hook_resid_mid is no residual stream"),
        ({"hook_name": None}, "does not say where it reads"),
        ({"hook_name": "blocks.12.hook_resid_post"}, r"reads layer 12 .*, not layer 20"),
        ({"model": "google/gemma-2-2b-it"}, r"gemma-2-2b-it \(instruct\), not on .* \(base\)"),
        ({"model": "google/gemma-2-9b"}, "trained on google/gemma-2-9b, not on google/gemma-2-2b"),
        ({"model": None}, "does not say which model"),
        ({"weights_sha": "sha256:bb"}, "other weights than those of google/gemma-2-2b"),
    ],
)
def test_each_difference_is_named_and_only_force_allows_it(
    changed: dict[str, str | None], said: str
) -> None:
    other = replace(FITTING, **changed)  # type: ignore[arg-type]
    with pytest.raises(FingerprintMismatch, match=said) as refused:
        require_match(other, READ, 20, force=False)
    line = str(refused.value)
    assert "\n" not in line and line.startswith(FITTING.source) and "--force" in line
    (difference,) = require_match(other, READ, 20, force=True)
    assert difference in line


def test_another_width_is_refused_even_by_force() -> None:
    other = replace(FITTING, d_in=3584)
    with pytest.raises(
        FingerprintMismatch, match=r"3584 numbers per token, .* has 2304"
    ) as refused:
        require_match(other, READ, 20, force=True)
    assert "--force" not in str(refused.value)


def test_all_differences_are_named_at_once() -> None:
    other = replace(FITTING, hook_name="blocks.1.hook_mlp_out", model="gpt2", d_in=768)
    assert len(find_differences(other, READ, 20)) == 3


def test_weights_decide_before_names() -> None:
    renamed = replace(FITTING, model="somewhere/else", weights_sha=SHA)
    assert find_differences(renamed, READ, 20) == ()
    retrained = replace(FITTING, weights_sha="sha256:bb")
    assert len(find_differences(retrained, READ, 20)) == 1


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (11, "layer 11 .* not extracted .*9, 12, 20.*`extract --layers 11` and `vectors build`"),
        (26, "layers 0 to 25"),
        (-1, "layers 0 to 25"),
    ],
)
def test_a_layer_without_vectors_is_refused_with_the_commands_that_make_it(
    layer: int, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        choose_layer(FITTING, READ, layer, force=True)


def test_an_asked_layer_is_taken_and_then_shows_as_a_difference() -> None:
    assert choose_layer(FITTING, READ, 12, force=False) == 12
    assert len(find_differences(FITTING, READ, 12)) == 1


def test_what_reads_inside_a_block_has_a_layer_only_by_force() -> None:
    inside = replace(FITTING, hook_name="blocks.12.hook_mlp_out")
    with pytest.raises(UsageError, match="no residual stream that a block leaves"):
        choose_layer(inside, READ, None, force=False)
    assert choose_layer(inside, READ, None, force=True) == 12


def test_an_sae_that_does_not_say_where_it_reads_needs_a_layer() -> None:
    silent = replace(FITTING, hook_name=None)
    for force in (False, True):
        with pytest.raises(UsageError, match="does not say where it reads; give its --layer"):
            choose_layer(silent, READ, None, force=force)
    assert choose_layer(silent, READ, 9, force=True) == 9
