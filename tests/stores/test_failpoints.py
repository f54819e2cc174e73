"""A failpoint ends the process at its place and at no other, and never without being asked."""

import os
import subprocess
import sys

import pytest

from stores.failpoints import (
    ENCODING,
    EXIT_CODE,
    EXTRACTION,
    GENERATION,
    JUDGING,
    PLACES,
    PROJECTION,
    TRAINING,
    VARIABLE,
    reach,
)
from tests.conftest import ROOT

CHILD = """
import atexit
from stores.failpoints import reach
atexit.register(print, "an orderly end")
try:
    for place in ("leased", "recorded", "leased", "leased"):
        print(place, flush=True)
        reach(place)
finally:
    print("a last word", flush=True)
"""
ALL = ["leased", "recorded", "leased", "leased", "a last word", "an orderly end"]


def reach_all(setting: str | None) -> tuple[int, list[str]]:
    """Exit code and output of a process that passes four places."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if setting is not None:
        environment[VARIABLE] = setting
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return child.returncode, child.stdout.splitlines()


@pytest.mark.parametrize(
    ("setting", "places"),
    [("leased", 1), ("leased:1", 1), ("leased:2", 3), ("leased:3", 4), ("recorded", 2)],
)
def test_the_process_dies_where_it_was_told_to_without_a_last_word(
    setting: str, places: int
) -> None:
    assert reach_all(setting) == (EXIT_CODE, ALL[:places])


@pytest.mark.parametrize("setting", [None, "leased:4", "settled"])
def test_a_place_that_is_not_reached_ends_nothing(setting: str | None) -> None:
    assert reach_all(setting) == (0, ALL)


def test_a_place_that_is_not_listed_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no failpoint 'lesed'; known: planned, leased"):
        reach("lesed")


def test_without_the_variable_every_place_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for place in PLACES:
        reach(place)


def test_each_place_has_a_name_of_its_own() -> None:
    groups = GENERATION, EXTRACTION, JUDGING, PROJECTION, ENCODING, TRAINING
    assert tuple(place for group in groups for place in group) == PLACES
    assert len(set(PLACES)) == len(PLACES)
