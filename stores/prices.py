"""What tokens cost, by model and day, as data/reference/prices.tsv has it.

Knows no provider, no tiers and no discounts. Prices change: whoever knows better says so.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stores.textfiles import Folder, Row

REFERENCE = Path(__file__).parent.parent / "data" / "reference"
TABLE = "prices.tsv"
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens, who says so, and since which day (YYYY-MM-DD)."""

    input_usd: float
    output_usd: float
    source: str
    date: str

    def cost(self, prompt_tokens: int, output_tokens: int, thinking_tokens: int) -> float:
        """US dollars for one call; thinking is paid as output."""
        written = output_tokens + thinking_tokens
        return (prompt_tokens * self.input_usd + written * self.output_usd) / MILLION


def read_prices(
    folder: Path = REFERENCE, *, on: datetime.date | None = None
) -> Mapping[str, Price]:
    """The price of each model on a day, today without `on`. Raises ProtocolError.

    A model may have several rows, each from its date on; before the first one, the first counts.
    """
    rows = Folder((folder,)).rows(TABLE, ["model", "input_usd", "output_usd", "source", "date"])
    today = (on or datetime.date.today()).isoformat()
    prices: dict[str, Price] = {}
    for row in sorted(rows, key=_date):
        if _date(row) <= today or row.text("model") not in prices:
            prices[row.text("model")] = _price(row)
    return prices


def price_of(model: str) -> Price | None:
    """What a model costs today; None when nobody knows."""
    return read_prices().get(model.removeprefix("models/"))


def _price(row: Row) -> Price:
    dollars = [row.number(column, low=0.0) for column in ("input_usd", "output_usd")]
    return Price(dollars[0] or 0.0, dollars[1] or 0.0, row.text("source"), _date(row))


def _date(row: Row) -> str:
    try:
        return datetime.date.fromisoformat(row.text("date")).isoformat()
    except ValueError:
        raise row.fault("date", "is not a day such as 2026-11-21") from None
