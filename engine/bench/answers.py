"""Stories and dialogues out of nothing, as fast as a server can send them.

Knows nothing of HTTP and of emotions: every text is a row of plain sentences about things that
stand in places, drawn by a hash, so that no two are alike and none names a feeling.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from random import Random

from engine.bench.vocabulary import (
    BANKS,
    FACTS,
    FIRST_QUESTIONS,
    GIVEN_NAMES,
    LINES,
    OPENERS,
    QUESTIONS,
)

_ASKED = re.compile(r"^How many (stories|dialogues): *(\d+)", re.MULTILINE)
_SLOT = re.compile(r"\{(\w+)\}")

Sentence = tuple[str, tuple[Sequence[str], ...]]
"""A sentence with %s for each slot, and the words that each slot may take."""


def answer(prompt: str, seed: int | None) -> str:
    """The stories or dialogues that the prompt asks for, each below its marker "[story 1]".

    A pure function of the prompt, and of the seed where one is given. How many and of which kind
    stands in the prompt ("How many stories: 3"); else it is one story. Each has 70-130 words.
    """
    asked = _ASKED.search(prompt)
    dialogues = asked is not None and asked[1] == "dialogues"
    write, marker = (_dialogue, "dialogue") if dialogues else (_story, "story")
    key = blake2b(f"{seed}\n{prompt}".encode(), digest_size=16).digest()
    rng = Random(int.from_bytes(key))
    texts = [write(rng) for _ in range(int(asked[2]) if asked else 1)]
    return "\n\n".join(f"[{marker} {i}]\n{text}" for i, text in enumerate(texts, start=1))


def _sentence(text: str) -> Sentence:
    return _SLOT.sub("%s", text), tuple(BANKS[slot] for slot in _SLOT.findall(text))


_STORY = tuple(map(_sentence, OPENERS)), tuple(map(_sentence, LINES))
_TALK = tuple(tuple(map(_sentence, row)) for row in (FIRST_QUESTIONS, QUESTIONS, FACTS))


def _story(rng: Random) -> str:
    first, rest = _STORY
    enough = rng.randrange(70, 113)
    lines = [_fill(rng.choice(first), rng)]
    while sum(line.count(" ") + 1 for line in lines) < enough:
        lines.append(_fill(rng.choice(rest), rng))
    return " ".join(lines).replace("@", rng.choice(GIVEN_NAMES))


def _dialogue(rng: Random) -> str:
    first, asks, tells = _TALK
    turns = [
        f"Person: {_fill(rng.choice(asks if i else first), rng)}\n"
        f"AI: {_fill(rng.choice(tells), rng)}"
        for i in range(3)
    ]
    return "\n".join(turns)


def _fill(sentence: Sentence, rng: Random) -> str:
    text, banks = sentence
    draw = rng.random
    filled = text % tuple([bank[int(draw() * len(bank))] for bank in banks])
    return filled[0].upper() + filled[1:]
