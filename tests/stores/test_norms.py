"""Laws of matching emotions to rated words. Every rating here is made up."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from stores.norms import Norms, load_norms, match_norms
from stores.protocol import DEFAULT_PROTOCOL, load_protocol


def _norms(*words: str) -> Norms:
    """Word i of these has valence i and arousal -i."""
    ratings = {word: float(i) for i, word in enumerate(words)}
    opposite = {word: -value for word, value in ratings.items()}
    return Norms("made-up norms", "none", Path("made_up.csv"), "", ratings, opposite)


@pytest.mark.parametrize(
    ("emotion", "word", "rule"),
    [
        ("glim", "glim", "exact"),
        ("Glim", "glim", "exact"),
        ("fen ow", "fen ow", "exact"),
        ("fen-ow", "fen-ow", "exact"),
        ("fen-ow", "fen ow", "space for hyphen"),
        ("fen ow", "fen-ow", "hyphen for space"),
        ("fen ow", "fenow", "joined"),
        ("fen-ow", "fenow", "joined"),
        ("a fen-ow", "a fen ow", "space for hyphen"),
        ("a fen-ow", "a-fen-ow", "hyphen for space"),
    ],
)
def test_every_rule_finds_its_word(emotion: str, word: str, rule: str) -> None:
    matched = match_norms(_norms("other", word), [emotion])
    assert (matched.words, matched.rules) == ((word,), (rule,))
    assert (matched.valence.tolist(), matched.arousal.tolist()) == ([1.0], [-1.0])


def test_the_first_rule_that_finds_a_word_counts() -> None:
    hyphened, spaced = match_norms(_norms("fenow", "fen-ow", "fen ow"), ["fen-ow", "fen ow"]).words
    assert (hyphened, spaced) == ("fen-ow", "fen ow")
    assert match_norms(_norms("fenow", "fen ow"), ["fen-ow"]).words == ("fen ow",)
    assert match_norms(_norms("fenow", "fen-ow"), ["fen ow"]).words == ("fen-ow",)


@pytest.mark.parametrize("emotion", ["glims", "glimmed", "gli", "fen", "ow fen", "glim fen"])
def test_nothing_is_stemmed_or_guessed(emotion: str) -> None:
    matched = match_norms(_norms("glim", "fen ow"), [emotion])
    assert (matched.words, matched.rules, matched.misses) == ((None,), (None,), (emotion,))


def test_ratings_stand_in_the_order_of_the_emotions_and_misses_are_unknown() -> None:
    matched = match_norms(_norms("a", "b", "c"), ["c", "unheard of", "b", "a"])
    np.testing.assert_array_equal(matched.valence, [2.0, np.nan, 1.0, 0.0])
    np.testing.assert_array_equal(matched.arousal, [-2.0, np.nan, -1.0, -0.0])
    assert matched.emotions == ("c", "unheard of", "b", "a")
    assert matched.misses == ("unheard of",)


def test_the_terminal_is_told_source_licence_matches_by_rule_and_misses() -> None:
    matched = match_norms(_norms("a", "b", "c d"), ["a", "b", "c-d", "x", "y z"])
    assert matched.describe() == (
        "norms: made-up norms",
        "licence: none",
        "matched: 3 of 5 emotions (2 exact, 1 space for hyphen)",
        "missed: x, y z",
    )
    assert match_norms(_norms("a"), ["a"]).describe()[-1] == "matched: 1 of 1 emotions (1 exact)"
    assert match_norms(_norms("a"), ["b"]).describe()[2] == "matched: 0 of 1 emotions (none)"


def test_the_protocols_own_names_of_several_words_are_found_in_other_spellings() -> None:
    names = load_protocol(DEFAULT_PROTOCOL).names
    several = [name for name in names if {" ", "-"} & set(name)]
    assert len(several) >= 5
    for other in (" ", "-", ""):
        spelled = [name.replace("-", other).replace(" ", other) for name in names]
        matched = match_norms(_norms(*spelled), names)
        assert matched.misses == ()
        np.testing.assert_array_equal(matched.valence, np.arange(len(names)))


def test_the_digest_is_that_of_the_file_and_the_path_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbfword,valence,arousal\r\nglim,1,2\r\n")
    norms = load_norms(path)
    assert norms.sha256 == sha256(path.read_bytes()).hexdigest()
    assert norms.path == path
