"""Files of a release: from the hub at one commit, or from its cache without asking; no pickles.

sae-lens' own loaders find their files through this while they are `pinned`. What the hub's library
raises becomes one line; its own words, which hold addresses, are never repeated. Knows nothing of
SAEs.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.features.library import loaders, quiet
from stores.errors import EngineError, ModelError, NoRoom, UsageError

READABLE = (".json", ".yaml", ".npz", ".safetensors")
UNUSED = "sparsity.safetensors"
"""How often features fire, which a loader asks the hub for whatever is in the cache."""
TIMEOUT_S = 10.0
TOKEN = "the token in HF_TOKEN"
LOCAL_COPY = "or give --path with a copy in the sae-lens format"
CONNECT = f"connect, {LOCAL_COPY}"


def resolve_commit(repo: str, path: str) -> str:
    """The newest commit in the hub's cache that holds this folder; else the newest on the hub.

    One that was loaded before stays the same until the cache is emptied, with a network or without.
    Raises what the hub's library does.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))
    cached = [each for each in cache.glob("snapshots/*") if (each / path).is_dir()]
    if cached:
        return max(cached, key=lambda each: each.stat().st_mtime).name
    if constants.is_offline_mode():
        raise OfflineModeIsEnabled
    hub = HfApi()
    found = hub.model_info(repo, timeout=TIMEOUT_S)
    if found.gated:
        hub.auth_check(repo)
    return str(found.sha)


@contextmanager
def pinned(commit: str) -> Iterator[None]:
    """sae-lens' loaders read files at this commit, and none that could be a pickle."""
    theirs = loaders()
    doors = {
        "hf_hub_download": _downloader(commit),
        "get_safetensors_tensor_shapes": _shapes(commit),
    }
    before = {name: getattr(theirs, name) for name in doors}
    for name, door in doors.items():
        setattr(theirs, name, door)
    try:
        with quiet():
            yield
    finally:
        for name, door in before.items():
            setattr(theirs, name, door)


@contextmanager
def asking(source: str, repo: str) -> Iterator[None]:
    """While files of `repo` are found and read: its library's errors as ours, one line each."""
    from huggingface_hub import utils
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]

    hub: Any = utils  # it does not say which of its names are for others
    shown = not hub.are_progress_bars_disabled()
    hub.disable_progress_bars()
    try:
        yield
    except (HTTPError, EntryNotFoundError, OSError) as error:
        raise _refusal(source, repo, error) from error
    finally:
        if shown:
            hub.enable_progress_bars()


def _downloader(commit: str) -> Any:
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    def download(repo_id: str, filename: str, **options: Any) -> str:
        cached = try_to_load_from_cache(repo_id, filename, revision=commit)
        if filename.endswith(UNUSED) or cached is _CACHED_NO_EXIST:
            raise EntryNotFoundError
        if not filename.endswith(READABLE):
            raise UsageError(
                f"{repo_id}: {filename} may be a pickle, which can run any code when it is read; "
                "convert it to the sae-lens format and give --path DIR"
            )
        return str(hf_hub_download(repo_id, filename, **(options | {"revision": commit})))

    return download


def _shapes(commit: str) -> Any:
    """Of the arrays in a safetensors file, by name: of its beginning alone where it is not here."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import SafetensorsParsingError

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        cached = try_to_load_from_cache(repo_id, filename, revision=commit)
        if isinstance(cached, str):
            return read_shapes(Path(cached))
        try:
            head = HfApi().parse_safetensors_file_metadata(repo_id, filename, revision=commit)
        except SafetensorsParsingError as error:
            raise ValueError(f"{filename} is no safetensors file") from error
        return {name: list(found.shape) for name, found in head.tensors.items()}

    return shapes


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Of the arrays in a safetensors file here, by name; raises what safetensors does."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _refusal(source: str, repo: str, error: Exception) -> EngineError:
    from huggingface_hub import constants, errors, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    match error:
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return NoRoom(
                f"{source}: no room for its files in {constants.HF_HUB_CACHE}; free some, or point "
                "HF_HOME elsewhere"
            )
        case errors.GatedRepoError():
            page = f"{constants.ENDPOINT}/{repo}"
            words = f"{repo} is gated: accept its terms at {page}, with the account of {TOKEN}"
        case errors.RepositoryNotFoundError():
            words = f"{repo} is not on the hub, or private: check {TOKEN}, {LOCAL_COPY}"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            words = f"{repo} is not in the hub's cache, and the hub cannot be reached: {CONNECT}"
        case errors.EntryNotFoundError():
            words = f"{repo} lacks a file of it: remove {repo} from the hub's cache and try again"
        case errors.HfHubHTTPError() if error.response.status_code == 401 and get_token():
            words = f"the hub does not know {TOKEN}: renew it"
        case errors.HfHubHTTPError():
            words = f"the hub answers {error.response.status_code}: try again later, {LOCAL_COPY}"
        case HTTPError() | ConnectionError() | TimeoutError():
            words = f"the hub cannot be reached ({type(error).__name__}): {CONNECT}"
        case _:
            words = (
                f"its files in {constants.HF_HUB_CACHE} cannot be read or written "
                f"({type(error).__name__}): check this folder, {LOCAL_COPY}"
            )
    return ModelError(f"{source}: {words}")
