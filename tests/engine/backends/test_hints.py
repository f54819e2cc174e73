"""How a wait that a server asks for is read."""

import time
from email.utils import formatdate

import pytest

from engine.backends.hints import seconds


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("12", 12.0),
        ("34.074824224s", 34.074824224),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("2d", 172800.0),
        ("250ms", 0.25),
        (" 7 ", 7.0),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, wait: float) -> None:
    assert seconds(text) == pytest.approx(wait)


@pytest.mark.parametrize(
    "text",
    [None, "", "0", "0s", "-5", "soon", "1x", "nan", "inf", "1e3", "Thu, 99 Foo 2026", "9" * 400],
)
def test_anything_else_asks_for_no_wait(text: str | None) -> None:
    assert seconds(text) is None


def test_a_point_in_time_is_a_wait_from_now() -> None:
    then = time.time() + 100
    for text in (formatdate(then, usegmt=True), str(int(then)), str(int(then * 1000))):
        assert seconds(text) == pytest.approx(100, abs=2)
    assert seconds(formatdate(then - 200, usegmt=True)) is None
