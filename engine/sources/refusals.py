"""What the hub's libraries raise and report, as one line each of ours.

Their own messages are never repeated: they hold addresses, some of them signed. Knows nothing of
what is read.
"""

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from stores.errors import EngineError, UsageError

Row = dict[str, Any]

ATTEMPTS = 2
"""Of the loader, at each open and read; the hub's library tries six times within each."""
LOCAL_COPY = "or project a local copy with `project PATH`"


def require_loader() -> None:
    """Raises EngineError when a package that reads from the hub is missing."""
    for package in ("datasets", "zstandard"):
        if find_spec(package) is None:
            raise EngineError(
                f"the hub is read with the package {package}, which is missing; "
                f"pip install {package}, {LOCAL_COPY}"
            )


@contextmanager
def muted() -> Iterator[None]:
    """No bars and no warnings from the hub's libraries, which give up within minutes, not hours."""
    import datasets
    import huggingface_hub.utils as hub

    loggers = (datasets.logging, hub.logging)
    levels = [each.get_verbosity() for each in loggers]
    bars = [library.are_progress_bars_disabled() for library in (datasets, hub)]
    limits = ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_READ_MAX_RETRIES")
    before = {limit: getattr(datasets.config, limit) for limit in limits}
    for each in loggers:
        each.set_verbosity(each.CRITICAL)
    for library in (datasets, hub):
        library.disable_progress_bars()
    for limit in limits:
        setattr(datasets.config, limit, ATTEMPTS)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.set_verbosity(level)
        for library, were_off in zip((datasets, hub), bars, strict=True):
            if not were_off:
                library.enable_progress_bars()
        for limit, attempts in before.items():
            setattr(datasets.config, limit, attempts)


@contextmanager
def asking(dataset: str) -> Iterator[None]:
    """While a data set is found and its first rows are read."""
    try:
        yield
    except _expected() as error:
        raise _refusal(dataset, error) from error


@contextmanager
def streaming(dataset: str, seen: int) -> Iterator[None]:
    """While documents come, of which `seen` have come."""
    try:
        yield
    except _expected() as error:
        if _is_network(error):
            raise EngineError(
                f"{dataset}: the connection to the hub was lost after {seen:,} documents "
                f"({_kind(_cause(error))}): run it again, {LOCAL_COPY}"
            ) from error
        raise EngineError(
            f"{dataset}: what comes after {seen:,} documents cannot be read ({_kind(error)}): "
            "a file on the hub may be damaged; try another --seed, or project a local copy"
        ) from error


@contextmanager
def left(rows: Generator[Row]) -> Iterator[Generator[Row]]:
    """Rows that need not be read to their end."""
    try:
        yield rows
    finally:
        # the loader reads ahead in threads, and Python reports what goes wrong with rows that
        # nobody asked for as an exception that it ignored
        before, expected = sys.unraisablehook, _expected()
        sys.unraisablehook = lambda told: (
            None if isinstance(told.exc_value, expected) else before(told)
        )
        try:
            rows.close()
        finally:
            sys.unraisablehook = before


def _expected() -> tuple[type[Exception], ...]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
    from zstandard import ZstdError

    # ValueError includes Arrow's and JSON's; StopIteration is what an empty file gives
    kinds = (HTTPError, DatasetsError, ZstdError, OSError, ValueError, TypeError, RuntimeError)
    return (*kinds, ImportError, KeyError, EOFError, StopIteration)


def _is_network(error: Exception) -> bool:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _cause(error: Exception) -> Exception:
    """What the hub answered, where the loader speaks of a lost connection in the end."""
    from huggingface_hub import errors

    return error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error


def _refusal(dataset: str, raised: Exception) -> EngineError:
    from huggingface_hub import errors, get_token

    error, known = _cause(raised), get_token() is not None
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    kind: type[EngineError] = EngineError
    match error:
        case errors.OfflineModeIsEnabled():
            words = (
                "the hub cannot be reached: HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set; unset "
                f"it, {LOCAL_COPY}"
            )
        case errors.RevisionNotFoundError():
            kind, words = UsageError, "has no such revision; correct --hub-revision"
        case errors.GatedRepoError():
            words = _closed_gate(dataset)
        case errors.RepositoryNotFoundError():
            kind = UsageError
            words = (
                "no such data set on the hub, or a private one: check the name, and HF_TOKEN if "
                "it is private"
            )
        case errors.HFValidationError():
            kind, words = UsageError, "is no name of a data set; write hub:OWNER/NAME"
        case errors.HfHubHTTPError() if status == 401 and known:
            words = "the hub does not know the token in HF_TOKEN: renew it"
        case errors.HfHubHTTPError() if status == 403 and known:
            words = _closed_gate(dataset)
        case errors.HfHubHTTPError():
            words = f"the hub answers {status}: try again later, {LOCAL_COPY}"
        case _ if _is_network(error):
            words = f"the hub cannot be reached ({_kind(error)}): connect, {LOCAL_COPY}"
        case _:
            words = (
                f"holds nothing that can be read as documents ({_kind(error)}): download it, "
                "and project its files with `project PATH`"
            )
    return kind(f"{dataset}: {words}")


def _closed_gate(dataset: str) -> str:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/datasets/{dataset}"
    if get_token() is None:
        return (
            f"is gated, and no token was found: accept its terms at {page} and put your token "
            "into HF_TOKEN"
        )
    return (
        f"is gated, and the token in HF_TOKEN is not let in: accept the terms at {page} with the "
        "account of that token, which must be allowed to read gated data sets"
    )


def _kind(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return f"it answers {error.response.status_code}"
    return type(error).__name__
