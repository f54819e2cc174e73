"""The answer of `sae compare`: the SAE's numbers beside its random control's, as one table.

Read back from rows. Knows nothing of how they were computed.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from analyses.keeping import PLANTED_NOTE, Rows
from stores.database import Connection
from stores.encodings import BANKS
from stores.results import Metric, read_metrics, read_tables

COLUMNS = ("", "SAE", "random control", "chance", "p", "n")
LINES = (
    ("variance_unexplained", "variance unexplained"),
    ("l0", "features on a token (L0)"),
    ("dead_features", "features that never fired"),
    ("loss_recovered", "loss recovered"),
    ("cosine.mean", "best cosine with a vector, mean"),
    ("cosine.found", "  emotions above the null (q < .05)"),
    ("rebuild.denoised.1", "vector rebuilt from 1 feature"),
    ("rebuild.denoised.8", "  from 8"),
    ("rebuild.denoised.32", "  from 32"),
    ("auc.mean", "AUC of the best feature, other topics"),
    ("auc.found", "  emotions above chance (q < .05)"),
    ("jaccard.synonyms", "top features shared by synonyms"),
    ("jaccard.within", "  within families"),
    ("jaccard.across", "  across"),
    ("rsa", "geometry of codes with the linear one"),
)
CRITERIA = ("V1", "V2", "V3", "V4")
STEERING = ("steered as r foretells", "beyond the control, Elo")
CRITERIA_COLUMNS = ("(by chance)", *CRITERIA, *STEERING)
IN_PLACE = {
    "vector": "the vectors",
    "auc": "best feature by AUC",
    "cosine": "best feature by cosine",
    "control": "the control's by AUC",
    "control_cosine": "the control's by cosine",
}
"""Who is read and steered with, in the place of the vectors."""

GAINS = (
    ("cosine.gain", "best cosine"),
    ("rebuild.denoised.gain.1", "vector rebuilt from 1 feature"),
    ("auc.gain", "AUC"),
    ("rsa.gain", "RSA"),
)


@dataclass(frozen=True, slots=True)
class Board:
    """What is shown of one SAE."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    criteria: tuple[tuple[str, ...], ...]
    """A row for each of `IN_PLACE`: controlled readings, and steering."""
    lines: tuple[str, ...]
    settings: dict[str, Any]
    metrics: tuple[Metric, ...]

    def document(self) -> dict[str, Any]:
        """The same for a machine, nothing rounded."""
        return {"settings": self.settings, "metrics": [asdict(row) for row in self.metrics]}


def read_board(conn: Connection, reader: str, corpus: str, name: str) -> Board:
    """The current rows of analysis `name`."""
    place = (conn, reader, corpus, name)
    rows = Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))
    settings = rows.settings
    planted = settings.get("labels") == "planted"
    note = f"{PLANTED_NOTE}: it shows that the tool works; " if planted else ""
    return Board(
        f"{note}SAE {settings['name']}, reader {reader}, corpus {corpus}, "
        f"layer {settings['layer']}",
        tuple(line for metric, told in LINES if (line := _line(rows, metric, told))),
        tuple(_in_place(rows, who) for who in IN_PLACE),
        tuple(_notes(rows)),
        settings,
        rows.metrics,
    )


def _line(rows: Rows, metric: str, told: str) -> tuple[str, ...] | None:
    """A number of the SAE beside the control's own; None where there is no such row."""
    sae, control = _both(rows, metric)
    if sae is None:
        return None
    found = "" if control is None else _told(control)
    # the chance of a row of the SAE's may be the control's number, which stands there already
    chance = "" if sae.chance is None or _told(sae, sae.chance) == found else sae.chance
    p = "" if sae.p_value is None else f"{sae.p_value:.2g}"
    return (
        told,
        _told(sae),
        found,
        chance if chance == "" else f"{chance:.3g}",
        p,
        str(sae.n or ""),
    )


def _both(rows: Rows, metric: str) -> tuple[Metric | None, Metric | None]:
    """The row of the SAE and the row of its control: by subject, or by the metric's name."""
    found = {row.subject: row for row in rows.select(metric)}
    if set(BANKS) & set(found):
        return found.get("sae"), found.get("control")
    names = (f"{metric}.control", _before_last(metric))
    control = [row for name in names for row in rows.select(name) if row.subject is None]
    return found.get(None), control[0] if control else None


def _before_last(metric: str) -> str:
    """`rebuild.raw.8` of the control is `rebuild.raw.control.8`."""
    first, _, last = metric.rpartition(".")
    return f"{first}.control.{last}"


def _told(row: Metric, value: float | None = None) -> str:
    number = row.value if value is None else value
    return "undefined" if number is None else f"{number:.3g}"


def _in_place(rows: Rows, who: str) -> tuple[str, ...]:
    """The controlled readings with these directions in the vectors' place."""
    read = [_of(rows, f"{criterion}.controlled.{who}") for criterion in CRITERIA]
    steered, gain = _of(rows, f"steer.{who}"), _of(rows, f"steer.{who}.gain")
    return (
        IN_PLACE[who],
        *("" if row is None else f"{_told(row)} of {row.n}{_chance(row)}" for row in read[:3]),
        "" if read[3] is None else f"{_told(read[3])}{_chance(read[3])}",
        "" if steered is None else f"r = {_told(steered)}",
        "" if gain is None else _with_p(gain),
    )


def _chance(row: Metric) -> str:
    return "" if row.chance is None else f" ({row.chance:.2g})"


def _of(rows: Rows, metric: str) -> Metric | None:
    return next((row for row in rows.select(metric) if row.subject is None), None)


def _with_p(row: Metric) -> str:
    return _told(row) if row.p_value is None else f"{_told(row)} (p {row.p_value:.2g})"


def _notes(rows: Rows) -> Iterator[str]:
    """What the table alone would not tell."""
    settings = rows.settings
    if settings["differences"]:
        yield f"forced: this SAE is not the reader's: {settings['differences']}"
    stated = {
        name.removeprefix("stated_"): value
        for name, value in settings.items()
        if name.startswith("stated_")
    }
    if stated:
        yield "stated of it: " + ", ".join(f"{name} {value:.6g}" for name, value in stated.items())
    for metric, what in GAINS:
        if (gain := _of(rows, metric)) is not None and gain.value is not None:
            told = [f"{end:+.2g}" for end in (gain.ci_low, gain.ci_high) if end is not None]
            p = "" if gain.p_value is None else f", p {gain.p_value:.2g}"
            yield f"{what} beyond the random control's: {gain.value:+.3f} [{', '.join(told)}]{p}"
