"""What an analysis may need of the stages before it: is it there, and which fingerprint has it?

Knows nothing of analyses. Where something is missing, the error names the stage that is unfinished,
by how many rows, and the command that finishes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stores.database import Connection, canonical_json, digest
from stores.errors import NotReady, UsageError
from stores.judgements import read_judgements
from stores.projections import known_projections
from stores.readers import is_imported, reader_settings
from stores.rows import activations_digest, count_rows, count_stories, extracted_layers
from stores.texts import Kind, counts
from stores.vectors import making_step, read_vectors, vector_layers, vector_variants
from stores.workspace import Workspace

if TYPE_CHECKING:
    from stores.norms import Norms


NAMED = 10
"""Emotions that a message names; of more, it says that there are more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose numbers: a reader's, of a corpus, at some layers."""

    conn: Connection
    workspace: Workspace
    reader: str
    corpus: str
    layers: tuple[int, ...]
    norms: "Norms | None" = None
    """Human ratings, where a file of them was given."""


def _activations(place: Place) -> str:
    conn, reader, corpus = place.conn, place.reader, place.corpus
    if is_imported(conn, reader):
        raise NotReady(unfinished_stage(conn, reader, corpus))
    # Before the first extraction there are no arrays to ask for their layers.
    begun = _count_rows(conn, reader, corpus, "stories") > 0
    ready = extracted_layers(conn, reader, corpus, "stories") if begun else []
    if missing := [layer for layer in place.layers if layer not in ready]:
        raise NotReady(
            f"layers {missing} of corpus {corpus} are not extracted by reader {reader}: "
            f"{unfinished_stage(conn, reader, corpus)}"
        )
    return activations_digest(conn, reader, corpus, place.layers)


def _vectors(place: Place) -> str:
    conn, reader, corpus = place.conn, place.reader, place.corpus
    stored = vector_layers(conn, reader, corpus)
    if missing := [layer for layer in place.layers if layer not in stored]:
        imported = is_imported(conn, reader)
        step = (making_step if imported else unfinished_stage)(conn, reader, corpus)
        raise NotReady(
            f"layers {missing} of corpus {corpus} have no vectors by reader {reader}: {step}"
        )
    variants = vector_variants(conn, reader, corpus)
    pairs = [(layer, variant) for layer in place.layers for variant in variants]
    sets = [read_vectors(conn, place.workspace, reader, corpus, *pair) for pair in pairs]
    return digest(canonical_json([[found.variant, found.sha256] for found in sets]))


def _halves(place: Place) -> str:
    require_two_stories(place.conn, place.reader, place.corpus)
    return "two stories of each"  # which ones is told by the activations


def require_two_stories(conn: Connection, reader: str, corpus: str) -> None:
    """NotReady when an emotion has fewer than two pooled stories: they cannot be halved."""
    counted = count_stories(conn, reader, corpus)
    if few := [emotion for emotion, n in counted.items() if n < 2]:
        raise NotReady(
            f"{len(few)} of {len(counted)} emotions of corpus {corpus} have fewer than the two "
            f"stories that halves need: {', '.join(few[:NAMED])}"
            f"{', ...' if len(few) > NAMED else ''}; write more (`cli.py generate stories --corpus "
            f"{corpus}`), then `extract` and `vectors build`"
        )


def _model(place: Place) -> str:
    return digest(canonical_json(reader_settings(place.conn, place.reader)))


def _norms(place: Place) -> str:
    if place.norms is None:
        raise UsageError("norms needs a file of human ratings: give one with --norms")
    return place.norms.sha256


def _projections(place: Place) -> str:
    conn, reader, corpus = place.conn, place.reader, place.corpus
    found = known_projections(conn, reader, corpus)
    if not found:
        if is_imported(conn, reader):
            raise NotReady(unfinished_stage(conn, reader, corpus))
        raise NotReady(
            f"no texts of others were projected on the vectors of corpus {corpus} by reader "
            f"{reader} to the end; {projecting_step(reader, corpus)}"
        )
    judged = [
        [each.question.emotion, each.question.asked, each.judge, each.score, each.reason]
        for one in found
        for layer in one.layers
        for each in read_judgements(conn, one.id, layer)
    ]
    passes = [[one.id, one.sample.digest, dict(one.settings)] for one in found]
    return digest(canonical_json([passes, judged]))


def projecting_step(reader: str, corpus: str) -> str:
    """The command that projects texts of others."""
    return (
        f"run `cli.py project PATH --reader {reader} --corpus {corpus}`, PATH a file or folder of "
        "texts, or pile or lmsys"
    )


STAGES: Mapping[str, Callable[[Place], str]] = {
    "activations": _activations,
    "vectors": _vectors,
    "model": _model,
    "norms": _norms,
    "halves": _halves,
    "projections": _projections,
}
"""Stage -> its fingerprint at a place, or NotReady."""


def unfinished_stage(conn: Connection, reader: str, corpus: str, kind: Kind = "stories") -> str:
    """Which stage before the vectors is unfinished, by how many rows, and the command for it."""
    if is_imported(conn, reader):
        return (
            f"the vectors of reader {reader} were imported, and with them no texts and no "
            "activations; what needs those needs a model that reads texts here: "
            "run `cli.py extract` under another --reader"
        )
    written, still_open = _count_texts(conn, corpus, kind)
    pooled = _count_rows(conn, reader, corpus, kind)
    if not written:
        noun = "stories" if kind == "stories" else "neutral"
        return (
            f"none of the {kind} is written ({still_open} are open); "
            f"run `cli.py generate {noun} --corpus {corpus}`"
        )
    if pooled < written:
        return (
            f"{written - pooled} of {written} {kind} are not extracted ({still_open} more are "
            f"open); run `cli.py extract --reader {reader} --corpus {corpus}`"
        )
    return (
        f"all {written} {kind} are extracted ({still_open} more are open); "
        f"run `cli.py vectors build --reader {reader} --corpus {corpus}`, "
        f"after `cli.py extract` for other layers"
    )


def _count_texts(conn: Connection, corpus: str, kind: Kind) -> tuple[int, int]:
    """How many texts are done, and how many are pending or leased."""
    found = [row for row in counts(conn) if (row.corpus, row.kind) == (corpus, kind)]
    done = sum(row.n for row in found if row.status == "done")
    return done, sum(row.n for row in found if row.status in ("pending", "leased"))


def _count_rows(conn: Connection, reader: str, corpus: str, kind: Kind) -> int:
    """How many rows a reader has settled, those given up included."""
    here = (reader, corpus, kind)
    found = [row for row in count_rows(conn) if (row.reader, row.corpus, row.kind) == here]
    return sum(row.n for row in found if row.status != "pending")
