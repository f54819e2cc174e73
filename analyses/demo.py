"""The demo's vectors and analyses, and its closing table, read back from the rows they published.

Knows nothing of texts, models or terminals. What is found here was planted: it shows that the tool
works and says nothing about language models.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.base import discover, run_analysis
from analyses.opening import allow, open_inputs
from analyses.vectors import build_vectors
from stores.database import Connection
from stores.protocol import Protocol
from stores.published import load_published
from stores.results import Metric, read_metrics
from stores.texts import counts
from stores.workspace import Workspace

if TYPE_CHECKING:
    from engine.loading import LazyModel

SEED, PERMUTATIONS = 0, 1000

Watch = Callable[[str, int, int, str], None]
"""Told the stage, how many of its steps are done, of how many, and a note."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the closing table."""

    what: str
    value: str
    note: str = ""


def analyse_demo(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    reader: str,
    corpus: str,
    layers: tuple[int, ...],
    layer: int,
    model: "LazyModel | None",
    *,
    watch: Watch,
    stop: threading.Event,
) -> list[Finding]:
    """Build the vectors and run every analysis, unless nothing changed; the closing table.

    `layer` is the analysis layer. Left out are those that read a model when there is none, human
    norms, which have nothing to say of a toy, and halves of single stories.
    """
    place = (conn, workspace, protocol, reader, corpus, layers)
    rest = {"model": model, "watch": watch, "stop": stop}
    inputs = open_inputs(*place, layer, rest, seed=SEED, permutations=PERMUTATIONS)
    every = [each for _, each in sorted(discover().items())]
    known, _ = allow([each for each in every if model or "model" not in each.needs], inputs, ())
    watch("analyses", 0, len(known) + 1, "vectors")
    load_published(conn)
    build_vectors(conn, workspace, protocol, reader, corpus, layers)
    for done, analysis in enumerate(known, 1):
        watch("analyses", done, len(known) + 1, analysis.name)
        run_analysis(analysis, inputs)
    watch("analyses", len(known) + 1, len(known) + 1, "")
    return summarise_texts(conn, corpus) + summarise_geometry(conn, reader, corpus, layer)


def summarise_texts(conn: Connection, corpus: str) -> list[Finding]:
    """Rows by status, and why replies were refused."""
    refused = conn.execute(
        "SELECT kind, count(*) AS n FROM replies WHERE corpus = ? GROUP BY kind", (corpus,)
    )
    replies = {row["kind"]: row["n"] for row in refused}
    lines = []
    for kind in ("stories", "dialogues"):
        rows = [row for row in counts(conn) if (row.corpus, row.kind) == (corpus, kind)]
        total = {
            status: sum(row.n for row in rows if row.status == status)
            for status in ("done", "rejected", "failed")
        }
        reasons = ", ".join(f"{row.reason} {row.n}" for row in rows if row.status == "rejected")
        lines.append(
            Finding(
                kind,
                ", ".join(f"{n} {status}" for status, n in total.items()),
                f"of {replies.get(kind, 0)} replies{': ' + reasons if reasons else ''}",
            )
        )
    return lines


def summarise_geometry(conn: Connection, reader: str, corpus: str, layer: int) -> list[Finding]:
    """The plant recovered: components against labels, families, reliability, at one layer."""
    geometry = read_metrics(conn, reader, corpus, "geometry", layer=layer)
    vectors = read_metrics(conn, reader, corpus, "vectors", layer=layer)

    lines = []
    for component, label in (("PC1", "valence"), ("PC2", "arousal")):
        row = _only(geometry, f"r_{label}", component)
        share = _only(geometry, "pc_variance", component).value or 0.0
        lines.append(
            Finding(
                f"{component} with planted {label}",
                f"abs r = {abs(row.value or 0):.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]",
                f"permutation p = {row.p_value:.4f}, n = {row.n}, {share:.0%} of the variance",
            )
        )
    ari = _only(geometry, "ari_families", "k-means")
    lines.append(
        Finding(
            "planted families recovered",
            f"ARI = {ari.value:.2f}",
            f"chance {ari.chance:.2f}, permutation p = {ari.p_value:.4f}",
        )
    )
    return [*lines, _reliability(vectors)]


def _only(rows: list[Metric], metric: str, subject: str | None) -> Metric:
    return next(row for row in rows if (row.metric, row.subject) == (metric, subject))


def _reliability(rows: list[Metric]) -> Finding:
    halves = [row for row in rows if row.metric == "split_half"]
    if not halves:
        return Finding("split-half reliability", "", "needs two stories of each emotion")
    whole = _only(rows, "reliability", None).value or 0.0
    note = f"mean cosine of the halves' vectors; {whole:.2f} stepped up to all (Spearman-Brown)"
    return Finding("split-half reliability", f"{halves[0].value:.2f}", note)
