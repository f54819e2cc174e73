"""The catalogue of releases: look-ups, close names, and every one of its releases sorted."""

import ast
import inspect
import socket

import pytest

from engine.features.catalogue import (
    OTHER,
    PICKLED,
    SAFE,
    Entry,
    find_entry,
    releases_for,
    require_readable,
)
from engine.features.identity import residual_layer
from engine.features.library import directory, loaders
from engine.features.opening import describe_release
from stores.errors import UsageError

RELEASE, SAE_ID = "gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"


def releases() -> list[tuple[str, list[str]]]:
    found = directory().get_pretrained_saes_directory()
    return [(name, list(found[name].saes_map)) for name in found]


def unpickling() -> set[str]:
    """The names of sae-lens' loaders whose source calls torch.load."""
    named = loaders().NAMED_PRETRAINED_SAE_LOADERS
    return {
        name
        for name, loader in named.items()
        if any(
            isinstance(node, ast.Attribute)
            and (node.attr, ast.unparse(node.value)) == ("load", "torch")
            for node in ast.walk(ast.parse(inspect.getsource(loader)))
        )
    }


def test_an_entry_is_found_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    directory()

    def refuse(*_: object) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert find_entry(RELEASE, SAE_ID) == Entry(
        release=RELEASE,
        sae_id=SAE_ID,
        repo="google/gemma-scope-2b-pt-res",
        path=SAE_ID,
        model="gemma-2-2b",
        loader="gemma_2",
        l0=71,
        variance_explained=None,
        neuronpedia=None,
        scaled=None,
    )


def test_what_is_claimed_is_told_and_what_is_not_is_not() -> None:
    claimed = find_entry("gpt2-small-resid-post-v5-32k", "blocks.0.hook_resid_post")
    assert (claimed.l0, claimed.variance_explained) == (32, 0.9)
    silent = find_entry("llama-3-8b-it-res-jh", "blocks.25.hook_resid_post")
    assert (silent.l0, silent.variance_explained) == (None, None)


@pytest.mark.parametrize(
    ("release", "sae_id", "said"),
    [
        ("gemma-scope-2b-pt-rez", SAE_ID, "did you mean gemma-scope-2b-pt-res"),
        ("Gemma-Scope-2B-pt-res", SAE_ID, "did you mean gemma-scope-2b-pt-res"),
        (RELEASE, "layer_20/width_16k/average_l0_70", "average_l0_71"),
        (RELEASE, "Layer_20/width_16k/average_L0_71", "layer_20/width_16k/average_l0_71"),
        (RELEASE, "?", "and 308 more"),
        (RELEASE, None, "holds 316 SAEs; choose one with --sae-id: embedding.* and 308 more"),
        ("?", None, "and 162 more"),
        ("../../etc/passwd", None, "knows none of this name"),
    ],
)
def test_a_misspelt_name_is_one_line_that_names_the_closest(
    release: str, sae_id: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        find_entry(release, sae_id)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_the_only_sae_of_a_release_needs_no_id() -> None:
    assert find_entry("llama-3-8b-it-res-jh", None).sae_id == "blocks.25.hook_resid_post"


def test_every_release_is_readable_or_refused_by_the_name_of_its_format() -> None:
    """A loader that calls torch.load is among those refused, whatever the release is called."""
    counted = dict.fromkeys(SAFE | PICKLED | set(OTHER), 0)
    for name, ids in releases():
        entry = find_entry(name, ids[0])
        counted[entry.loader] += 1
        if entry.loader in SAFE:
            require_readable(entry)
            continue
        with pytest.raises(UsageError) as refused:
            require_readable(entry)
        line = str(refused.value)
        assert "\n" not in line and name in line
        assert ("--path DIR" in line) == (entry.loader in PICKLED)
    assert sum(counted.values()) == len(releases()) >= 170
    assert unpickling() == PICKLED


def test_a_format_that_nobody_knows_is_refused() -> None:
    entry = find_entry(RELEASE, SAE_ID)
    unknown = Entry(**{**{name: getattr(entry, name) for name in entry.__slots__}, "loader": "new"})
    with pytest.raises(UsageError, match="the format new is not known to be free of code"):
        require_readable(unknown)


def test_a_pickled_release_is_refused_before_anything_is_asked_of_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory()

    def refuse(*_: object) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(UsageError, match=r"pickle.*SAE\.from_pretrained\('goodfire-llama-3\.1-8b"):
        describe_release("goodfire-llama-3.1-8b-instruct", "layer_19")


def test_the_releases_of_a_model_read_its_residual_stream() -> None:
    assert releases_for("meta-llama/Llama-3.1-8B") == ["llama_scope_lxr_32x", "llama_scope_lxr_8x"]
    assert releases_for("google/gemma-3-4b-it") == [
        "gemma-scope-2-4b-it-res-all",
        "gemma-scope-2-4b-it-res",
    ]
    assert releases_for("apertus-8b") == []
    for release in releases_for("gpt2"):
        for _, ids in [each for each in releases() if each[0] == release]:
            hooks = [sae_id.removesuffix("_768").split("_768_")[0] for sae_id in ids]
            assert any(residual_layer(hook) is not None for hook in hooks), release
