"""Emotion vectors of a reader: from pooled activations, layer by layer, raw and denoised.

An emotion vector is the mean of an emotion's pooled texts less the mean over emotions; denoised, it
has nothing along the directions that neutral dialogues vary along. Knows nothing of models.
Sums are float64; memory holds a few chunks at a time, so that arrays may be larger than memory.
"""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.methods.denoising import NeutralScatter, project_out
from analyses.methods.directions import EmotionMeans, difference_of_means
from analyses.readiness import unfinished_stage
from analyses.vector_metrics import LayerVectors, describe_layer
from stores.corpora import open_corpus, planned_emotions
from stores.database import Connection, canonical_json, digest
from stores.errors import NotReady, StoreCorrupt
from stores.layers import iter_layer_chunks
from stores.protocol import Protocol
from stores.results import export_results, publish, read_metrics
from stores.rows import Row, layer_digests, read_rows
from stores.runs import recorded_run
from stores.texts import Kind
from stores.vectors import vector_inputs, write_vectors
from stores.workspace import Workspace

Integers = NDArray[np.int64]

NAME = "vectors"
METHOD = 1
"""Counts the changes of the arithmetic below; stored with every vector."""
NOT_USED = -1


@dataclass(frozen=True, slots=True)
class VectorsSummary:
    """What `build_vectors` did."""

    run_id: int | None
    """None when nothing had to be built."""
    built: tuple[int, ...]
    unchanged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """A reader's activations of a corpus, and which row is whose."""

    conn: Connection
    workspace: Workspace
    reader: str
    corpus: str
    emotions: tuple[str, ...]
    stories: Integers
    """(rows,) index into `emotions`, NOT_USED for rows that are not done."""
    dialogues: Integers
    """(rows,) 0, or NOT_USED."""


def build_vectors(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    reader: str,
    corpus: str,
    layers: Sequence[int],
    *,
    denoise: float = 0.5,
) -> VectorsSummary:
    """Build and store the vectors of `layers`, skipping those whose inputs did not change.

    denoise is the share of the neutral variance to project out; 0 needs no dialogues. The metrics
    of layers that are not rebuilt stay current. NotReady names the emotions that have no text, or
    the stage that is unfinished; FingerprintMismatch when the corpus has another protocol.
    """
    sources = open_sources(conn, workspace, protocol, reader, corpus, denoise)
    open_corpus(conn, corpus, protocol.digest, protocol.files)
    settings = {"denoise": denoise, "method": METHOD}
    inputs = _inputs_digests(sources, layers, settings)
    before = read_metrics(conn, reader, corpus, NAME)
    stale = _stale_layers(sources, inputs, {row.layer for row in before})
    unchanged = tuple(layer for layer in layers if layer not in stale)
    if not stale:
        return VectorsSummary(None, (), unchanged)
    with recorded_run(
        conn,
        "vectors build",
        {**settings, "layers": stale},
        inputs=digest(canonical_json([inputs[layer] for layer in stale])),
        protocol_digest=protocol.digest,
        reader=reader,
        corpus=corpus,
    ) as run:
        metrics = [row for row in before if row.layer not in stale]
        for layer in stale:
            built = build_layer(sources, layer, denoise)
            _store_layer(sources, layer, built, settings, inputs[layer], run.id)
            metrics += describe_layer(built, layer, sources.emotions)
        publish(conn, run.id, reader, corpus, NAME, metrics)
        export_results(conn, workspace, reader, corpus, NAME)
    return VectorsSummary(run.id, stale, unchanged)


def _stale_layers(
    sources: Sources, inputs: Mapping[int, str], described: set[int | None]
) -> tuple[int, ...]:
    """Layers without vectors of these inputs, or without the metrics that describe them."""
    place = (sources.conn, sources.reader, sources.corpus)
    return tuple(
        layer
        for layer, wanted in inputs.items()
        if layer not in described or vector_inputs(*place, layer) != wanted
    )


def _store_layer(
    sources: Sources,
    layer: int,
    built: LayerVectors,
    settings: Mapping[str, float],
    inputs: str,
    run_id: int,
) -> None:
    write_vectors(
        sources.conn,
        sources.workspace,
        sources.reader,
        sources.corpus,
        emotions=sources.emotions,
        layer=layer,
        raw=built.raw,
        denoised=built.denoised,
        settings=settings,
        inputs=inputs,
        run_id=run_id,
    )


def open_sources(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    reader: str,
    corpus: str,
    denoise: float,
) -> Sources:
    """Label the rows. The emotions are those planned in the corpus, in the protocol's order.

    NotReady names the planned emotions that have no pooled story (a mean over the others would
    change every vector), and refuses to denoise without dialogues.
    """
    stories = read_rows(conn, reader, corpus, "stories")
    pooled = {row.emotion for row in stories if row.status == "done"}
    planned = planned_emotions(conn, corpus)
    emotions = tuple(name for name in protocol.names if name in planned)
    without = [name for name in emotions if name not in pooled]
    if len(emotions) < 2:
        raise NotReady(
            f"corpus {corpus} has stories of {len(emotions)} {protocol.concept}s of this protocol, "
            f"and a vector is a difference from the mean over two or more: "
            f"{unfinished_stage(conn, reader, corpus)}"
        )
    if without:
        raise NotReady(
            f"{len(without)} of {len(emotions)} emotions planned in corpus {corpus} have no story "
            f"pooled by reader {reader}: {', '.join(without[:10])}"
            f"{', ...' if len(without) > 10 else ''}; {unfinished_stage(conn, reader, corpus)}"
        )
    index = {name: i for i, name in enumerate(emotions)}
    dialogues = label_rows(read_rows(conn, reader, corpus, "dialogues"), {})
    if denoise > 0.0 and int((dialogues != NOT_USED).sum()) < 2:
        raise NotReady(
            f"denoising needs neutral dialogues of corpus {corpus} pooled by reader {reader}: "
            f"{unfinished_stage(conn, reader, corpus, 'dialogues')}; or give --denoise 0"
        )
    return Sources(conn, workspace, reader, corpus, emotions, label_rows(stories, index), dialogues)


def build_layer(sources: Sources, layer: int, denoise: float) -> LayerVectors:
    """Pass once over a layer's dialogues and stories.

    The neutral components are computed by a thread of their own while the stories are read.
    """
    if denoise == 0.0:
        means, raw = read_stories(sources, layer)
        return LayerVectors(raw, raw, means, None)
    scatter = NeutralScatter()
    with closing(labelled_blocks(sources, "dialogues", sources.dialogues, layer)) as blocks:
        for block, _ in blocks:
            scatter.add(block)
    with ThreadPoolExecutor(1, "components") as aside:
        underway = aside.submit(scatter.components, denoise)
        means, raw = read_stories(sources, layer)
        neutral = underway.result()
    return LayerVectors(raw, project_out(raw, neutral.components), means, neutral)


def read_stories(sources: Sources, layer: int) -> tuple[EmotionMeans, NDArray[np.float64]]:
    """The running means of a layer's stories and the raw vectors (e, d)."""
    means = EmotionMeans(len(sources.emotions))
    with closing(labelled_blocks(sources, "stories", sources.stories, layer)) as blocks:
        for block, labels in blocks:
            means.add(block, labels)
    return means, difference_of_means(means.means())


def label_rows(rows: Sequence[Row], index: Mapping[str, int]) -> Integers:
    """(rows,) number of each row's emotion, 0 for dialogues, NOT_USED where nothing is pooled."""
    labels = np.full(max((row.row for row in rows), default=-1) + 1, NOT_USED, dtype=np.int64)
    for row in rows:
        if row.status == "done":
            labels[row.row] = 0 if row.emotion is None else index[row.emotion]
    return labels


def labelled_blocks(
    sources: Sources, kind: Kind, labels: Integers, layer: int
) -> Generator[tuple[NDArray[np.float32], Integers], None, None]:
    """A layer's usable rows with their labels, by chunk. StoreCorrupt names a row not finite."""
    place = (sources.conn, sources.workspace, sources.reader, sources.corpus, kind, layer)
    with closing(iter_layer_chunks(*place)) as chunks:
        for first, block in chunks:
            here = labels[first : first + len(block)]
            used = here != NOT_USED
            rows = block[: len(here)]
            if not used.all():  # hardly ever: no copy
                rows = rows[used]
            if (bad := _first_not_finite(rows)) is not None:
                row = first + int(np.flatnonzero(used)[bad])
                raise StoreCorrupt(
                    f"row {row} of layer {layer} of {kind} of corpus {sources.corpus} by reader "
                    f"{sources.reader} is not finite; run `cli.py doctor --repair`, then `extract`"
                )
            yield rows, here[used]


def _first_not_finite(rows: NDArray[np.float32]) -> int | None:
    """The first row with NaN or infinity in it. A sum finds most blocks clean in one pass."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):
            return None
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    return int(bad[0]) if len(bad) else None


def _inputs_digests(
    sources: Sources, layers: Sequence[int], settings: Mapping[str, float]
) -> dict[int, str]:
    shared = [list(sources.emotions), dict(settings)]
    found = layer_digests(sources.conn, sources.reader, sources.corpus, layers)
    return {layer: digest(canonical_json([texts, *shared])) for layer, texts in found.items()}
