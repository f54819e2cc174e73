"""How fast a model was read with before: a metric of the run that did it, and the way back to it.

A rate belongs to the weights, the compute type and the device it was measured with, and to the
last layer that was wanted, where the passes end. Knows nothing of models or devices.
"""

from dataclasses import dataclass

from stores.database import Connection
from stores.results import Metric

ANALYSIS, METRIC = "extraction", "tokens_per_s"


@dataclass(frozen=True, slots=True)
class KnownRate:
    """What one run read: tokens per second, over `tokens`, up to `layer`."""

    run_id: int
    per_second: float
    layer: int
    tokens: int


def rate_metric(*, tokens: int, seconds: float, layer: int, where: str) -> Metric:
    """The number to publish under ANALYSIS; `where` names compute type and device."""
    return Metric(METRIC, tokens / seconds, layer=layer, subject=where, n=tokens)


def known_rate(conn: Connection, model_revision: str, where: str) -> KnownRate | None:
    """What the last run with these weights measured there; None when there was none."""
    found = conn.execute(
        """SELECT m.run_id, m.value, m.layer, m.n FROM metrics m JOIN runs r ON r.id = m.run_id
           WHERE m.analysis = ? AND m.metric = ? AND m.subject = ?
           AND r.model_revision = ? AND m.value > 0
           ORDER BY m.run_id DESC LIMIT 1""",
        (ANALYSIS, METRIC, where, model_revision),
    ).fetchone()
    return None if found is None else KnownRate(*found)
