"""Laws of prices: each has a source and a day, a later row takes over, nothing is invented."""

import datetime
from pathlib import Path

import pytest

from stores.errors import ProtocolError
from stores.prices import Price, price_of, read_prices

HEADER = "model\tinput_usd\toutput_usd\tsource\tdate\tnote\n"


def table(root: Path, *lines: str) -> Path:
    (root / "prices.tsv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return root


def test_thinking_is_paid_as_output() -> None:
    price = Price(0.10, 0.40, "somebody", "2026-11-21")
    assert price.cost(2_000_000, 1_000_000, 0) == pytest.approx(0.6)
    assert price.cost(0, 1000, 500) == price.cost(0, 1500, 0) == pytest.approx(0.0006)
    assert price.cost(0, 0, 0) == 0.0


def test_every_shipped_price_has_a_source_and_a_day_and_costs_something() -> None:
    prices = read_prices()
    assert {"gemini-2.5-flash-lite", "gemini-2.5-flash", "gemini-2.5-pro"} <= prices.keys()
    for price in prices.values():
        assert 0 < price.input_usd < price.output_usd < 100
        assert price.source.startswith("https://")
        assert datetime.date.fromisoformat(price.date)


def test_a_model_is_found_with_and_without_its_prefix() -> None:
    assert price_of("models/gemini-2.5-flash-lite") == price_of("gemini-2.5-flash-lite") is not None


def test_a_model_without_a_row_has_no_price(tmp_path: Path) -> None:
    assert price_of("a-model-of-ones-own") is None
    assert read_prices(tmp_path) == {}


def test_a_later_row_takes_over_on_its_day(tmp_path: Path) -> None:
    rows = ("m\t2\t8\ts\t2027-01-01\tannounced", "m\t1\t4\ts\t2026-10-01\t")
    days = ["2020-01-01", "2026-10-01", "2026-12-31", "2027-01-01", "2028-01-01"]
    on = [datetime.date.fromisoformat(day) for day in days]
    found = [read_prices(table(tmp_path, *rows), on=day)["m"] for day in on]
    assert [price.input_usd for price in found] == [1, 1, 1, 2, 2]
    assert found[-1] == Price(2.0, 8.0, "s", "2027-01-01")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("m\t1\t-2\ts\t2026-10-01\t", "output_usd: -2 is not between 0 and"),
        ("m\tcheap\t2\ts\t2026-10-01\t", "input_usd: 'cheap' is not a number"),
        ("m\t1\t2\t\t2026-10-01\t", "source: is blank"),
        ("m\t1\t2\ts\tlast week\t", "date: is not a day such as 2026-11-21"),
        ("\t1\t2\ts\t2026-10-01\t", "model: is blank"),
    ],
)
def test_a_price_that_makes_no_sense_is_named_with_its_place(
    tmp_path: Path, line: str, problem: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_prices(table(tmp_path, line))
    assert f"prices.tsv:2:{problem}" in str(caught.value)
