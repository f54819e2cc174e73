"""A text is cut to a number of tokens between characters, and reads as no more than that."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.projection.cutting import CHARACTERS_PER_TOKEN, cut_text
from stores.errors import ModelError
from tests.engine.projection.makes import MAKES, MIXED
from tests.engine.tiny import text_of


def ids_of(tokenizer: Any, text: str) -> list[int]:
    encoding = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    ids: list[int] = encoding["input_ids"]
    return ids


@pytest.mark.parametrize("make", MAKES)
def test_what_is_kept_begins_the_text_and_reads_as_no_more_tokens_than_asked(make: str) -> None:
    tokenizer = MAKES[make]
    for limit in range(1, len(ids_of(tokenizer, MIXED)) + 2):
        kept, cut = cut_text(tokenizer, MIXED, limit)
        assert MIXED.startswith(kept)
        assert len(ids_of(tokenizer, kept)) <= limit
        assert cut == (kept != MIXED)


@pytest.mark.parametrize("make", ["bytes", "tiny", "demo", "pieces", "byte_fallback"])
def test_tokens_are_those_of_the_whole_text_but_for_those_of_a_divided_character(make: str) -> None:
    """Where fewer are kept, the next character alone would be too many."""
    tokenizer = MAKES[make]
    whole = ids_of(tokenizer, MIXED)
    for limit in range(1, len(whole)):
        kept, _ = cut_text(tokenizer, MIXED, limit)
        ids = ids_of(tokenizer, kept)
        assert ids == whole[: len(ids)]
        if len(ids) < limit:
            assert len(ids_of(tokenizer, MIXED[: len(kept) + 1])) > limit


@pytest.mark.parametrize("make", ["bytes", "byte_fallback"])
def test_a_character_of_several_tokens_is_kept_whole_or_not_at_all(make: str) -> None:
    text = "👍👍👍"
    kept = [cut_text(MAKES[make], text, limit)[0] for limit in range(4, 14)]
    assert set(kept) <= {"", "👍", "👍👍", "👍👍👍"}
    assert kept[0] != kept[-1] == text


def test_a_text_that_fits_is_kept_as_it_is() -> None:
    tokenizer = MAKES["demo"]
    length = len(ids_of(tokenizer, MIXED))
    assert cut_text(tokenizer, MIXED, length) == (MIXED, False)
    assert cut_text(tokenizer, MIXED, length - 1)[1]
    assert cut_text(tokenizer, "", 5) == ("", False)


class Counting:
    """A tokenizer that tells how many characters it was given."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.longest = tokenizer, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.longest = max(self.longest, len(text))
        return self.tokenizer(text, **options)


def test_a_book_is_not_read_whole_for_its_first_tokens() -> None:
    counting: Any = Counting(MAKES["demo"])
    kept, cut = cut_text(counting, text_of(100_000), 30)
    assert cut and len(ids_of(MAKES["demo"], kept)) == 30
    assert counting.longest == 30 * CHARACTERS_PER_TOKEN


def test_a_text_of_few_tokens_is_still_cut_at_so_many_characters() -> None:
    kept, cut = cut_text(MAKES["words"], "supercalifragilistic" * 40, 3)
    assert (len(kept), cut) == (3 * CHARACTERS_PER_TOKEN, True)


def test_a_tokenizer_that_does_not_tell_where_is_refused() -> None:
    slow: Any = Counting(MAKES["demo"])
    slow.is_fast = False
    with pytest.raises(ModelError, match="does not tell which characters"):
        cut_text(slow, "a text", 3)


@pytest.mark.parametrize("make", MAKES)
@given(
    text=st.text(alphabet="ab cd.\n\t 日👍🏽éﬁ㎏'B1▁<eos>", max_size=60),
    limit=st.integers(1, 40),
)
def test_no_text_makes_it_longer_or_other_than_a_beginning(
    make: str, text: str, limit: int
) -> None:
    kept, cut = cut_text(MAKES[make], text, limit)
    assert text.startswith(kept)
    assert cut == (len(kept) < len(text))
    assert len(ids_of(MAKES[make], kept)) <= limit
