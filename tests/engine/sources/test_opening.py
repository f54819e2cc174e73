"""What a user writes means one source, or one line says why it means none."""

import json
import threading
from pathlib import Path

import pytest

from engine.sources.opening import Wanted, open_source
from engine.sources.sampling import draw_sample
from stores.database import Connection
from stores.errors import BadValue, UsageError
from stores.samples import Sample

SIZE, ANY = 3, Wanted()


def draw(conn: Connection, corpus: str, wanted: Wanted = ANY, size: int = SIZE) -> Sample:
    source = open_source(conn, corpus, wanted, seed=0, size=size)
    stop = threading.Event()
    return draw_sample(conn, source, size=size, seed=0, progress=lambda *_: None, stop=stop)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps({"text": f"letter {n}"}) + "\n" for n in range(9)))
    return path


def test_a_sample_goes_by_its_name_once_its_file_is_gone(conn: Connection, letters: Path) -> None:
    drawn = draw(conn, str(letters))
    letters.unlink()
    assert draw(conn, "letters") == drawn
    for corpus, wanted, size in (
        ("letters", Wanted(), SIZE + 1),
        ("letters", Wanted(name="others"), SIZE),
        ("letters", Wanted(text_field="body"), SIZE),
        ("letters", Wanted(split="line"), SIZE),
        (str(letters), Wanted(), SIZE),
        ("letter", Wanted(), SIZE),
    ):
        with pytest.raises(BadValue, match="no source"):
            draw(conn, corpus, wanted, size)


def test_an_empty_path_is_not_the_folder_one_is_in(
    conn: Connection, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(letters.parent)
    for nothing in ("", " "):
        with pytest.raises(UsageError, match="empty"):
            draw(conn, nothing)
    assert draw(conn, ".").source == letters.parent.name


def test_what_is_about_the_hub_is_refused_for_a_path(conn: Connection, letters: Path) -> None:
    with pytest.raises(UsageError, match="--hub-split"):
        draw(conn, str(letters), Wanted(hub_split="test"))
    with pytest.raises(UsageError, match="--split cuts"):
        draw(conn, "pile", Wanted(split="line"))
