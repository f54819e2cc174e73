"""The one small interface of everything that writes texts: requests in, replies out.

Knows nothing of emotions, rows or databases. A backend answers in whatever order it finishes, each
reply as soon as it is there, and keeps nothing.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "blocked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One user turn to be answered. The backend applies the chat template of its model."""

    key: int
    prompt: str
    seed: int
    max_tokens: int
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for the request of the same key, before anything parsed it."""

    key: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why the request of the same key got no reply, in one line; other requests go on."""

    key: int
    reason: str


class Backend(Protocol):
    """A model that answers. `generate` yields one answer for each request, in any order.

    Closing or cancelling the iterator abandons what is unanswered. Raises BackendError when it
    cannot go on at all.
    """

    name: str
    model: str
    revision: str

    def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Reply | Failure, None]: ...
