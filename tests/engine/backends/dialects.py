"""Both endpoints, opened the same way."""

from engine.backends.faults import Endpoint
from engine.backends.gemini import GeminiEndpoint
from engine.backends.openai import OpenAIEndpoint
from tests.engine.backends.canned import KEY


def open_gemini(
    url: str,
    *,
    key: str = KEY,
    workers: int = 64,
    timeout_s: float = 10.0,
    thinking_budget: int | None = None,
) -> Endpoint:
    return GeminiEndpoint(
        "loopback",
        key,
        base_url=url,
        workers=workers,
        timeout_s=timeout_s,
        thinking_budget=thinking_budget,
    )


def open_openai(
    url: str, *, key: str = KEY, workers: int = 64, timeout_s: float = 10.0
) -> Endpoint:
    return OpenAIEndpoint(
        "loopback", key, base_url=f"{url}/v1", workers=workers, timeout_s=timeout_s
    )


DIALECTS = {"gemini": open_gemini, "openai": open_openai}
