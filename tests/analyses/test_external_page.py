"""Laws of the pages of other people's texts: whatever a text holds is shown as text, and in order.

Where a Chromium is installed, a page is opened in it.
"""

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.base import Rows
from analyses.external_page import pages
from analyses.markup import LEVELS, STYLE, mark, plain, visible
from stores.results import Table
from tests.analyses.external_sheets import ABOUT, LAYER, SETTINGS, external_rows, judged
from tests.analyses.sheets import ODD_NAMES, words

CHROMIUM = shutil.which("chromium")
HOSTILE = (
    "<script>document.title='pwned'</script>",
    "</p></li></ol></section><h1>mine</h1><style>*{display:none}</style>",
    '" onmouseover="alert(1)" \'><img src=x onerror=alert(1)>',
    "&lt;b&gt; &amp; &#60; &nbsp &",
    "]]> --> <!-- </style> </title> <![CDATA[",
    "{source} {0} {x!r} %s %(a)s",
    "\x00\x01\x1b[31m\x7f\x9b",
    "\u202eright to left\u2066\u2069\u200f\u061c",
    "\ud83d alone \udc00",
    "\u2028\u2029\ufeff\u200b\U000e0041",
    "\n\r\n\t",
    "x" * 10_000,
    *ODD_NAMES,
)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "nav", "a", "section"),
    *("ol", "li", "i", "u", "details", "summary"),
}


class Reading(HTMLParser):
    """The tags of a page with their attributes, and the text in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[Any, ...]]] = []
        self.texts: list[str] = []
        self.comments: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def holding(text: str, heat: float = 5.0) -> Rows:
    """Rows that hold `text` wherever others have a say, one window of one token an emotion."""
    cells = {
        **{"place": text, "part": text, "beginning": text, "z": None},
        **{"tokens": json.dumps([text, "b"]), "heat": json.dumps([heat, 5.0])},
    }
    rows = external_rows(("pile",), words(3), snippets=1, changes=cells)
    named = dict.fromkeys(("reader", "corpus", "concept", "layer_note", "note"), text)
    about = ABOUT | {"source": "pile", "origin": text, "offset": text}
    replaced = {
        "settings": Table("settings", ("setting", "value"), tuple((SETTINGS | named).items())),
        "sources": Table("sources", tuple(about), (tuple(about.values()),)),
    }
    return judged(Rows((), tuple(replaced.get(each.name, each) for each in rows.tables)), "pile")


def page_of(rows: Rows, source: str = "pile") -> str:
    return pages(rows)[f"snippets.{source}"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_text_holds_is_shown_as_text(text: str) -> None:
    page, harmless = Reading(page_of(holding(text))), Reading(page_of(holding("word")))
    assert page.tags == harmless.tags
    assert page.comments == []
    shown = visible(text[:79])
    assert page.text.count(shown) >= harmless.text.count("word")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_an_emotion_of_any_name_is_shown_as_text(text: str) -> None:
    odd, plain_words = (
        Reading(page_of(external_rows(("pile",), (name, "calm"), snippets=1)))
        for name in (text, "word")
    )
    assert [tag for tag, _ in odd.tags] == [tag for tag, _ in plain_words.tags]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_page_holds_nothing_that_cannot_be_seen_or_stored(text: str) -> None:
    page = page_of(holding(text))
    assert page.encode().decode() == page
    assert not [each for each in page if not each.isprintable() and each != "\n"]


def test_nothing_is_run_or_loaded() -> None:
    page = page_of(judged(external_rows(), "pile"))
    tags = Reading(page).tags
    assert {tag for tag, _ in tags} == TAGS
    attributes = [(name, value) for _, attrs in tags for name, value in attrs]
    assert {name for name, _ in attributes} == {
        *("lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "dir"),
    }
    assert all(value.startswith("#") for name, value in attributes if name == "href")
    assert not re.search(r"url\(|@import|https?:|//", page)
    metas = [dict(attrs) for tag, attrs in tags if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    assert metas[1]["http-equiv"] == "Content-Security-Policy"
    assert metas[1]["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_a_page_says_what_was_read_and_warns() -> None:
    found = pages(external_rows(("pile", "lmsys")))
    assert sorted(found) == ["snippets.lmsys", "snippets.pile"]
    text = " ".join(Reading(found["snippets.lmsys"]).text.split())
    assert "lmsys, reader toy, corpus main, layer 3" in text
    assert "Reader toy, corpus main, layer 3." in text
    assert "4,990 documents of lmsys with 700,123 tokens, seed 11" in text
    assert str(ABOUT["offset"]) in text
    assert "toy model, planted geometry" in text
    assert "other people's and shown as they were found, unfiltered" in text
    real = {"labels": "editorial", "note": None}
    rows = external_rows(("pile",))
    settings = Table("settings", ("setting", "value"), tuple((SETTINGS | real).items()))
    others = [table for table in rows.tables if table.name != "settings"]
    assert "toy model" not in page_of(Rows((), (settings, *others)))


def test_each_token_has_the_background_of_its_quantile() -> None:
    """Thresholds of the sheet: 0, 1, 1.6, 1.8, 1.96, 1.996."""
    heat = [-9.0, 0.0, 0.1, 1.1, 1.6, 1.7, 1.9, 1.97, 1.999, 9.0]
    tokens = [f"t{i}" for i in range(len(heat))]
    cells = {"tokens": json.dumps(tokens), "heat": json.dumps(heat)}
    page = page_of(external_rows(("pile",), words(2), snippets=1, changes=cells))
    wanted = (
        "t0t1<i class=a>t2</i><i class=b>t3</i><i class=b>t4</i><u class=c>t5</u>"
        "<u class=d>t6</u><u class=e>t7</u><u class=f>t8</u><u class=f>t9</u>"
    )
    assert page.count(wanted) == 2


def test_the_text_of_a_window_is_that_of_its_tokens() -> None:
    rows = external_rows(("pile",), words(2), snippets=3)
    text = Reading(page_of(rows)).text
    for row in rows.records("snippets", LAYER):
        assert "".join(json.loads(str(row["tokens"]))) in text


def test_no_text_can_end_an_attribute_or_a_tag() -> None:
    assert not set(plain("<a \"b\" 'c'>")) & set("<>\"'")


def test_a_token_without_text_of_its_own_takes_no_room() -> None:
    assert mark("", 6) == ""
    assert plain("\U0001f469\u200d\U0001f680 \u00a0ok") == "\U0001f469\u200d\U0001f680 \u00a0ok"


@pytest.mark.parametrize(("neutral", "column"), [(True, "neutral"), (False, "raw")])
def test_emotions_stand_as_they_rank_and_the_index_leads_to_each(
    neutral: bool, column: str
) -> None:
    rows = external_rows(("pile",), words(20), snippets=1, neutral=neutral)
    page = page_of(rows)
    ranked = sorted(rows.records("ranking", LAYER), key=lambda row: -float(str(row[column])))
    names = [str(row["emotion"]) for row in ranked]
    assert re.findall(r'<a href="#e(\d+)">(.*?)</a>', page) == [
        (str(number), name) for number, name in enumerate(names, 1)
    ]
    assert re.findall(r"<section id=e(\d+)><h2>(.*?)</h2>", page) == [
        (str(number), name) for number, name in enumerate(names, 1)
    ]
    assert ("for want of neutral texts" in page) != neutral
    assert ("sd from neutral texts" in page) == neutral


def test_an_emotion_without_windows_says_so() -> None:
    page = page_of(external_rows(("pile",), words(3), snippets=0))
    assert page.count("No window:") == 3
    assert "<details>" not in page


def test_what_a_judge_said_stands_with_the_window_it_was_shown() -> None:
    rows = judged(external_rows(("pile", "lmsys"), words(3)), "pile")
    text = " ".join(Reading(page_of(rows)).text.split())
    assert "own emotion scores 5.5 points of 10 above another one drawn by lot (95%" in text
    for name in words(3):
        assert text.count(f"; scripted judge: {name} 8, cold 2") == 1
    assert "judge" not in page_of(rows, "lmsys")


def _luminance(colour: str) -> float:
    """WCAG 2: relative luminance of an sRGB colour."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_stands_out_from_its_background(scheme: int) -> None:
    """WCAG 2 AA asks for 4.5."""
    found = re.findall(r"--(\w+): (#\w{6})", STYLE)
    colours = dict(found[: len(found) // 2] if scheme == 0 else found[len(found) // 2 :])
    pairs = [("ink", level) for level in LEVELS]
    pairs += [(name, "paper") for name in ("ink", "faint", "link", "note")]
    assert min(_contrast(colours[a], colours[b]) for a, b in pairs) >= 4.5


def test_a_page_of_all_emotions_is_small_and_soon_written() -> None:
    rows = external_rows(("pile",), words())
    start = time.process_time()
    page = page_of(rows)
    assert time.process_time() - start < 1.0
    assert len(page.encode()) < 2_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_no_script_of_a_text(tmp_path: Path) -> None:
    """The page itself, and the same without escapes: the policy alone stops the script too."""
    rows = holding(HOSTILE[0])
    page = page_of(rows)
    torn = page.replace("</h1>", "</h1><script>document.title='pwned'</script>", 1)
    open_policy = re.sub("<meta http-equiv[^>]*>", "", torn)
    titles = [_title(text, tmp_path) for text in (page, torn, open_policy)]
    shown = plain(f"pile, reader {HOSTILE[0]}, corpus {HOSTILE[0]}, layer 3", 200)
    shown = shown.replace("&#x27;", "'").replace("&quot;", '"')
    assert titles == [shown, shown, "pwned"]


def _title(page: str, folder: Path) -> str:
    """The title of a page after a browser has opened it, as HTML."""
    path = folder / "page.html"
    path.write_bytes(page.encode())
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={folder / 'profile'}", path.as_uri()),
    ]
    shown = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode()
    found = re.search("<title>(.*?)</title>", shown, re.DOTALL)
    assert found is not None
    return found[1]
