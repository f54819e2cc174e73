"""The sources on the hub that have a name here, as data/reference/sources.tsv lists them.

Knows the table only: nothing is asked of the hub.
"""

from dataclasses import dataclass
from pathlib import Path

from stores.errors import ProtocolError
from stores.textfiles import Folder, Row, refuse_repeats

REFERENCE = Path(__file__).parents[2] / "data" / "reference"
TABLE = "sources.tsv"
COLUMNS = ("name", "dataset", "config", "split", "text_field", "part_field", "gated", "licence")
GATED = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Listed:
    """A data set of the hub by its short name; the dotted fields hold its text and its parts."""

    name: str
    dataset: str
    config: str | None
    split: str
    text_field: str
    part_field: str | None
    gated: bool
    licence: str
    note: str


def read_catalogue(folder: Path = REFERENCE) -> dict[str, Listed]:
    """Every listed source by name, in the order of the table. Raises ProtocolError."""
    rows = Folder((folder,)).rows(TABLE, COLUMNS)
    if not rows:
        raise ProtocolError(f"{folder / TABLE} is missing or empty; it lists the sources by name")
    refuse_repeats(rows, "name")
    return {row.text("name"): _listed(row) for row in rows}


def find_source(name: str) -> Listed | None:
    """The listed source of that name; None when there is none."""
    return read_catalogue().get(name)


def _listed(row: Row) -> Listed:
    if row.text("gated") not in GATED:
        raise row.fault("gated", "is neither yes nor no")
    return Listed(
        name=row.text("name"),
        dataset=row.text("dataset"),
        config=row.cells["config"] or None,
        split=row.text("split"),
        text_field=row.text("text_field"),
        part_field=row.cells["part_field"] or None,
        gated=GATED[row.text("gated")],
        licence=row.text("licence"),
        note=row.cells.get("note", ""),
    )
