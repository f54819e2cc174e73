"""What a reader's pass over a sample left: scores by document, summaries of tokens, top snippets.

A chunk of documents is committed whole, in one transaction; chunks do not depend on each other.
Knows nothing of models or of the mathematics of summaries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stores.database import Connection, canonical_json, digest, now_text, transaction
from stores.failpoints import reach
from stores.samples import Sample, known_samples
from stores.scorecells import (
    forget_snippets,
    pack_summary,
    read_floats,
    spell_floats,
    spell_pieces,
    unpack_summary,
)

KEPT_SNIPPETS = 10
"""Of each emotion at each layer, the best of a sample; one of a document at most."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One pass: a reader over a sample, along the vectors of one corpus."""

    id: int
    sample: Sample
    reader: str
    corpus: str
    settings: Mapping[str, Any]
    """layers, emotions, vectors (layer -> sha256), model, weights_sha, dtype, format, start_token,
    max_tokens, chunk_documents, summaries (order statistics kept of a chunk), snippet (tokens)."""
    finished: bool

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(self.settings["emotions"])

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.settings["layers"])


@dataclass(frozen=True, slots=True)
class DocumentOutcome:
    """What became of a document; `tokens` counts its content as read, `cut` says if not all was."""

    document_id: int
    status: Literal["done", "rejected", "failed"]
    reason: str | None
    tokens: int | None
    cut: bool


@dataclass(frozen=True, slots=True, eq=False)
class TokenSummary:
    """All pooled tokens of one chunk, as much of them as is kept: e probes."""

    tokens: int
    mean: NDArray[np.float64]
    """[e]"""
    scatter: NDArray[np.float64]
    """[e]: sum of squared deviations from the mean."""
    quantiles: NDArray[np.float32]
    """[e, k] ascending: the middle order statistics of k equal shares of the tokens."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A window of tokens with a high mean projection on one emotion's direction."""

    emotion: str
    document_id: int
    first: int
    """First content token of the window, 0-based."""
    score: float
    """Mean projection over the window."""
    tokens: tuple[str, ...]
    """Pieces of the text; joined they are the text of the window."""
    heat: tuple[float, ...]
    """Projection of each token."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerChunk:
    """A chunk's numbers at one layer: m documents that are done, in the order of the outcomes."""

    scores: NDArray[np.float32]
    """[m, e]: projection of the pooled mean on each direction."""
    norms: NDArray[np.float32]
    """[m]: mean residual norm over the pooled tokens."""
    summary: TokenSummary | None
    """None when no document of the chunk is done."""
    snippets: tuple[Snippet, ...]


def open_projection(
    conn: Connection,
    sample: Sample,
    reader: str,
    corpus: str,
    settings: Mapping[str, Any],
    run_id: int,
) -> Projection:
    """The pass with these settings, made when it is not there."""
    kept = canonical_json(dict(settings))
    with transaction(conn):
        if found := find_projection(conn, sample, reader, corpus, settings):
            return found
        cursor = conn.execute(
            "INSERT INTO projections (sample_id, reader, corpus, digest, settings, run_id, "
            "created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (sample.id, reader, corpus, digest(kept), kept, run_id, now_text()),
        )
    return Projection(cursor.lastrowid or 0, sample, reader, corpus, json.loads(kept), False)


def find_projection(
    conn: Connection, sample: Sample, reader: str, corpus: str, settings: Mapping[str, Any]
) -> Projection | None:
    """The pass with these settings, if there is one."""
    query = (
        "SELECT id, finished_at FROM projections "
        "WHERE sample_id = ? AND reader = ? AND corpus = ? AND digest = ?"
    )
    kept = canonical_json(dict(settings))
    row = conn.execute(query, (sample.id, reader, corpus, digest(kept))).fetchone()
    if row is None:
        return None
    finished = row["finished_at"] is not None
    return Projection(row["id"], sample, reader, corpus, json.loads(kept), finished)


def done_chunks(conn: Connection, projection_id: int) -> frozenset[int]:
    """The chunks that are committed."""
    query = "SELECT DISTINCT chunk FROM projected WHERE projection_id = ?"
    return frozenset(chunk for (chunk,) in conn.execute(query, (projection_id,)))


def snippet_bars(conn: Connection, projection_id: int, layer: int) -> dict[str, float]:
    """Emotion -> the score that a snippet must beat; none while fewer than KEPT_SNIPPETS."""
    query = (
        "SELECT emotion, min(score) FROM snippets WHERE projection_id = ? AND layer = ? "
        "GROUP BY emotion HAVING count(*) >= ?"
    )
    return dict(map(tuple, conn.execute(query, (projection_id, layer, KEPT_SNIPPETS))))


def commit_chunk(
    conn: Connection,
    projection: Projection,
    chunk: int,
    outcomes: Sequence[DocumentOutcome],
    layers: Mapping[int, LayerChunk],
) -> None:
    """All rows of a chunk in one transaction; ValueError when it is there already."""
    done = [outcome.document_id for outcome in outcomes if outcome.status == "done"]
    with transaction(conn):
        if chunk in done_chunks(conn, projection.id):
            raise ValueError(f"projection {projection.id}: chunk {chunk} is there already")
        conn.executemany(
            "INSERT INTO projected VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (projection.id, one.document_id, chunk, one.status, one.reason, one.tokens, one.cut)
                for one in outcomes
            ],
        )
        for layer, part in layers.items():
            _write_scores(conn, (projection.id, layer), done, part)
            reach("scores_written")
            if part.summary is not None:
                _write_summary(conn, (projection.id, layer, chunk), part.summary)
            _write_snippets(conn, (projection.id, layer), part.snippets)
            forget_snippets(conn, projection.id, layer, KEPT_SNIPPETS)


def finish_projection(conn: Connection, projection_id: int) -> None:
    """Say that every document was read. ValueError when one has no row.

    Said again, it makes this pass the newest one: the one that was asked for last.
    """
    query = """
        SELECT count(*) FROM documents d JOIN projections p ON p.sample_id = d.sample_id
        WHERE p.id = :pass AND NOT EXISTS (
            SELECT 1 FROM projected WHERE projection_id = :pass AND document_id = d.id)"""
    with transaction(conn):
        if missing := conn.execute(query, {"pass": projection_id}).fetchone()[0]:
            raise ValueError(f"projection {projection_id}: {missing} documents were not read")
        conn.execute(
            "UPDATE projections SET finished_at = ? WHERE id = ?", (now_text(), projection_id)
        )


def known_projections(
    conn: Connection, reader: str, corpus: str, *, finished: bool = True
) -> list[Projection]:
    """The newest pass of each source that is finished, or is not, by source name."""
    samples = {sample.id: sample for sample in known_samples(conn)}
    query = (
        "SELECT id, sample_id, settings FROM projections WHERE reader = ? AND corpus = ? "
        "AND (finished_at IS NOT NULL) = ? ORDER BY finished_at, id"
    )
    newest = {}
    for row in conn.execute(query, (reader, corpus, finished)):
        sample, kept = samples[row["sample_id"]], json.loads(row["settings"])
        newest[sample.source] = Projection(row["id"], sample, reader, corpus, kept, finished)
    return [newest[source] for source in sorted(newest)]


def count_outcomes(conn: Connection, projection_id: int) -> dict[str, int]:
    """'done', or the reason where there is one -> documents; 'cut' -> done ones read in part."""
    query = (
        "SELECT coalesce(reason, status), count(*) FROM projected WHERE projection_id = ? "
        "GROUP BY 1 ORDER BY 1"
    )
    cut = "SELECT count(*) FROM projected WHERE projection_id = ? AND status = 'done' AND cut"
    reached: dict[str, int] = dict(map(tuple, conn.execute(query, (projection_id,))))
    return {"done": 0} | reached | {"cut": conn.execute(cut, (projection_id,)).fetchone()[0]}


def read_scores(
    conn: Connection, projection_id: int, layer: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Document ids [n], scores [n, e] and norms [n] of the done documents, by position."""
    probes = "SELECT json_array_length(settings, '$.emotions') FROM projections WHERE id = ?"
    (e,) = conn.execute(probes, (projection_id,)).fetchone()
    query = """SELECT s.document_id, s.norm, s.scores
        FROM document_scores s JOIN documents d ON d.id = s.document_id
        WHERE s.projection_id = ? AND s.layer = ? ORDER BY d.rank, d.id"""
    rows = [tuple(row) for row in conn.execute(query, (projection_id, layer))]
    ids = np.array([row[0] for row in rows], np.int64)
    scores = read_floats(row[2] for row in rows).reshape(len(rows), e)
    return ids, scores.astype(np.float64), np.array([row[1] for row in rows], np.float64)


def read_summaries(conn: Connection, projection_id: int, layer: int) -> list[TokenSummary]:
    """The token summaries of a layer, by chunk."""
    query = (
        "SELECT tokens, moments, quantiles FROM token_summaries "
        "WHERE projection_id = ? AND layer = ? ORDER BY chunk"
    )
    return [
        TokenSummary(tokens, *unpack_summary(moments, quantiles))
        for tokens, moments, quantiles in conn.execute(query, (projection_id, layer))
    ]


def read_snippets(conn: Connection, projection_id: int, layer: int) -> list[Snippet]:
    """The kept snippets of a layer, by emotion as in the settings, best first."""
    query = """
        SELECT s.emotion, s.document_id, s.first, s.score, s.tokens, s.heat FROM snippets s
        JOIN documents d ON d.id = s.document_id
        JOIN projections p ON p.id = s.projection_id
        JOIN json_each(p.settings, '$.emotions') e ON e.value = s.emotion
        WHERE s.projection_id = ? AND s.layer = ?
        ORDER BY e.key, s.score DESC, d.rank, d.id"""
    found = conn.execute(query, (projection_id, layer))
    return [
        Snippet(emotion, document, first, score, tuple(json.loads(tokens)), tuple(json.loads(heat)))
        for emotion, document, first, score, tokens, heat in found
    ]


def _write_scores(
    conn: Connection, here: tuple[int, int], done: Sequence[int], part: LayerChunk
) -> None:
    rows = zip(done, part.norms.tolist(), part.scores, strict=True)
    conn.executemany(
        "INSERT INTO document_scores VALUES (?, ?, ?, ?, ?)",
        [(*here, document, norm, spell_floats(scores)) for document, norm, scores in rows],
    )


def _write_summary(conn: Connection, here: tuple[int, int, int], summary: TokenSummary) -> None:
    cells = pack_summary(summary.mean, summary.scatter, summary.quantiles)
    conn.execute(
        "INSERT INTO token_summaries VALUES (?, ?, ?, ?, ?, ?)", (*here, summary.tokens, *cells)
    )


def _write_snippets(conn: Connection, here: tuple[int, int], snippets: Sequence[Snippet]) -> None:
    conn.executemany(
        "INSERT INTO snippets VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(*here, one.emotion, one.document_id, one.first, one.score),
                *(spell_pieces(one.tokens), spell_floats(np.array(one.heat, np.float32))),
            )
            for one in snippets
        ],
    )
