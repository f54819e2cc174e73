"""Equal and nearly equal texts are found by their marks, and only by their words condemned."""

import random
import time

import pytest

from engine.duplicates import NEAR, OPENING, find_duplicate, overlap, plain_words, text_marks

WORDS = [f"word{n}" for n in range(3000)]
STORY = (
    "Ana shut the door and stood with her back to it. The note was still in her hand, folded "
    "twice, and she read it again although she knew each line. Somebody in the street was "
    "whistling."
)


def prose(rng: random.Random, n: int = 120) -> list[str]:
    return rng.choices(WORDS, k=n)


def with_changes(words: list[str], every: int, rng: random.Random) -> list[str]:
    return [rng.choice(WORDS) if i % every == every - 1 else w for i, w in enumerate(words)]


@pytest.mark.parametrize(
    "other",
    [
        STORY,
        STORY.upper(),
        STORY.replace(" ", "\n "),
        STORY.replace(".", "!").replace(",", ""),
        STORY.replace("again", "_again_").replace("each", "*each*"),
        "“" + STORY.replace("her", "h\u00ader") + "”",
    ],
)
def test_case_punctuation_and_spacing_make_no_other_text(other: str) -> None:
    assert text_marks(other, "s").whole == text_marks(STORY, "s").whole
    assert find_duplicate(other, [STORY]) == "duplicate"


def test_marks_are_the_same_in_every_process() -> None:
    marks = text_marks(STORY, "stories/main")
    assert (marks.whole, marks.opening) == (2967529830058346337, -2660784210446860225)
    assert marks.sketch[0] == 3423050504176350996


def test_spaces_and_traits_never_meet() -> None:
    here, there = text_marks("one two", "stories/a"), text_marks("one two", "stories/b")
    assert not {*here.all} & {*there.all}
    assert len({*here.all}) == len(here.all)
    assert all(-(2**63) <= mark < 2**63 for mark in here.all)


def test_the_same_beginning_is_one() -> None:
    words = plain_words(STORY)
    other = " ".join([*words[:OPENING], "then", "all", "was", "quiet"])
    assert text_marks(other, "s").opening == text_marks(STORY, "s").opening
    assert find_duplicate(other, [STORY]) == "same_opening"
    nearly = " ".join([*words[: OPENING - 1], "then", "all", "was", "quiet", "again"])
    assert find_duplicate(nearly, [STORY]) is None


def test_overlap_is_the_share_of_runs_in_common() -> None:
    words = [str(n) for n in range(20)]  # 13 runs of eight
    changed = [*words[:12], *(f"x{n}" for n in range(8))]  # 5 of them left
    assert overlap(" ".join(words), " ".join(changed)) == 5 / (13 + 13 - 5)
    assert overlap("a b c", "a b c") == 1.0
    assert overlap("", "") == 1.0
    assert overlap("a b c", "a b d") == 0.0


def test_a_name_changed_in_three_places_is_no_new_text() -> None:
    words = prose(random.Random(0))
    renamed = [f"x{w}" if i in (3, 50, 90) else w for i, w in enumerate(words)]
    assert find_duplicate(" ".join(renamed), [" ".join(words)]) == "near_duplicate"
    rewritten = with_changes(words, 8, random.Random(1))
    assert find_duplicate(" ".join(rewritten), [" ".join(words)]) is None


def test_the_gravest_likeness_is_told() -> None:
    near = "x " + STORY
    assert find_duplicate(STORY, [near, STORY]) == "duplicate"
    assert find_duplicate(near, [STORY]) == "near_duplicate"
    assert find_duplicate(STORY, []) is None


def test_pairs_above_the_bound_share_a_mark_nearly_always() -> None:
    rng, missed, pairs = random.Random(2), 0, 0
    while pairs < 400:
        words = prose(rng)
        cut = rng.randrange(50, 75)  # keep one end: about .3 to .45 of the runs in common
        other = [*words[:cut], *prose(rng, 120 - cut)]
        if NEAR <= overlap(" ".join(words), " ".join(other)) <= NEAR + 0.05:
            mine, theirs = text_marks(" ".join(words), "s"), text_marks(" ".join(other), "s")
            missed += not {*mine.sketch} & {*theirs.sketch}
            pairs += 1
    assert missed <= 15  # 1.4% expected: 5.5 of 400


def test_unrelated_texts_share_no_mark() -> None:
    rng = random.Random(3)
    seen: set[int] = set()
    for _ in range(2000):
        marks = {*text_marks(" ".join(prose(rng)), "s").all}
        assert not marks & seen
        seen |= marks


def test_marks_are_made_in_a_fraction_of_a_millisecond() -> None:
    rng = random.Random(4)
    texts = [" ".join(prose(rng)) for _ in range(200)]
    seconds = []
    for _ in range(3):
        began = time.process_time()
        for text in texts:
            text_marks(text, "s")
        seconds.append(time.process_time() - began)
    assert min(seconds) / len(texts) < 0.5e-3
