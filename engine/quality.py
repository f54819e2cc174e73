"""Says whether a text may be used, and if not, why. Pure functions on strings.

A verdict is None for a good text, or the first reason that holds: unparsed, refusal, truncated,
too_short, too_long, leak, pleasantry. Knows nothing of models, replies, rows or other texts.
"""

import re
from functools import lru_cache

from engine.unwrapping import unwrap
from stores.protocol import Bounds, Emotion, Protocol

MIN_TURNS = 4
LONG_REFUSAL = 150
"""A reply with more words may begin with regrets, but it holds texts too."""

_PLAIN = str.maketrans(
    dict.fromkeys("‘’ʼ`´＇", "'")
    | dict.fromkeys("‐‑‒–−﹣－", "-")
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff", "")
)
# Every sentence about the task has one of these; most texts have none and need no closer look.
_SIGNS = re.compile(
    r"stor|dialog|request|content|prompt|assist|comply|help with| ai\b|artificial|language model"
    r"|let me know|would you like|word count|note:|the word|emotion|feeling|\["
)
_SENTENCE = r"(?:^|(?<=[.!?:]\s))[*_(\[\#>\t\ ]*+"
_DECLINED = re.compile(
    rf"""{_SENTENCE} (?:(?:but|so|however|unfortunately|sorry|regrettably)[,.!]?\s+(?:but\s+)?)*
    (?:
        i(?:'m|\s+am)\s+(?:(?:so|very|really|just)\s+)?(?:sorry|afraid|unable|not\s+able)\b
      | i\s+(?:can't|cannot|can\s+not|won't|will\s+not|must\s+decline|apologi[sz]e)\b
    )[^.!?\n]{{0,80}}?
    (?:
        \b(?:writ(?:e|ing)|creat(?:e|ing)|generat(?:e|ing)|produc(?:e|ing)|provid(?:e|ing)
            |fulfil(?:l|ling)?|help\s+(?:you\s+)?with)\b
        [^.!?\n]{{0,60}}?(?<!\bthe\s)\b(?:stor(?:y|ies)|requests?|content|dialogues?|prompts?)\b
      | \b(?:this|that|your)\s(?:requests?|prompts?)\b
      | \b(?:stor(?:y|ies)|dialogues?)\s+(?:that\s+)?you\s+(?:asked|requested)
      | \b(?:assist|comply|help\s+(?:you\s+)?with\s+th(?:is|at))\b
    )
    | {_SENTENCE}(?:sorry|unfortunately|apologies)\b[^.!?\n]{{0,40}}\b(?:this|that|your)\srequest\b
    | \bas\s+an?\s+(?:ai|artificial\s+intelligence|(?:large\s+)?language\s+model)
        (?:\s+(?:language\s+)?(?:model|assistant|system))?,?\s+(?:i|it|my)\b
    | \bi(?:'m|\s+am)\s+(?:just\s+|only\s+)?an?\s+(?:ai|(?:large\s+)?language\s+model)\b""",
    re.MULTILINE | re.VERBOSE,
)
_COMMENTED = re.compile(
    rf"""{_SENTENCE} (?:
        (?:(?:sure|certainly|of\s+course|absolutely)[!,.]\s+)?here(?:'s|\s+is|\s+are)\s+
            (?:an?|your|another|the\s+requested|one|two|three|four|five|six|\d+)\b
            [^.!?\n]{{0,60}}\b(?:stor(?:y|ies)|dialogues?)\b
      | i\s+hope\s+(?:you|this|these)\b[^.!?\n]{{0,60}}\b(?:stor(?:y|ies)|dialogues?|requests?)\b
      | let\s+me\s+know\s+if\s+you(?:'d|\s+would|\s+want|\s+need)\b[^.!?\n]{{0,20}}
            \b(?:more|another|changes?|any|me\s+to|different)\b
      | would\s+you\s+like\s+(?:me\s+to|another\s+(?:story|dialogue))\b
      | (?:this|these|the\s+above)\s+(?:short\s+)?(?:stor(?:y|ies)|dialogues?)\s+(?:is\s+about|uses?
            |shows?|conveys?|explores?|captures?|illustrates?|avoids?|aims?|depicts?)\b
      | i(?:'ve|\s+have)\s+(?:avoided|tried\s+to\s+avoid|written)\s+(?:(?:using|to|about)\s+)?(?:the
            \s+(?:word|emotion|feeling)|(?:this|these|your|a|two|three)\s+(?:\w+\s+)?stor(?:y|ies))\b
      | word\s+count\s*:
      | note\s*:[^.!?\n]{{0,60}}\b(?:stor(?:y|ies)|dialogues?|the\s+(?:word|emotion|feeling))\b
    )
    | \[(?:insert|your|character)\s[\w\s]{{0,20}}\]""",
    re.MULTILINE | re.VERBOSE,
)
_MARKED = re.compile(r"^\W*(?:story|dialogue)\s*\d", re.IGNORECASE | re.MULTILINE)
_ENDING = re.compile(r"""(?:[.!?…。！？؟।]|[—–-](?=["'”’»]))["'”’»」)\]*_]*\Z""")
_TURN = re.compile(r"^(Person|AI):[ ]*(.*)$", re.MULTILINE)
_PLEASANTRY = re.compile(
    r"""\b(?:thanks|thank\s+you|hello|good\s+(?:morning|afternoon|evening|luck)
        |(?:great|good|excellent|interesting)\s+question|you(?:'re|\s+are)\s+welcome
        |(?:happy|glad|pleased|here)\s+to\s+help|glad\s+you|let\s+me\s+know\s+if
        |have\s+a\s+(?:nice|great|good|lovely)|hope\s+(?:this|that)\s+helps
        |i(?:'m|\s+am)\s+(?:so\s+|very\s+)?sorry|i\s+appreciate|my\s+apologies)\b
      | (?:^|:)\s*(?:hi|hey|sure|of\s+course|certainly|absolutely|sorry|no\s+problem
        |my\s+pleasure)\b""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def check_story(text: str, emotion: Emotion, protocol: Protocol, *, cut: bool) -> str | None:
    """Why this story may not be used, or None. `cut`: its reply was cut off within it."""
    verdict = _check_form(text, cut, protocol.bounds["stories"])
    if verdict is None and leak_pattern(emotion).search(_straighten(text)):
        return "leak"
    return verdict


def check_dialogue(text: str, protocol: Protocol, *, cut: bool) -> str | None:
    """Why this dialogue may not be used, or None: turns must alternate, a person beginning."""
    verdict = _check_form(text, cut, protocol.bounds.get("dialogues"))
    if verdict is not None:
        return verdict
    if not _alternates(text):
        return "unparsed"
    return "pleasantry" if _PLEASANTRY.search(_straighten(text)) else None


def is_refusal(reply: str) -> bool:
    """Whether a whole reply talks about the request instead of answering it."""
    if len(reply.split()) > LONG_REFUSAL:
        return False
    plain = _straighten(unwrap(reply))
    return not _MARKED.search(plain) and _speaks(plain, _DECLINED)


@lru_cache(maxsize=1024)
def leak_pattern(emotion: Emotion) -> re.Pattern[str]:
    """Matches the emotion, its forms and its synonyms as whole words, in any case.

    A hyphen, a space and nothing are one: "self-conscious" is found as "self conscious" too. Is
    meant for a text with plain apostrophes and hyphens.
    """
    phrases = sorted({emotion.name, *emotion.forms, *emotion.synonyms}, key=len, reverse=True)
    return re.compile(
        rf"(?<![^\W_])(?:{'|'.join(map(_variants, phrases))})(?![^\W_])", re.IGNORECASE
    )


def _variants(phrase: str) -> str:
    return r"[\s\-]*".join(map(re.escape, re.split(r"[\s\-]+", _straighten(phrase))))


def _straighten(text: str) -> str:
    """Typographic apostrophes and hyphens as the plain ones that the patterns are written in."""
    return text if text.isascii() else text.translate(_PLAIN)


def _speaks(plain: str, *patterns: re.Pattern[str]) -> bool:
    """Whether one of the patterns is found outside quotation marks, where no character speaks."""
    lower = plain.lower()
    if not _SIGNS.search(lower):
        return False
    return any(
        _is_outside_quotes(lower[: found.start()])
        for pattern in patterns
        for found in pattern.finditer(lower)
    )


def _is_outside_quotes(before: str) -> bool:
    return before.count('"') % 2 == 0 and before.count("“") <= before.count("”")


def _check_form(text: str, cut: bool, bounds: Bounds | None) -> str | None:
    if not text.strip():
        return "unparsed"
    plain = _straighten(text)
    if _speaks(plain, _DECLINED, _COMMENTED):
        return "refusal"
    if cut or not _ENDING.search(text.strip()):
        return "truncated"
    words = len(text.split())
    if bounds is not None and words < bounds.min_words:
        return "too_short"
    return "too_long" if bounds is not None and words > bounds.max_words else None


def _alternates(text: str) -> bool:
    turns = _TURN.findall(text)
    speakers = ["Person" if i % 2 == 0 else "AI" for i in range(len(turns))]
    return len(turns) >= MIN_TURNS and all(
        speaker == turn[0] and turn[1].strip()
        for speaker, turn in zip(speakers, turns, strict=True)
    )
