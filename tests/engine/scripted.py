"""A backend that answers from a script, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from engine.backends.base import Failure, FinishReason, Reply, Request, Requests
from engine.settings import GenerationSettings
from tests.engine.protocols import EMOTIONS, TOPICS

Script = Callable[[Request], "Reply | Failure | float | None"]


SETTINGS = GenerationSettings(
    corpus="toy",
    kind="stories",
    emotions=EMOTIONS,
    topics=TOPICS,
    per_topic=2,
    seed=0,
    max_attempts=3,
    workers=4,
    limit=None,
    temperature=1.0,
    top_p=1.0,
    max_tokens=50,
)


def reply_to(request: Request, text: str, finish_reason: FinishReason = "stop") -> Reply:
    """A reply as a backend would make it."""
    return Reply(
        key=request.key,
        text=text,
        finish_reason=finish_reason,
        prompt_tokens=3,
        output_tokens=len(text.split()),
        latency_s=0.5,
    )


def good(request: Request) -> Reply:
    """A story that passes every check and is like no other."""
    return reply_to(request, f"[story 1]\nNumber {request.key} went home at last.")


class ScriptedBackend:
    """Answers each request by the script: an answer, a pause in seconds, or nothing (None)."""

    name, model, mode, in_process = "scripted", "scripted-1", "static", True
    revision: str | None = "r1"

    def __init__(self, script: Script, at_once: int = 4) -> None:
        self.script = script
        self.at_once = at_once
        self.asked: list[Request] = []

    async def generate(self, requests: Requests) -> AsyncGenerator[Reply | Failure, None]:
        """`at_once` in a row, one after the other; after a silence the rest is forgotten too."""
        silent = False
        while not silent and (taken := await requests.take(self.at_once)):
            self.asked += taken
            for request in taken:
                answer = self.script(request)
                while isinstance(answer, float):
                    await asyncio.sleep(answer)
                    answer = self.script(request)
                if answer is not None:
                    yield answer
                silent |= answer is None

    def note(self) -> str:
        return ""
