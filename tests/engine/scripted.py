"""A backend that answers from a script, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from engine.backends.base import Failure, Reply, Request
from engine.generation import GenerationSettings
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
    batch=4,
    limit=None,
    temperature=1.0,
    top_p=1.0,
    max_tokens=50,
)


def reply_to(request: Request, text: str, finish_reason: str = "stop") -> Reply:
    """A reply as a backend would make it."""
    return Reply(
        key=request.key,
        text=text,
        finish_reason="length" if finish_reason == "length" else "stop",
        prompt_tokens=3,
        output_tokens=len(text.split()),
        latency_s=0.5,
    )


def good(request: Request) -> Reply:
    """A story that passes every check and is like no other."""
    return reply_to(request, f"[story 1]\nNumber {request.key} went home at last.")


class ScriptedBackend:
    """Answers each request by the script: an answer, a pause in seconds, or nothing (None)."""

    name, model, revision = "scripted", "scripted-1", "r1"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Request] = []

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Reply | Failure, None]:
        self.asked += requests
        for request in requests:
            answer = self.script(request)
            while isinstance(answer, float):
                await asyncio.sleep(answer)
                answer = self.script(request)
            if answer is not None:
                yield answer
