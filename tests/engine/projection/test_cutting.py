"""A text is cut to a number of tokens between characters, and reads as no more than that."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models import Model
from engine.projection.cutting import CHARACTERS_PER_TOKEN, Beginning, read_beginning
from engine.readings import TextReader
from stores.errors import ModelError
from tests.engine.projection.makes import MAKES, MIXED
from tests.engine.tiny import CHAT_TEMPLATE, text_of


def begin(model: Model, tokenizer: Any, text: str, limit: int, form: Any = "raw") -> Beginning:
    """What a reader with this tokenizer reads of a text."""
    return read_beginning(TextReader(replace(model, tokenizer=tokenizer), form, 0), text, limit)


def cut_text(model: Model, tokenizer: Any, text: str, limit: int) -> tuple[str, bool]:
    begun = begin(model, tokenizer, text, limit)
    return begun.text, begun.cut


def ids_of(tokenizer: Any, text: str) -> list[int]:
    encoding = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    ids: list[int] = encoding["input_ids"]
    return ids


@pytest.mark.parametrize("make", MAKES)
def test_what_is_kept_begins_the_text_and_reads_as_no_more_tokens_than_asked(
    tiny: Model, make: str
) -> None:
    tokenizer = MAKES[make]
    for limit in range(1, len(ids_of(tokenizer, MIXED)) + 2):
        kept, cut = cut_text(tiny, tokenizer, MIXED, limit)
        assert MIXED.startswith(kept)
        assert len(ids_of(tokenizer, kept)) <= limit
        assert cut == (kept != MIXED)


@pytest.mark.parametrize("make", ["bytes", "tiny", "demo", "pieces", "byte_fallback"])
def test_tokens_are_those_of_the_whole_text_but_for_those_of_a_divided_character(
    tiny: Model, make: str
) -> None:
    """Where fewer are kept, the next character alone would be too many."""
    tokenizer = MAKES[make]
    whole = ids_of(tokenizer, MIXED)
    for limit in range(1, len(whole)):
        kept, _ = cut_text(tiny, tokenizer, MIXED, limit)
        ids = ids_of(tokenizer, kept)
        assert ids == whole[: len(ids)]
        if len(ids) < limit:
            assert len(ids_of(tokenizer, MIXED[: len(kept) + 1])) > limit


@pytest.mark.parametrize("make", ["bytes", "byte_fallback"])
def test_a_character_of_several_tokens_is_kept_whole_or_not_at_all(tiny: Model, make: str) -> None:
    text = "👍👍👍"
    kept = [cut_text(tiny, MAKES[make], text, limit)[0] for limit in range(4, 14)]
    assert set(kept) <= {"", "👍", "👍👍", "👍👍👍"}
    assert kept[0] != kept[-1] == text


def test_a_text_that_fits_is_kept_as_it_is(tiny: Model) -> None:
    tokenizer = MAKES["demo"]
    length = len(ids_of(tokenizer, MIXED))
    assert cut_text(tiny, tokenizer, MIXED, length) == (MIXED, False)
    assert cut_text(tiny, tokenizer, MIXED, length - 1)[1]
    assert cut_text(tiny, tokenizer, "", 5) == ("", False)


class Counting:
    """A tokenizer that tells how many characters it was given, and how often."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.longest, self.times = tokenizer, 0, 0
        self.is_fast = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: str, **options: Any) -> Any:
        self.longest = max(self.longest, len(text))
        self.times += 1
        return self.tokenizer(text, **options)


def test_a_book_is_not_read_whole_for_its_first_tokens(tiny: Model) -> None:
    counting: Any = Counting(MAKES["demo"])
    kept, cut = cut_text(tiny, counting, text_of(100_000), 30)
    assert cut and len(ids_of(MAKES["demo"], kept)) == 30
    assert counting.longest == 30 * CHARACTERS_PER_TOKEN


def test_a_text_of_few_tokens_is_still_cut_at_so_many_characters(tiny: Model) -> None:
    kept, cut = cut_text(tiny, MAKES["words"], "supercalifragilistic" * 40, 3)
    assert (len(kept), cut) == (3 * CHARACTERS_PER_TOKEN, True)


def test_a_tokenizer_that_does_not_tell_where_is_refused(tiny: Model) -> None:
    slow: Any = Counting(MAKES["demo"])
    slow.is_fast = False
    with pytest.raises(ModelError, match="does not tell which characters"):
        cut_text(tiny, slow, "a text", 3)


@pytest.mark.parametrize("make", MAKES)
@given(
    text=st.text(alphabet="ab cd.\n\t 日👍🏽éﬁ㎏'B1▁<eos>", max_size=60),
    limit=st.integers(1, 40),
)
def test_no_text_makes_it_longer_or_other_than_a_beginning(
    tiny: Model, make: str, text: str, limit: int
) -> None:
    kept, cut = cut_text(tiny, MAKES[make], text, limit)
    assert text.startswith(kept)
    assert cut == (len(kept) < len(text))
    assert len(ids_of(MAKES[make], kept)) <= limit


@pytest.mark.parametrize("make", ["bytes", "tiny", "demo", "pieces", "words"])
@pytest.mark.parametrize(("form", "most"), [("raw", 1), ("chat", 2)])
def test_one_encoding_serves_cutting_reading_and_pieces(
    tiny: Model, make: str, form: str, most: int
) -> None:
    """A chat is encoded once more, with its template; what is cut, once more as well."""
    counting: Any = Counting(MAKES[make])
    counting.chat_template = CHAT_TEMPLATE
    MAKES[make].chat_template = CHAT_TEMPLATE
    text = text_of(12)
    begun = begin(tiny, counting, text, 512, form)
    assert "".join(begun.pieces()) == text.strip()
    assert (counting.times, begun.cut) == (most, False)
    begun = begin(tiny, counting, text, begun.reading.length - 2, form)
    assert (counting.times, begun.cut) == (2 * most + 1, True)


@pytest.mark.parametrize("form", ["raw", "chat"])
@pytest.mark.parametrize("make", MAKES)
def test_what_is_read_is_what_a_reader_reads_of_the_text_that_is_kept(
    tiny: Model, make: str, form: Any
) -> None:
    MAKES[make].chat_template = CHAT_TEMPLATE
    for limit in (1, 7, 500):
        begun = begin(tiny, MAKES[make], MIXED, limit, form)
        reader = TextReader(replace(tiny, tokenizer=MAKES[make]), form, 0)
        assert begun.reading == reader.read(begun.text)
