"""An answer as it should be, and spoilt as a fault wants it.

Knows nothing of HTTP and of either service.
"""

from collections.abc import Mapping

from engine.bench.answers import answer
from engine.bench.dialects import TOKEN_CHARACTERS, Asked, Finish, Said
from engine.bench.script import Script

REFUSAL = "I'm sorry, but I can't write a story on this subject."
JUNK = '{"state": "ready"}\n0 0 0 0\n~~~'


_INSTEAD: Mapping[str | None, Said | None] = {
    "empty_candidates": None,
    "empty_text": Said("", "stop"),
    "recitation": Said(None, "recitation"),
    "refusal_text": Said(REFUSAL, "stop"),
    "junk_text": Said(JUNK, "stop"),
}


def say(fault: str | None, asked: Asked, script: Script) -> Said | None:
    """The answer, as the fault leaves it; None: not even an empty one."""
    if fault in _INSTEAD:
        return _INSTEAD[fault]
    text, finish = _within_limit(
        asked, answer(asked.prompt, asked.seed if script.by_seed else None)
    )
    if fault == "token_limit":
        return Said(_cut_last(text), "length")
    if fault == "blocked_answer":
        partly = script.draw(asked.prompt, "partly") < 0.5
        return Said(_cut_last(text) if partly else None, "safety")
    return Said(text, "unknown" if fault == "unknown_finish" else finish)


def _within_limit(asked: Asked, text: str) -> tuple[str, Finish]:
    limit = TOKEN_CHARACTERS * (asked.max_tokens or len(text))
    return (text, "stop") if len(text) <= limit else (text[:limit], "length")


def _cut_last(text: str) -> str:
    """The text without the second half of what follows its last marker, and no full stop."""
    start = max(text.rfind("[story "), text.rfind("[dialogue "), 0)
    return text[: (start + len(text)) // 2].rstrip(' .?"\n')
