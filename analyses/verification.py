"""The verification suite V1-V11: which analysis answers which criterion, and the board of results.

The board is read back from rows; nothing is computed here. Beside the score and bar of the report
(Hong 2026) it shows the reading that is controlled for chance, and what others published.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from analyses.base import Analysis
from stores.database import Connection
from stores.errors import UsageError
from stores.published import Published, read_published
from stores.results import Metric, read_metrics

MEASURES = {
    "V1": ("logit_lens", "emotions whose own word is among the top 20 tokens"),
    "V2": ("logit_lens", "opposite pairs whose logits oppose, of 5"),
    "V3": ("scenarios", "scenarios in which the own probe is highest, of 12"),
    "V4": ("scenarios", "mean rank of the own probe"),
    "V5": ("intensity", "signs as expected, of 24"),
    "V6": ("intensity", "strong rank correlations, of 24"),
    "V7": ("preferences", "Elo between the best and the worst category"),
    "V8": ("preferences", "expected valence among the 3 ends, the worse end"),
    "V9": ("preferences", "emotions whose probe goes with Elo, abs r > .3"),
    "V10": ("preference_steering", "r of probe and change of Elo"),
    "V11": ("preference_steering", "changes of Elo as valence expects"),
}
"""Criterion -> the analysis that answers it, and what is counted."""
RELATIONS = {"V4": "<=", "V7": ">", "V10": "abs >"}
"""How a value meets the report's bar, where it is not 'at least'."""


@dataclass(frozen=True, slots=True)
class Line:
    """One criterion: the report's score, the controlled reading of it, and published scores."""

    criterion: str
    measure: str
    bar: str
    score: Metric
    controlled: Metric
    published: tuple[Published, ...]

    def cells(self) -> tuple[object, ...]:
        """The line as the columns of COLUMNS."""
        score, controlled = self.score, self.controlled
        return (
            self.criterion,
            self.measure,
            _number(score.value),
            self.bar,
            _verdict(score.passed),
            score.n,
            _number(score.chance),
            _interval(score),
            _p(score.p_value),
            f"{_number(controlled.value)} (p {_p(controlled.p_value)})",
            _verdict(controlled.passed),
            "; ".join(self._published()),
        )

    def _published(self) -> Iterator[str]:
        """Each published score with its source; with its model where a source has several."""
        sources = [row.source for row in self.published]
        for row in self.published:
            whose = f"{row.source}, {row.model}" if sources.count(row.source) > 1 else row.source
            yield f"{whose} {_number(row.value)}"

    def document(self) -> dict[str, object]:
        """The line as JSON values."""
        found = {"criterion": self.criterion, "measure": self.measure, "bar": self.bar}
        return found | {
            "score": asdict(self.score),
            "controlled": asdict(self.controlled),
            "published": [asdict(row) for row in self.published],
        }


COLUMNS = (
    *("", "measure", "value", "bar", "pass", "n", "chance", "95% interval", "p"),
    *("controlled", "holds", "published"),
)


def choose_criteria(names: Sequence[str]) -> tuple[str, ...]:
    """The criteria named, in order; all of them for 'all' or none. UsageError lists the known."""
    asked = [name.upper() for name in names]
    if unknown := [name for name in asked if name not in MEASURES and name != "ALL"]:
        raise UsageError(f"unknown criterion {unknown[0]!r}; known: {', '.join(MEASURES)}, all")
    if not asked or "ALL" in asked:
        return tuple(MEASURES)
    return tuple(name for name in MEASURES if name in asked)


def answering(criteria: Sequence[str], known: dict[str, Analysis]) -> list[Analysis]:
    """The analyses that answer these criteria, each once, in the order of the criteria."""
    return [known[name] for name in dict.fromkeys(MEASURES[each][0] for each in criteria)]


def read_board(conn: Connection, reader: str, corpus: str, criteria: Sequence[str]) -> list[Line]:
    """The lines of these criteria, from the current rows of their analyses."""
    lines = []
    for name in criteria:
        analysis, measure = MEASURES[name]
        rows = {
            row.metric: row
            for row in read_metrics(conn, reader, corpus, analysis)
            if row.subject is None
        }
        score = rows[name]
        bar = f"{RELATIONS.get(name, '>=')} {_number(score.threshold)}"
        published = tuple(read_published(conn, name))
        lines.append(Line(name, measure, bar, score, rows[f"{name}.controlled"], published))
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.2f}"


def _interval(row: Metric) -> str:
    return "" if row.ci_low is None else f"{_number(row.ci_low)} to {_number(row.ci_high)}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _verdict(passed: bool | None) -> str:
    return "" if passed is None else "yes" if passed else "no"
