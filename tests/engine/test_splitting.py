"""Whatever form a reply takes, its texts come out whole, in order and bare.

Each file of `replies/` is a reply in one ugly shape, with the texts that are in it.
"""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.splitting import split_reply
from stores.texts import KINDS, Kind

REPLIES = sorted((Path(__file__).parent / "replies").glob("*.toml"))


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_there_are_many_shapes() -> None:
    assert len(REPLIES) >= 60


@pytest.mark.parametrize("path", REPLIES, ids=lambda path: path.stem)
def test_every_shape_is_cut_into_its_texts(path: Path) -> None:
    reply = read(path)
    assert split_reply(reply["reply"], reply["kind"], reply["asked"]) == reply["texts"]


@pytest.mark.parametrize("path", REPLIES, ids=lambda path: path.stem)
def test_a_text_that_was_cut_out_is_not_cut_again(path: Path) -> None:
    reply = read(path)
    for text in reply["texts"]:
        assert split_reply(text, reply["kind"], 1) == [text]


@given(st.text(alphabet='[]story 12.\n\r*#-<>:"{}Person AI', max_size=200), st.sampled_from(KINDS))
def test_no_reply_breaks_the_parser(reply: str, kind: Kind) -> None:
    for asked in (1, 2, 12):
        texts = split_reply(reply, kind, asked)
        assert all(text.strip() == text != "" for text in texts)
        assert kind == "dialogues" or not any("\n" in text for text in texts)
