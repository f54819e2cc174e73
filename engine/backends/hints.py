"""Reads how long a server asks to wait. Knows no server and never waits."""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd]|)")
_DECADES_S = 6e8


def asked_delay(headers: Mapping[str, str]) -> float | None:
    """How many seconds the headers of an answer ask to wait; None if they do not say.

    When a limit is whole again counts only if nothing else is said and the limit is used up.
    """
    milliseconds = headers.get("retry-after-ms")
    asked = seconds(milliseconds and f"{milliseconds}ms") or seconds(headers.get("retry-after"))
    resets = (
        seconds(headers.get(f"x-ratelimit-reset{limit}"))
        for limit in ("", "-requests", "-tokens")
        if headers.get(f"x-ratelimit-remaining{limit}", "0") == "0"
    )
    return longest(*resets) if asked is None else asked


def seconds(text: str | None) -> float | None:
    """The time from now in "12", "1.5s", "6m0s", "20ms", a date, or seconds or ms since 1970.

    None for anything else, and for a time that has passed.
    """
    text = (text or "").strip()
    parts = list(_PART.finditer(text))
    if parts and "".join(part[0] for part in parts) == text:
        wait = sum(float(part[1]) * _UNITS[part[2]] for part in parts)
        if wait > _DECADES_S * 1000:
            wait /= 1000
        if wait > _DECADES_S:
            wait -= time.time()
    else:
        wait = _until(text)
    return wait if math.isfinite(wait) and wait > 0 else None


def longest(*delays: float | None) -> float | None:
    """The longest of the delays that are known."""
    return max((delay for delay in delays if delay is not None), default=None)


def _until(date: str) -> float:
    """Seconds until a date as HTTP writes it; 0 if it is none."""
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
