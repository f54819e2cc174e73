"""The answer of `project`: the ranking of one source as a table, and what it is worth in words.

Read back from rows. Knows nothing of how they were computed.
"""

from dataclasses import dataclass
from typing import Any

from analyses.keeping import PLANTED_NOTE, Rows
from stores.database import Connection
from stores.errors import NotReady
from stores.results import Cell, read_metrics, read_tables

NAME = "external"
TOP, BOTTOM = 10, 5
COLUMNS = ("rank", "raw", "", "above neutral texts, sd", "", "first in documents", "")


@dataclass(frozen=True, slots=True)
class Board:
    """What is shown of a source."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    ranking: tuple[dict[str, Cell], ...]
    settings: dict[str, Any]
    source: dict[str, Cell]
    agreement: tuple[dict[str, Cell], ...]

    def document(self) -> dict[str, Any]:
        """The same for a machine: every emotion, nothing rounded."""
        return {
            "settings": self.settings,
            "source": self.source,
            "ranking": list(self.ranking),
            "agreement": list(self.agreement),
        }


def read_board(conn: Connection, reader: str, corpus: str, source: str) -> Board:
    """The current rows of the analysis about one source, at its analysis layer.

    NotReady where the source was left out, with the reason.
    """
    place = (conn, reader, corpus, NAME)
    rows = Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))
    settings = rows.settings
    layer = int(settings["layer"])
    about = next((row for row in rows.records("sources") if row["source"] == source), None)
    if about is None:
        raise NotReady(f"{source} is not among the results: {settings['left_out']}")
    ranking = [row for row in rows.records("ranking", layer) if row["source"] == source]
    planted = f"{PLANTED_NOTE}: it shows that the tool works; "
    note = planted if settings["labels"] == "planted" else ""
    return Board(
        f"{note}{source}, {about['documents']} documents, reader {reader}, corpus {corpus}, "
        f"layer {layer}",
        COLUMNS,
        tuple(_lines(ranking)),
        (str(about["offset"]), *_agreements(rows, source, layer), *_left_out(settings)),
        tuple(ranking),
        settings,
        about,
        tuple(
            {"metric": row.metric, "sources": row.subject, "value": row.value, "n": row.n}
            | {"chance": row.chance, "ci_low": row.ci_low, "ci_high": row.ci_high}
            | {"p_value": row.p_value}
            for row in rows.metrics
            if row.metric.startswith("agreement.") and row.layer == layer
        ),
    )


def _lines(ranking: list[dict[str, Cell]]) -> list[tuple[str, ...]]:
    """The top and the bottom of each of the three rankings, beside each other."""
    ranked = [_ranked(ranking, key) for key in ("raw", "neutral", "first")]
    shown = [rank for rank in range(len(ranking)) if _at_an_end(rank, len(ranking))]
    lines = []
    for rank in shown:
        cells = [cell for column in ranked for cell in column[rank : rank + 1] or [("", "")]]
        lines.append((str(rank + 1), *(text for cell in cells for text in cell)))
    return lines


def _at_an_end(rank: int, n: int) -> bool:
    return rank < TOP or rank >= n - BOTTOM


def _ranked(ranking: list[dict[str, Cell]], key: str) -> list[tuple[str, str]]:
    """Emotion and number with interval, highest first; nothing where the number is missing."""
    known = [row for row in ranking if row[key] is not None]
    known.sort(key=lambda row: -float(row[key] or 0.0))
    return [(str(row["emotion"]), _number(row, key)) for row in known]


def _number(row: dict[str, Cell], key: str) -> str:
    value, low, high = (row[name] for name in (key, f"{key}_low", f"{key}_high"))
    shown = "{:.1%}" if key == "first" else "{:+.3g}"
    between = "" if low is None or high is None else f" [{shown.format(low)}, {shown.format(high)}]"
    return shown.format(value) + between


def _left_out(settings: dict[str, Any]) -> list[str]:
    """The other sources that no line is about, with the reason."""
    return [f"left out: {settings['left_out']}"] if settings["left_out"] else []


def _agreements(rows: Rows, source: str, layer: int) -> list[str]:
    """How far this source's rankings agree with those of every other one."""
    lines = []
    for row in rows.metrics:
        concerns = row.subject is not None and source in row.subject.split("~")
        if row.metric.startswith("agreement.") and row.layer == layer and concerns:
            p = "" if row.p_value is None else f", p = {row.p_value:.2g}"
            value = "not defined" if row.value is None else f"{row.value:+.2f}"
            ends = "" if row.ci_low is None else f" [{row.ci_low:+.2f}, {row.ci_high:+.2f}]"
            lines.append(f"{row.metric} {row.subject}: {value}{ends}, n = {row.n}{p}")
    return lines
