"""The one small interface of everything that writes texts: requests in, replies out.

Knows nothing of emotions, rows or databases. A backend takes as many requests as it can work on,
answers in whatever order it finishes, each as soon as it is there, and keeps nothing.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "blocked", "unknown"]
"""Why an answer ended: by itself; at the token limit; withheld in whole or part by a filter; or for
a reason that this program does not know, which is never taken for success."""


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
    prompt_tokens: int | None
    output_tokens: int | None
    """Tokens of the answer itself, thinking not counted; None when the backend does not say."""
    latency_s: float
    thinking_tokens: int | None = None
    provider_reason: str | None = None
    """Why the answer ended, in the provider's own word: MAX_TOKENS, content_filter, ..."""
    response_id: str | None = None
    model_version: str | None = None
    """The model that answered, as the provider names it; may differ from the one asked for."""
    endpoint: str | None = None
    """Which server answered, without credentials."""
    final: bool = False
    """Asking the same again cannot help, as when the prompt itself is blocked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why the request of the same key got no reply, in one line; other requests go on."""

    key: int
    reason: str
    final: bool = False
    """Asking the same again cannot help, as when the prompt is longer than the context."""


class Requests(Protocol):
    """Where a backend takes its work from."""

    async def take(self, limit: int) -> list[Request]:
        """Up to `limit` requests, as soon as there is one; an empty list: there will be no more.

        Waits while nothing is left to ask for but an answer under way might still bring work.
        Cancelling it takes nothing. One call at a time.
        """
        ...


class Backend(Protocol):
    """A model that answers. `generate` yields one answer for each request taken, in any order.

    Closing or cancelling the iterator abandons what is unanswered. Raises BackendError when it
    cannot go on at all, after the answers that were under way.
    """

    name: str
    model: str
    revision: str | None
    mode: str
    """How it works on several requests: continuous, static (in batches) or remote."""
    in_process: bool
    """It works inside this process, so that a request can bring the process down."""

    def generate(self, requests: Requests) -> AsyncGenerator[Reply | Failure, None]: ...

    def note(self) -> str:
        """What a user should know right now, in a few words: a pause, a dead server; else ""."""
        ...
