"""Laws of the page of cards: any text is shown as text, every number beside that of chance.

Where a Chromium is installed, a page is opened in it.
"""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from analyses.base import Rows
from analyses.features.page import NUMBERS, SHOWN, pages
from analyses.markup import visible
from stores.results import Table
from tests.analyses.features.sheets import LAYER, feature_rows
from tests.analyses.sheets import words
from tests.analyses.test_external_page import HOSTILE, Reading

CHROMIUM = shutil.which("chromium")
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "nav", "a", "section"),
    *("ol", "li", "i", "u", "table", "tr", "th", "td", "b", "br"),
}


def page_of(rows: Rows) -> str:
    (page,) = pages(rows).values()
    return page


def holding(text: str) -> Rows:
    """Rows that hold `text` wherever texts or names of others have a say."""
    listed = json.dumps([text, "b"])
    cells = {"top_tokens": listed, "bottom_tokens": listed, "tokens": listed, "codes": "[1.0, 0.5]"}
    about: Any = dict.fromkeys(("reader", "corpus", "name", "source", "differences"), text)
    return feature_rows((text, *words(3)), cards=2, settings=about, changes=cells)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_text_or_a_name_holds_is_shown_as_text(text: str) -> None:
    page, harmless = (Reading(page_of(holding(each))) for each in (text, "word"))
    assert page.tags == harmless.tags
    assert page.comments == []
    # But for the title, which is cut.
    shown, wanted = (
        Reading(page_of(holding(each)).partition("</title>")[2]).text for each in (text, "word")
    )
    assert shown.count(visible(text[:79])) >= wanted.count("word")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_page_holds_nothing_that_cannot_be_seen_or_stored(text: str) -> None:
    page = page_of(holding(text))
    assert page.encode().decode() == page
    assert not [each for each in page if not each.isprintable() and each != "\n"]


def test_nothing_is_run_or_loaded_and_links_lead_to_the_page_or_to_neuronpedia() -> None:
    page = page_of(feature_rows(words()))
    tags = Reading(page).tags
    assert {tag for tag, _ in tags} == TAGS
    attributes = [(name, value) for _, attrs in tags for name, value in attrs]
    assert {name for name, _ in attributes} == {
        *("lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "dir", "rel"),
    }
    links = [dict(attrs) for tag, attrs in tags if tag == "a"]
    outward = [link for link in links if not link["href"].startswith("#")]
    assert len(outward) == 6
    assert all(link["href"].startswith("https://www.neuronpedia.org/") for link in outward)
    assert {link["rel"] for link in outward} == {"noopener noreferrer"}
    assert not re.search(r"url\(|@import|<script|<img|<link", page)


@pytest.mark.parametrize(
    "link", [None, "javascript:alert(1)", "http://www.neuronpedia.org/a/1", "https://other.org/"]
)
def test_a_link_to_anywhere_else_is_left_out(link: str | None) -> None:
    page = page_of(feature_rows(words(), changes={"link": link}))
    assert "Neuronpedia" not in page
    assert all(
        value.startswith("#")
        for _, attrs in Reading(page).tags
        for name, value in attrs
        if name == "href"
    )


def test_the_index_leads_to_every_card_in_order() -> None:
    rows = feature_rows(words(40), cards=20)
    page = page_of(rows)
    features = [str(row["feature"]) for row in rows.records("cards", LAYER)]
    assert re.findall(r'<a href="#f(\d+)">', page) == features
    assert re.findall(r"<section id=f(\d+)><h2>", page) == features


def test_each_number_at_the_head_stands_beside_that_of_random_features() -> None:
    page = " ".join(page_of(feature_rows(words(12))).split())
    found = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*</td><td>[^<]*)</td>", page))
    assert found["variance unexplained"] == "0.15</td><td>0.6"
    assert found["AUC of the best feature on other topics, mean"] == "0.41</td><td>0.33"
    assert found["emotions told better than chance (q &lt; .05)"] == "80</td><td>2"
    assert found["RSA beyond that of the control"] == "0.08</td><td>0"
    assert "loss recovered" not in found
    assert set(NUMBERS) > {"cosine.mean", "auc.mean", "rsa"}


def test_an_emotion_that_a_feature_was_chosen_for_shows_what_that_is_worth() -> None:
    rows = feature_rows(words(12), cards=1)
    (first, *_) = rows.records("emotions", LAYER)
    page = " ".join(page_of(rows).split())
    auc = f"0.90 ({first['auc']:.2f}, control {first['control_auc']:.2f})"
    cosine = f"0.40 ({first['null_high']:.2f})"
    assert f"<b>{first['emotion']}</b></td><td>{auc}</td><td>{cosine}</td>" in page
    assert "<td>alarmed</td><td>0.85</td><td>0.30</td>" in page


def test_a_feature_that_is_best_for_many_shows_some_and_counts_the_others() -> None:
    rows = feature_rows(words(40), cards=1)
    (card,) = rows.records("cards", LAYER)
    many = tuple(
        (card["feature"], rank, name, "auc", 0.9 - rank / 100.0, 0.1, 0.2)
        for rank, name in enumerate(words(40), 1)
    )
    wide = dict(card) | {"auc_for": json.dumps(words(40))}
    replaced = {
        "cards": Table("cards", tuple(wide), (tuple(wide.values()),), LAYER),
        "card_emotions": Table(
            "card_emotions", rows.table("card_emotions", LAYER).columns, many, LAYER
        ),
    }
    tables = tuple(replaced.get(table.name, table) for table in rows.tables)
    text = " ".join(Reading(page_of(Rows(rows.metrics, tables))).text.split())
    assert f": {', '.join(words(3))} and 37 more" in text
    assert f"and {40 - SHOWN} more" in text


def test_each_token_has_the_background_of_its_share_of_the_highest_code() -> None:
    codes = [0.0, -1.0, 0.5, 1.0, 1.1, 3.0, 4.5, 5.5, 6.0]
    tokens = [f"t{i}" for i in range(len(codes))]
    cells = {"tokens": json.dumps(tokens), "codes": json.dumps(codes), "peak": 6.0}
    page = page_of(feature_rows(words(2), cards=1, changes=cells))
    wanted = (
        "t0t1<i class=a>t2</i><i class=a>t3</i><i class=b>t4</i><u class=c>t5</u>"
        "<u class=e>t6</u><u class=f>t7</u><u class=f>t8</u>"
    )
    assert page.count(wanted) == 5


def test_a_page_says_what_it_is_of_and_warns_of_what_is_planted_or_forced() -> None:
    plain = " ".join(Reading(page_of(feature_rows(words(3), cards=1))).text.split())
    assert "Reader llama-3.1-8b, corpus main, layer 20; denoised vectors." in plain
    assert "jumprelu, 32,768 features, of which 29,311 fired on this corpus" in plain
    assert "toy model" not in plain
    assert "forced" not in plain
    noted: Any = {"labels": "planted", "differences": "model a/b is another than c/d"}
    warned = Reading(page_of(feature_rows(words(3), cards=1, settings=noted))).text
    assert "toy model, planted geometry" in warned
    assert "not the reader's, and was forced on it: model a/b is another than c/d" in warned


def test_without_any_card_a_page_says_so() -> None:
    page = page_of(feature_rows(words(3), cards=0))
    assert "No feature" in page
    assert "<section" not in page


def test_a_page_of_sixty_cards_is_small_and_soon_written() -> None:
    rows = feature_rows(words(), cards=60)
    start = time.process_time()
    page = page_of(rows)
    assert time.process_time() - start < 1.0
    assert len(page.encode()) < 1_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_no_script_and_nothing_is_wider_than_a_phone(tmp_path: Path) -> None:
    """A script of ours, allowed for this alone, measures the page at 400 pixels."""
    page = page_of(holding(HOSTILE[0]))
    torn = page.replace("</h1>", "</h1><script>document.title='pwned'</script>", 1)
    assert _title(torn, tmp_path) != "pwned"
    # A browser's own window is never so narrow; 16 pixels of space on both sides.
    narrow = "document.body.style.maxWidth = '368px'; document.title = document.body.scrollWidth"
    measure = f"<script>{narrow}</script></body>"
    wide = page_of(feature_rows(("x" * 300, *words(3)), cards=2, settings={"name": "y" * 300}))
    for each in (wide, page_of(feature_rows(words(), cards=6))):
        open_policy = re.sub("<meta http-equiv[^>]*>", "", each).replace("</body>", measure)
        assert int(_title(open_policy, tmp_path)) <= 400


def _title(page: str, folder: Path) -> str:
    path = folder / "page.html"
    path.write_bytes(page.encode())
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *("--window-size=400,900", f"--user-data-dir={folder / 'profile'}", path.as_uri()),
    ]
    shown = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode()
    found = re.search("<title>(.*?)</title>", shown, re.DOTALL)
    assert found is not None
    return found[1]
