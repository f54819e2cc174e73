"""Cuts a raw reply into texts and says whether a text may be used. Pure functions on strings.

Knows nothing of models, rows or attempts. A verdict is None for a good text, or the reason that the
ledger keeps: blocked, unparsed, refusal, truncated, too_short, too_long, leak, pleasantry. That a
text is a duplicate only the caller can know, by its fingerprint.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from stores.protocol import Bounds, Emotion, Protocol
from stores.texts import Kind

MIN_TURNS = 4
PREAMBLE_WORDS = 30

_MARKER = re.compile(
    r"""^[ \t]*(?:
        [*_#\s]*\[\s*(?:story|dialogue|conversation)\s*\d*\s*\][*_:]*     # [story 1]
      | <\s*new[ _]?(?:story|dialogue)\s*>                                # <NEW STORY>
      | [*_#\s]*(?:story|dialogue|conversation)\s*\#?\d+\b[^\n]*$         # ## Story 1: a title
      | (?:\*\*|\#+)\s*\d+[.)]?[^\n]*$                                    # **1. A title**
      | \d+[.)](?=\s)                                                     # 1.
      | [-*_=]{3,}[ \t]*$                                                 # ---
    )""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_PREAMBLE = re.compile(
    r"(?:sure|certainly|of course|okay|ok|absolutely|here(?:['’]s| is| are))\b[^\n]*:\s*$",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"""\W*(?:
        (?:i\s*(?:'m|am)\s+(?:(?:so|very|really|truly)\s+)?(?:sorry|afraid|unable|not\s+able)
          |i\s+(?:can(?:'t|not)|can\s+not|won't|will\s+not|must\s+decline|apologi[sz]e)
          |sorry\b|unfortunately)
        [^\n]{0,160}\b(?:stor(?:y|ies)|requests?|content|dialogues?|prompt|comply|assist)\b
      | as\s+an?\s+(?:ai|artificial|(?:large\s+)?language\s+model)\b
      | i\s*(?:'m|am)\s+(?:just\s+)?an?\s+(?:ai|(?:large\s+)?language\s+model)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_ENDING = re.compile(r"[.!?…。][\"'”’»)\]*_]*\Z")
_SPEAKER = re.compile(r"(?<!\S)[*_]*(Person|Human|User|AI|Assistant)[*_]*:[*_]*")
_PEOPLE = ("Person", "Human", "User")
_PLEASANTRY = re.compile(
    r"""\b(?:thanks|thank\s+you|hello|good\s+(?:morning|afternoon|evening)|great\s+question
        |you(?:'re|\s+are)\s+welcome|(?:happy|glad|pleased|here)\s+to\s+help|glad\s+you
        |let\s+me\s+know\s+if|have\s+a\s+(?:nice|great|good|lovely))\b
      | (?:^|:)\s*(?:hi|hey|sure|of\s+course|certainly|absolutely)\b""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def split_reply(text: str, kind: Kind) -> list[str]:
    """The texts of a reply in order, without markers, headings and preamble; maybe none.

    Where there are markers, only what follows one is a text, unless what precedes the first one is
    too long for a preamble. A story becomes one paragraph; a dialogue keeps its lines.
    """
    parts = _MARKER.split(text.strip())
    if len(parts) > 1 and len(parts[0].split()) <= PREAMBLE_WORDS:
        parts = parts[1:]
    tidy = _tidy_story if kind == "stories" else _tidy_dialogue
    return [found for part in parts if (found := tidy(part))]


def check_story(text: str, emotion: Emotion, protocol: Protocol, finish_reason: str) -> str | None:
    """Why this story may not be used, or None."""
    verdict = _check_form(text, finish_reason, protocol.bounds["stories"])
    if verdict is None and leak_pattern(emotion).search(_straighten(text)):
        return "leak"
    return verdict


def check_dialogue(text: str, protocol: Protocol, finish_reason: str) -> str | None:
    """Why this dialogue may not be used, or None: turns must alternate, a person beginning."""
    verdict = _check_form(text, finish_reason, protocol.bounds.get("dialogues"))
    if verdict is not None:
        return verdict
    if not _alternates(_SPEAKER.findall(text)):
        return "unparsed"
    return "pleasantry" if _PLEASANTRY.search(_straighten(text)) else None


@lru_cache(maxsize=1024)
def leak_pattern(emotion: Emotion) -> re.Pattern[str]:
    """Matches the emotion, its forms and its synonyms as whole words, in any case.

    A hyphen, a space and nothing are one: "self-conscious" is found as "self conscious" too.
    """
    phrases = sorted({emotion.name, *emotion.forms, *emotion.synonyms}, key=len, reverse=True)
    return re.compile(
        rf"(?<![^\W_])(?:{'|'.join(map(_variants, phrases))})(?![^\W_])", re.IGNORECASE
    )


def text_fingerprint(text: str) -> bytes:
    """Equal for texts that differ only in case, punctuation and spacing; 16 bytes."""
    words = " ".join(re.findall(r"\w+", _straighten(text).casefold()))
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


def _variants(phrase: str) -> str:
    return r"[\s\-]*".join(map(re.escape, re.split(r"[\s\-]+", _straighten(phrase))))


def _straighten(text: str) -> str:
    """Typographic apostrophes and hyphens as the plain ones that the patterns are written in."""
    return text.translate({0x2019: "'", 0x2018: "'", 0x2010: "-", 0x2011: "-", 0x00AD: None})


def _tidy_story(part: str) -> str:
    lines = [line.strip() for line in part.strip().splitlines() if line.strip()]
    if lines and (_PREAMBLE.match(lines[0]) or _is_heading(lines[0])):
        lines = lines[1:]
    return " ".join(" ".join(lines).split())


def _is_heading(line: str) -> bool:
    whole_line_bold = line.startswith("**") and line.endswith("**")
    return line.startswith("#") or whole_line_bold or line.lower().startswith("title:")


def _tidy_dialogue(part: str) -> str:
    """One line for each turn, from the first speaker on."""
    first = _SPEAKER.search(part)
    if first is None:
        return " ".join(part.split())
    pieces = _SPEAKER.split(part[first.start() :])[1:]
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return "\n".join(f"{speaker}: {' '.join(words.split())}" for speaker, words in turns)


def _check_form(text: str, finish_reason: str, bounds: Bounds | None) -> str | None:
    if finish_reason == "blocked":
        return "blocked"
    if not text.strip():
        return "unparsed"
    if _REFUSAL.match(_straighten(text)):
        return "refusal"
    if finish_reason == "length" or not _ENDING.search(text.strip()):
        return "truncated"
    words = len(text.split())
    if bounds is not None and words < bounds.min_words:
        return "too_short"
    return "too_long" if bounds is not None and words > bounds.max_words else None


def _alternates(speakers: Iterable[str]) -> bool:
    people = [speaker in _PEOPLE for speaker in speakers]
    return len(people) >= MIN_TURNS and people == [i % 2 == 0 for i in range(len(people))]
