"""The table of named sources: what it says of each, and what a bad line is told."""

from pathlib import Path

import pytest

from engine.sources.catalogue import COLUMNS, Listed, find_source, read_catalogue
from stores.errors import ProtocolError

HEADER = "\t".join((*COLUMNS, "note"))
GOOD = "mine\tme/mine\t\ttrain\ttext\t\tno\tmine\t"
OTHER = "other" + GOOD.removeprefix("mine")


def written(folder: Path, *lines: str) -> Path:
    (folder / "sources.tsv").write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return folder


def test_the_two_corpora_of_the_method_are_listed() -> None:
    assert list(read_catalogue()) == ["pile", "lmsys"]


def test_the_pile_is_the_one_that_is_still_served_and_says_what_it_lacks() -> None:
    pile = find_source("pile")
    assert pile is not None
    assert (pile.dataset, pile.split, pile.gated) == ("monology/pile-uncopyrighted", "train", False)
    assert (pile.text_field, pile.part_field) == ("text", "meta.pile_set_name")
    assert all(subset in pile.note for subset in ("Books3", "BookCorpus2", "OpenWebText2"))


def test_conversations_are_gated_and_parted_by_language() -> None:
    lmsys = find_source("lmsys")
    assert lmsys is not None
    assert (lmsys.dataset, lmsys.gated) == ("lmsys/lmsys-chat-1m", True)
    assert (lmsys.text_field, lmsys.part_field) == ("conversation", "language")


def test_every_listed_source_says_its_licence_and_a_note() -> None:
    assert all(listed.licence and listed.note for listed in read_catalogue().values())


def test_a_name_that_is_not_listed_is_no_source() -> None:
    assert find_source("hub:someone/else") is None


def test_blank_cells_are_none(tmp_path: Path) -> None:
    assert read_catalogue(written(tmp_path, GOOD)) == {
        "mine": Listed("mine", "me/mine", None, "train", "text", None, False, "mine", "")
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD, r"sources\.tsv:3: repeats line 2: 'mine'"),
        (OTHER.replace("no", "maybe"), r"sources\.tsv:3:gated: is neither yes nor no"),
        (OTHER.replace("me/mine", ""), r"sources\.tsv:3:dataset: is blank"),
    ],
)
def test_a_bad_line_is_told_by_its_place(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        read_catalogue(written(tmp_path, GOOD, line))


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"sources\.tsv is missing"):
        read_catalogue(tmp_path)
