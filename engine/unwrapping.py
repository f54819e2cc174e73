"""Takes a raw reply out of its wrapping: thoughts, code fences, tags, JSON, odd line ends.

What is left is plain lines in which every mark of a text's beginning or end looks like [story 2] or
[/story]. Pure functions on strings; knows nothing of what a story or a dialogue is made of.
"""

import json
import re

_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
_THOUGHT = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|plan)"
_THOUGHTS = re.compile(
    rf"""  <{_THOUGHT}>.*?</{_THOUGHT}>
      | \A(?:(?!<{_THOUGHT}>).)*</{_THOUGHT}>   # begun in the prompt
      | <{_THOUGHT}>.*\Z                        # never ended""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*\w*[ \t]*$", re.MULTILINE)
_NOUN = r"(?:story|dialogue|dialog|conversation)"
_TAG = re.compile(
    rf"<\s*(/?)\s*(?:new[ _-]?)?({_NOUN})[ _-]?(?:(\d+)|\s[^>\d]*(\d*)[^>]*)?\s*>", re.I
)
_TITLE_TAG = re.compile(r"<title\b[^>]*>.*?</title>", re.IGNORECASE | re.DOTALL)
_HEADING_TAG = re.compile(r"<h[1-6]\b[^>]*>(.*?)</h[1-6]>", re.IGNORECASE | re.DOTALL)
_OTHER_TAG = re.compile(
    r"</?(?:stories|dialogues|conversations|answers?|responses?|output|text|content|body|p|div|br)"
    r"\b[^>]*>",
    re.IGNORECASE,
)
# "... the end. [story 2] Then": no prose has such a mark after a sentence
_INLINE = re.compile(
    rf"(?<=[.!?…\"'”’)\]])[ \t]+(?=(?:[*_#]*\[|\*\*){_NOUN}[ ]?\#?\d+[ ]*[]:*])", re.IGNORECASE
)
# a marker that the reply ended in, or right after its brackets were opened
_CUT_MARKER = re.compile(r"\n[\s_]*(?:[*#]*\s*[\[<]|\*\*|#+\s)[^\]>*\n]{0,14}\Z")
_JSON = re.compile(r"(?:[^\n\[{]*\n)?\s*(?=\[\s*[\"{\[]|\{\s*\")")
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>[\[{]) | (?P<close>[\]}]) | , | -?[\d.]+ | true | false | null
      | "(?P<string>(?:[^"\\]|\\.)*+)(?:"|\Z)(?P<key>\s*:)?
    )""",
    re.DOTALL | re.VERBOSE,
)
_NO_TEXT = {"title", "id", "number", "index", "emotion", "feeling", "topic", "setting", "note"}
_NO_TEXT |= {"notes", "character", "name", "words", "word_count", "comment", "kind", "type"}


def unwrap(raw: str) -> str:
    """The reply's lines without thoughts, fences and tags; lines end in a line feed."""
    text = _LINE_END.sub("\n", raw).translate(_UNSEEN)
    if "<" in text:
        text = _THOUGHTS.sub("\n", text)
        text = _HEADING_TAG.sub(r"\n## \1\n", _TITLE_TAG.sub("\n", text))
        text = _OTHER_TAG.sub("\n", text)
        text = _TAG.sub(_as_marker, text)
    text = _INLINE.sub("\n", _FENCE.sub("", text)).strip()
    return _CUT_MARKER.sub("", text)


def read_json(text: str) -> list[str] | None:
    """The texts in a reply that is JSON, whole or cut off; None when it is not JSON.

    What is named a title, a topic, a note and the like is no text. JSON with a fault in its middle
    gives no text at all: who knows where one ends?
    """
    start = _JSON.match(text)
    if start is None:
        return None
    found: list[str] = []
    place, depth, key = start.end(), 0, ""
    while place < len(text) and (token := _TOKEN.match(text, place)):
        place = token.end()
        depth += (token["open"] is not None) - (token["close"] is not None)
        if token["key"]:
            key = _unescape(token["string"]).casefold()
        elif token["string"] is not None and key not in _NO_TEXT:
            found.append(_unescape(token["string"]))
    whole = depth == 0 or place >= len(text)
    return found if whole else []


def _unescape(string: str) -> str:
    try:
        return str(json.loads(f'"{string}"', strict=False))
    except ValueError:
        return string


def _as_marker(tag: re.Match[str]) -> str:
    number = tag[3] or tag[4]
    return f"\n[{tag[1]}{tag[2].lower()}{f' {number}' if number else ''}]\n"
