"""Makes one text out of the lines that hold it: without introduction, title, label and remark.

A story becomes one paragraph, a dialogue one line for each turn. Pure functions on strings; knows
nothing of how a reply is cut into texts.
"""

import re
from collections.abc import Sequence

PREAMBLE_WORDS = 40
TITLE_WORDS = 8
LABEL_WORDS = 25

RULE = re.compile(r"[\s\-*_=~#•·⁂❖+>|`–—]*")
"""A line without a word: a separator, or what is left of a decoration."""
_YES = r"(?:sure|certainly|of\ course|okay|ok|absolutely|al(?:l\ )?right|great|got\ it|gladly)"
_PREAMBLE = re.compile(
    rf"""[^\w"“'‘«]*(?:(?P<yes>{_YES}[,.!:])
      | (?P<self>i\ (?:wrote|have|will|can)\b|i['’](?:ve|ll|d)\b|let\ me\b)
      | (?:{_YES}|no\ problem|here(?:['’]s|\ is|\ are|\ you)|below|(?:the\ )?following|these\ are
        |as\ (?:you\ )?(?:requested|asked)|thanks?|happy\ to|both\ of\ these
        |the\ (?:stor(?:y|ies)|dialogues?)\ (?:you|below))\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_OF_THE_TASK = re.compile(
    r"\b(?:stor(?:y|ies)|dialogues?|conversations?|tales?|pieces?|requests?|drafts?)\b", re.I
)
_TO_THE_READER = re.compile(
    r"\b(?:here|below|you|your|requested|asked|wr(?:ite|ote|itten)|following)\b", re.IGNORECASE
)
_INTRODUCTION = re.compile(
    r"""(?:(?:sure|certainly|of\ course|okay|absolutely)[!,.]*\s+)?
        (?:here(?:['’]s|\ is|\ are)|below\ (?:is|are))\b[^:.!?\n]{0,120}
        \b(?:stor(?:y|ies)|dialogues?)\b[^:.!?\n]{0,120}:\s+""",
    re.IGNORECASE | re.VERBOSE,
)
_REMARK = re.compile(
    r"""[^\w"“‘«]*(?:
        (?:please\ )?let\ me\ know\ (?:if|what|whether|which)\b
      | (?:i\ )?hope\ (?:you|this|these|that|they)\b.*\b(?:stor(?:y|ies)|dialogues?|help
            |enjoy|useful|meets?|fits?|works?|looking\ for)
      | (?:please\ )?feel\ free\ to\b
      | (?:(?:would|do)\ you\ (?:like|want)|if\ you(?:['’]d|\ would)?\ (?:like|prefer|need|want))\b
            .*\b(?:stor(?:y|ies)|dialogues?|versions?|more|let\ me|write|adjust|different)\b
      | (?:author['’]?s?\ )?(?:notes?|disclaimer|explanation|analysis)\b[^:.]{0,40}:
      | (?:(?:total|approximate)\ )?word\ ?count\b
      | (?:approx\w*\.?\ |about\ |~)?\d+\ words\W*$
      | (?:these|each|all|both|every)\b[^.]{0,20}\b(?:stor(?:y|ies)|dialogues?)\b[^.]*\b(?:shows?
            |conveys?|avoids?|captures?|depicts?|expresse?s?|uses?|aims?|words?|feelings?|emotions?)\b
      | th(?:is|e)\ (?:story|dialogue)\ (?:shows?|conveys?|avoids?|captures?|illustrates?)\b
      | i(?:['’]ve|\ have)?\ (?:written|wrote|kept|avoided|tried|aimed|made\ sure|used)\b[^.]*
            \b(?:stor(?:y|ies)|dialogues?|words?|feelings?|emotions?)\b
      | (?:i['’]d\ be\ )?happy\ to\ (?:write|adjust|revise|help|make)\b
      | end\ of\ (?:the\ )?(?:stor(?:y|ies)|dialogues?|\d) | (?:the\ )?end\W*$
    ) | (?:\#\w+\s*)+$""",
    re.IGNORECASE | re.VERBOSE,
)
_LABEL = re.compile(
    r"""[^\w"“]*(?:title|(?:emotion|feeling)(?:\ \w+)?|topic|subject|setting|(?:main\ )?character
        |theme|genre|words|length|prompt)[*_]*\s*:[*_\s]*(?P<rest>.*)""",
    re.IGNORECASE | re.VERBOSE,
)
_OWN_NAME = re.compile(r"[*_]*(?:story|text)[*_]*:[*_]*\s+", re.IGNORECASE)
_HEADING = re.compile(r"\s*\#{1,6}\s+(?P<title>\S.*)")
_BOLD_LINE = re.compile(r"\s*(?P<mark>\*{1,3}|_{1,3})(?P<title>[^*_]+)(?P=mark):?\s*")
_BOLD_TITLE = re.compile(r"(?:\*\*|__)(?:[^*_]{1,80}(?::(?:\*\*|__)|(?:\*\*|__)\s*[:–—-]))\s*")
_SENTENCE_END = re.compile(r"""[.!?…:;,。！？؟।]["'”’»)\]*_]*\s*$""")
_WRAPS = (('"', '"'), ("“", "”"), ("«", "»"), ("**", "**"), ("*", "*"), ("_", "_"))

_PERSON = r"person|human|user"
_AI = r"ai(?:\ (?:model|assistant))?|assistant|model|chatbot"
SPEAKER_LINE = re.compile(
    rf"""[\s>*_•\-]*+(?:\(?\d{{1,2}}[.)]\s*)?[*_\[(]*+(?:(?P<person>{_PERSON})|(?P<ai>{_AI}))
        [\])]?[*_]*(?:\s*\([^)]{{0,40}}\))?[*_]*\s*[:：][*_]*(?P<words>.*)""",
    re.IGNORECASE | re.VERBOSE,
)
_SPEAKER_INSIDE = re.compile(
    r"(?<=\S)\s+(?:-\s+)?"
    r"(?=[*_]*(?:Person|PERSON|Human|User|AI(?: model| assistant)?|Assistant)[*_]*:)"
)


def tidy_story(lines: Sequence[str]) -> str:
    """One paragraph, maybe empty."""
    text = " ".join(" ".join(unquoted(trim(lines))).split())
    for lead in (_INTRODUCTION, _OWN_NAME, _BOLD_TITLE):
        if (found := lead.match(text)) and found.end() < len(text):
            text = text[found.end() :]
    return _unwrapped(text)


def tidy_dialogue(lines: Sequence[str]) -> str:
    """One line for each turn, "Person: ..." or "AI: ...", from the first speaker on.

    Lines that no speaker begins belong to the turn before. Without speakers it is one paragraph.
    """
    lines = [line for line in lines if not RULE.fullmatch(line)]
    if sum(SPEAKER_LINE.match(line) is not None for line in lines) < 2:
        lines = [turn for line in lines for turn in _SPEAKER_INSIDE.split(line)]
    while len(lines) > 1 and _REMARK.match(lines[-1]) and not SPEAKER_LINE.match(lines[-1]):
        lines = lines[:-1]
    turns: list[str] = []
    for line in lines:
        if spoken := SPEAKER_LINE.match(line):
            turns.append(f"{'Person' if spoken['person'] else 'AI'}: {spoken['words']}")
        elif turns:
            turns[-1] += f" {line}"
    return "\n".join(" ".join(turn.split()) for turn in turns or [" ".join(lines)])


def unquoted(lines: Sequence[str]) -> list[str]:
    """Lines of a block quotation without its signs; other lines as they are."""
    if all(line.startswith(">") for line in lines if line):
        return [line.lstrip("> ") for line in lines]
    return list(lines)


def trim(lines: Sequence[str]) -> list[str]:
    """The lines of a text without what introduces it and what is remarked after it.

    Empty lines stay between paragraphs. The last line left is never dropped, for it is the text,
    unless it can be nothing but an introduction or a title.
    """
    kept = ["" if RULE.fullmatch(line) else line.strip() for line in lines]
    while (kept := _without_blank_ends(kept)) and (n := _leading(kept)):
        kept = kept[n:]
    while len(kept := _without_blank_ends(kept)) > 1 and _is_remark(kept[-1]):
        kept = kept[:-1]
    return kept


def is_preamble(line: str) -> bool:
    """Whether a line speaks to whoever asked, before the first text."""
    begun, n = _PREAMBLE.match(line), len(line.split())
    if begun is None or n > PREAMBLE_WORDS:
        return False
    bare = line.rstrip("*_ ")
    if bare.endswith(":"):
        short = n <= 5 and not begun["self"]
        return short or begun["yes"] is not None or _OF_THE_TASK.search(line) is not None
    if n <= 3:
        return bare.endswith(("!", "."))
    return bool(_OF_THE_TASK.search(line) and _TO_THE_READER.search(line))


def is_aside(lines: Sequence[str]) -> bool:
    """Whether lines speak to whoever asked, and nothing else."""
    spoken = [line for line in lines if not RULE.fullmatch(line)]
    return all(is_preamble(line) or _is_remark(line) for line in spoken)


def is_title(line: str) -> bool:
    """Whether a line is set as a title: as a heading, or all of it bold."""
    if _HEADING.match(line):
        return True
    bold = _BOLD_LINE.fullmatch(line)
    if bold is None or len(bold["title"].split()) > TITLE_WORDS + 4:
        return False
    return len(bold["mark"]) > 1 or not _SENTENCE_END.search(bold["title"])


def is_plain_title(line: str, following: str) -> bool:
    """Whether a line in plain type is a title of what follows it: short, and no sentence."""
    words = line.split()
    if not 0 < len(words) <= TITLE_WORDS or _SENTENCE_END.search(line) or not line[0].isalnum():
        return False
    if not following:
        return not line[0].islower()
    if following[0].islower() or not line[0].isupper():
        return False
    return all(word[0].isupper() for word in words if len(word) > 3) and len(following) > 60


def _leading(lines: Sequence[str]) -> int:
    """How many lines of a trimmed text come before it begins."""
    first, alone = lines[0], len(lines) == 1
    label = _LABEL.match(first)
    if label and len(label["rest"].split()) <= LABEL_WORDS:
        return 1
    if is_preamble(first):
        return int(not alone or first.rstrip("*_ ").endswith(":"))
    if is_title(first):
        return 1
    end = lines.index("") if "" in lines else len(lines)
    if 1 < end < len(lines) and is_preamble(" ".join(lines[:end])) and lines[end - 1][-1] == ":":
        return end
    return int(not alone and is_plain_title(first, lines[1]))


def _is_remark(line: str) -> bool:
    if label := _LABEL.match(line):
        return len(label["rest"].split()) <= LABEL_WORDS
    return bool(_REMARK.match(line))


def _without_blank_ends(lines: list[str]) -> list[str]:
    filled = [i for i, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def _unwrapped(text: str) -> str:
    """A text without the one pair of quotation marks, or of stars, that it stands in."""
    for opening, closing in _WRAPS:
        inner = text.removeprefix(opening).removesuffix(closing)
        whole = len(text) - len(inner) == len(opening + closing)
        if whole and opening not in inner and closing not in inner:
            return inner.strip()
    return text
