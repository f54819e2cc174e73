"""The demo's vectors and analyses, and its closing table, read back from the rows they published.

Knows nothing of texts, models or terminals. What is found here was planted: it shows that the tool
works and says nothing about language models.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.base import Inputs, discover, run_analysis
from analyses.demo_saes import STEERED, compare_saes, summarise_saes
from analyses.external_job import at_layers, read_source
from analyses.opening import allow, open_inputs
from analyses.vectors import build_vectors
from stores.database import Connection
from stores.errors import Stopped
from stores.protocol import Protocol
from stores.published import load_published
from stores.results import Metric, read_metrics
from stores.texts import counts
from stores.workspace import Workspace

if TYPE_CHECKING:
    from engine.loading import LazyModel

SEED, PERMUTATIONS = 0, 1000
OTHERS = 300
"""Documents of each made-up source."""

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
    model: "LazyModel",
    *,
    suite: bool,
    watch: Watch,
    stop: threading.Event,
) -> list[Finding]:
    """Build the vectors, project texts on them, run every analysis and compare two SAEs, unless
    nothing changed.

    Returns the closing table. `layer` is the analysis layer. Left out are the verification suite
    and steering by features where `suite` says so, human norms, which have nothing to say of a
    toy, and halves of single stories. Raises Stopped.
    """
    place = (conn, workspace, protocol, reader, corpus, layers)
    rest = {"model": model, "watch": watch, "stop": stop}
    inputs = open_inputs(*place, layer, rest, seed=SEED, permutations=PERMUTATIONS)
    load_published(conn)
    build_vectors(conn, workspace, protocol, reader, corpus, layers)
    read_others(inputs)
    every = [each for _, each in sorted(discover().items())]
    known, _ = allow([each for each in every if suite or "model" not in each.needs], inputs, ())
    watch("analyses", 0, len(known) + 1, "vectors")
    for done, analysis in enumerate(known, 1):
        watch("analyses", done, len(known) + 1, analysis.name)
        run_analysis(analysis, inputs)
    watch("analyses", len(known) + 1, len(known) + 1, "")
    refusal = compare_saes(inputs, steered=STEERED if suite else 0)
    saes = [("SAE features near the vectors", "", refusal)] if refusal else None
    return [
        *summarise_texts(conn, corpus),
        *summarise_geometry(conn, reader, corpus, layer),
        *summarise_others(conn, reader, corpus),
        *(Finding(*line) for line in saes or summarise_saes(conn, reader, corpus)),
    ]


def read_others(inputs: Inputs) -> None:
    """Project two made-up sources, notes and chats, at the analysis layer. Raises Stopped."""
    from engine.demo.external import write_sources
    from engine.sources.files import open_files

    folder = inputs.workspace.root / "data" / "texts"
    for name, path in write_sources(folder, documents=OTHERS, seed=SEED).items():
        source, at = open_files(path, name=name), at_layers(inputs, (inputs.layer,))
        if read_source(at, source, size=OTHERS, max_tokens=512) is None:
            raise Stopped(f"stopped while {name} were read")


def summarise_others(conn: Connection, reader: str, corpus: str) -> list[Finding]:
    """What the two sources share raw, and what is left of their agreement once centred."""
    rows = read_metrics(conn, reader, corpus, "external")
    raw, centred = (_only(rows, f"agreement.{kind}", "chats~notes") for kind in ("raw", "neutral"))
    shares = [_only(rows, "offset_share", name).value or 0.0 for name in ("chats", "notes")]
    return [
        Finding(
            "texts of others, a common offset",
            f"{shares[0]:.0%} of chats, {shares[1]:.0%} of notes",
            "share of the projections' variation that is the same in every document",
        ),
        Finding(
            "rankings of chats and notes",
            f"rho = {raw.value:.2f} raw, {centred.value:.2f} against neutral texts",
            f"Spearman over {raw.n} emotions",
        ),
    ]


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
