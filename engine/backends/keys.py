"""Where API keys come from, and how they are kept out of everything that is written down.

Knows no provider. A key is read once, given to a client and never stored.
"""

import json
import os
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote, quote_plus

from stores.errors import BackendError

ENV_FILE = Path(".env")
HIDDEN = "[key]"
LONGEST = 300
TELLING = 8
"""So many leading characters of a key are enough to know it by, so they are removed as well."""


def read_key(*names: str, env_file: Path = ENV_FILE, default: str | None = None) -> str:
    """The first of these variables that is set, in the environment or else in a `.env` file.

    Raises BackendError when none is and there is no default, or when the file cannot be read.
    """
    for values in (os.environ, _read_env_file(env_file)):
        for name in names:
            if key := (values.get(name) or "").strip():
                return key
    if default is not None:
        return default
    raise BackendError(
        f"no API key: set {' or '.join(names)} in the environment, "
        f"or write {names[0]}=... into {env_file}"
    )


def scrub(text: str, secrets: Iterable[str]) -> str:
    """The text on one line of at most 300 characters, every secret replaced by [key].

    Secrets are found as they are, quoted for a URL or for JSON, in base64, and when only a
    beginning of at least 8 characters is there; capitals and small letters count as the same.
    """
    line = _hide(" ".join(text.split()), {form for secret in secrets for form in _forms(secret)})
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def _read_env_file(path: Path) -> dict[str, str | None]:
    from dotenv import dotenv_values

    try:
        return dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except OSError as error:
        raise BackendError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BackendError(f"{path}: is not UTF-8; save the file as UTF-8") from None


def _forms(secret: str) -> Iterator[str]:
    """The ways in which a secret may be written."""
    plain = " ".join(secret.split())
    if not plain:
        return
    yield plain
    encoded = [quote(plain), quote_plus(plain), json.dumps(plain)[1:-1]]
    yield from (form for form in [*encoded, *_base64(secret)] if len(form) >= TELLING)


def _base64(secret: str) -> Iterator[str]:
    """A secret in base64, also as the end of something longer such as "user:secret".

    What stands before it shifts it by 0, 1 or 2 bytes and shares up to three characters with it.
    """
    for shift, shared in enumerate((0, 2, 3)):
        coded = b64encode(b"\0" * shift + secret.encode()).decode()[shared:]
        yield from (coded, coded.replace("+", "-").replace("/", "_"))


def _hide(text: str, forms: Collection[str]) -> str:
    """The text without any form or telling beginning of one, as much of it as is there."""
    if not forms:
        return text
    beginnings = re.compile("|".join(re.escape(form[:TELLING]) for form in forms), re.IGNORECASE)
    kept, end = [], 0
    while found := beginnings.search(text, end):
        kept.append(text[end : found.start()])
        end = found.start() + max(_shared(form, text[found.start() :]) for form in forms)
    return HIDDEN.join([*kept, text[end:]])


def _shared(one: str, other: str) -> int:
    """How many leading characters two texts share."""
    pairs = zip(one.lower(), other.lower(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
