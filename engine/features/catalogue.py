"""The releases that sae-lens knows, by name: looked up without a network and without any weight."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from engine.features.library import directory
from engine.features.naming import same_model
from stores.errors import UsageError

SAFE = {"sae_lens", "gemma_2", "gemma_3", "llama_scope", "llama_scope_r1_distill"}
"""Loaders of SAEs whose weights hold no code: safetensors, or arrays of numpy."""
PICKLED = {
    "connor_rob_hook_z",
    "deepseek_r1",
    "dictionary_learning_1",
    "goodfire",
    "qwen_scope",
}
"""Loaders that unpickle what was downloaded, which can run any code."""
OTHER = {
    "gemma_2_transcoder": "a transcoder",
    "mwhanna_transcoder": "a transcoder",
    "mntss_clt_layer_transcoder": "a transcoder",
    "temporal": "an SAE whose codes hang on the tokens before",
}
"""Loaders of what is no SAE of single activations."""
NAMED = 8
ELSEWHERE = ("-att", "-mlp", "-lxa", "-lxm", "-resid-mid", "transcoder", "clt", "hook-z")


@dataclass(frozen=True, slots=True)
class Entry:
    """One SAE of a release."""

    release: str
    sae_id: str
    repo: str
    path: str
    model: str
    loader: str
    """The name of sae-lens' loader for this format."""
    l0: float | None
    variance_explained: float | None
    neuronpedia: str | None
    scaled: float | None
    """What activations are to be multiplied by, which sae-lens folds into the weights."""


def find_entry(release: str, sae_id: str | None) -> Entry:
    """One SAE; without an id, the only one of its release.

    UsageError for a release or an id that is not there, naming the closest ones; without an id,
    naming those of the release.
    """
    releases = directory().get_pretrained_saes_directory()
    if release not in releases:
        raise UsageError(
            f"release {release}: sae-lens knows none of this name; {_near(release, releases)}"
        )
    there = list(releases[release].saes_map)
    if sae_id is None and len(there) == 1:
        sae_id = there[0]
    if sae_id is None:
        raise UsageError(
            f"release {release}: it holds {len(there):,} SAEs; choose one with --sae-id: "
            f"{_few(there)}"
        )
    if sae_id not in there:
        raise UsageError(f"release {release}: no SAE {sae_id}; {_near(sae_id, there)}")
    return _entry(releases[release], sae_id)


def require_readable(entry: Entry) -> None:
    """Raises UsageError for what is stored as a pickle, and for what is no SAE of activations."""
    source = f"{entry.release}/{entry.sae_id}"
    if entry.loader in SAFE:
        return
    if entry.loader in OTHER:
        raise UsageError(
            f"{source}: this is {OTHER[entry.loader]}, which has no directions to compare with "
            f"vectors; choose an SAE of the residual stream of {entry.model}"
        )
    reason = (
        "its weights are stored as a pickle, which can run any code when it is read"
        if entry.loader in PICKLED
        else f"the format {entry.loader} is not known to be free of code"
    )
    raise UsageError(
        f"{source}: {reason}; if you trust it, convert it once with `from sae_lens import SAE; "
        f"SAE.from_pretrained({entry.release!r}, {entry.sae_id!r}).save_model('DIR')` and give "
        "--path DIR"
    )


def releases_for(model: str) -> list[str]:
    """The releases whose SAEs read the residual stream of this model, or of one named like it.

    Those that can be read here; by the names of releases, which say what their SAEs read.
    """
    releases = directory().get_pretrained_saes_directory()
    return [
        name
        for name, found in releases.items()
        if (found.conversion_func or "sae_lens") in SAFE
        and same_model(found.model, model)
        and not any(word in name.replace("_", "-") for word in ELSEWHERE)
    ]


def _entry(found: Any, sae_id: str) -> Entry:
    """Where nothing is claimed, sae-lens says an l0 of 0 and a variance explained of 1."""
    l0 = float(found.expected_l0[sae_id])
    explained = float(found.expected_var_explained[sae_id])
    return Entry(
        release=found.release,
        sae_id=sae_id,
        repo=found.repo_id,
        path=found.saes_map[sae_id],
        model=found.model,
        loader=found.conversion_func or "sae_lens",
        l0=l0 or None,
        variance_explained=explained if explained < 1 else None,
        neuronpedia=found.neuronpedia_id[sae_id],
        scaled=found.norm_scaling_factor.get(sae_id),
    )


def _near(name: str, there: Iterable[str]) -> str:
    by_lower = {each.lower(): each for each in there}
    close = get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    return (
        f"did you mean {' or '.join(by_lower[each] for each in close)}?"
        if close
        else (f"there is {_few(list(by_lower.values()))}")
    )


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
