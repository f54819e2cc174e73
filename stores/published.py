"""Numbers from the literature, as rows beside our own.

Knows where they are kept and how they are spelled; knows nothing of what they mean.
"""

from dataclasses import dataclass
from pathlib import Path

from stores.database import Connection, transaction
from stores.errors import ProtocolError
from stores.textfiles import Folder, Row

PUBLISHED = Path(__file__).parent.parent / "data" / "reference" / "published.tsv"
COLUMNS = ("source", "model", "metric", "value", "note")


@dataclass(frozen=True, slots=True)
class Published:
    """One published number; `value` None where the source tells it in words alone."""

    source: str
    model: str
    metric: str
    value: float | None
    note: str


def load_published(conn: Connection, path: Path = PUBLISHED) -> None:
    """Bring the rows of every source that the file names to what the file says.

    Loading twice changes nothing. Raises ProtocolError naming the line of a bad row.
    """
    numbers = [_number(row) for row in _read_rows(path)]
    if numbers == read_published(conn):
        return
    with transaction(conn):
        sources = {(number.source,) for number in numbers}
        conn.executemany("DELETE FROM published WHERE source = ?", sorted(sources))
        conn.executemany(
            f"INSERT INTO published ({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?)",
            [(n.source, n.model, n.metric, n.value, n.note) for n in numbers],
        )


def read_published(conn: Connection, metric: str | None = None) -> list[Published]:
    """The published numbers, in the order of the file; of one metric where asked."""
    query = f"""
        SELECT {", ".join(COLUMNS)} FROM published WHERE ?1 IS NULL OR metric = ?1 ORDER BY rowid"""
    return [Published(*found) for found in conn.execute(query, (metric,))]


def _read_rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise ProtocolError(f"{path} is missing; it holds the numbers to compare with")
    rows = Folder((path.parent,)).rows(path.name, COLUMNS)
    seen: dict[tuple[str, ...], int] = {}
    for row in rows:
        first = seen.setdefault(tuple(row.text(column) for column in COLUMNS[:3]), row.line)
        if first != row.line:
            raise row.fault("metric", f"repeats line {first}")
    return rows


def _number(row: Row) -> Published:
    value = row.number("value") if row.cells["value"] else None
    source, model, metric, note = (row.text(name) for name in COLUMNS if name != "value")
    return Published(source, model, metric, value, note)
