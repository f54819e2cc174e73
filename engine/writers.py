"""Who writes the texts: the Gemini API or any OpenAI-compatible server; `loading` has local models.

A writer says who it is before anything is planned, and opens its backend only when a row is open.
Knows nothing of rows, prompts or checks; importing it loads neither torch nor a client.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from engine.backends.base import Backend
from engine.backends.faults import Endpoint, RetryPolicy
from stores.database import Connection


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes, as it stands with a run and with every text."""

    backend: str
    model: str
    revision: str | None
    settings: Mapping[str, Any]


class Writer(Protocol):
    """Something that can be asked for texts."""

    def identify(self) -> Identity:
        """Who it is. Raises ModelError or BackendError when it cannot write."""
        ...

    def open(self, conn: Connection, workers: int) -> Backend:
        """Its backend, with at most `workers` calls in flight at each endpoint."""
        ...


@dataclass(frozen=True, kw_only=True)
class RemoteWriter:
    """What the writers behind an API share."""

    model: str
    key: str = field(repr=False)
    timeout_s: float = 300.0
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def _open(
        self, backend: str, endpoints: Sequence[Callable[[], Endpoint]], workers: int
    ) -> Backend:
        from engine.backends.remote import RemoteBackend

        return RemoteBackend(
            backend,
            self.model,
            lambda: [make() for make in endpoints],
            workers=workers,
            policy=self.policy,
            rng=random.Random(),
        )


@dataclass(frozen=True, kw_only=True)
class GeminiWriter(RemoteWriter):
    """A model behind the Gemini API."""

    base_url: str | None = None
    thinking_budget: int | None = None

    def identify(self) -> Identity:
        """See `Writer`. Raises BackendError for an address that is none."""
        from engine.backends.connections import address

        place = None if self.base_url is None else address(self.base_url)
        settings = {"thinking_budget": self.thinking_budget, "base_url": place}
        return Identity("gemini", self.model, None, settings)

    def open(self, conn: Connection, workers: int) -> Backend:
        from engine.backends.gemini import GeminiEndpoint

        endpoint: Callable[[], Endpoint] = partial(
            GeminiEndpoint,
            self.model,
            self.key,
            base_url=self.base_url,
            timeout_s=self.timeout_s,
            thinking_budget=self.thinking_budget,
            workers=workers,
        )
        return self._open("gemini", [endpoint], workers)


@dataclass(frozen=True, kw_only=True)
class OpenAIWriter(RemoteWriter):
    """A model behind one or more OpenAI-compatible servers."""

    base_urls: tuple[str, ...]

    def identify(self) -> Identity:
        """See `Writer`. Raises BackendError for an address that is none."""
        from engine.backends.connections import address

        places = [address(url) for url in self.base_urls]
        return Identity("openai", self.model, None, {"base_urls": places})

    def open(self, conn: Connection, workers: int) -> Backend:
        from engine.backends.openai import OpenAIEndpoint

        endpoints: list[Callable[[], Endpoint]] = [
            partial(
                OpenAIEndpoint,
                self.model,
                self.key,
                base_url=url,
                timeout_s=self.timeout_s,
                workers=workers,
            )
            for url in self.base_urls
        ]
        return self._open("openai", endpoints, workers)
