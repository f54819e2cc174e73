"""Vectors from files, as a reader of their own: no model, no texts, and every number as it stood.

Nothing is stored unless every file is good, and then all of it at once, in place of what was
imported under the same names. Knows nothing of what is asked of vectors afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.import_notes import Depth, tell_import
from analyses.readiness import Place
from analyses.vector_files import TOLERANCE, Opened, off_centre, open_files
from stores.corpora import open_corpus
from stores.database import Connection, canonical_json, digest, transaction
from stores.errors import FingerprintMismatch, NotReady, StoreCorrupt, UsageError
from stores.exchange.layouts import LayerSet
from stores.protocol import Protocol
from stores.readers import imported_sets, is_imported, known_readers
from stores.results import Metric, Table, export_results, publish
from stores.runs import recorded_run
from stores.storyfiles import file_digest
from stores.vectors import (
    Variant,
    install_set,
    new_vectors,
    read_vectors,
    record_vectors,
    stage_set,
    vector_inputs,
    vector_layers,
)
from stores.workspace import Workspace, require_slug

NAME = "vectors"
METHOD = 1
"""Counts the changes of what is done to the vectors of a file; stored with every vector."""
MOST_LAYERS = 10_000
CORPUS = "imported"
"""Whose texts imported vectors are about, where nobody says."""


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What `import_vectors` did."""

    run_id: int | None
    """The run that stored them; None when nothing had to be stored."""
    layers: tuple[int, ...]
    """0-based."""
    emotions: tuple[str, ...]
    """In the order of the file; known ones in the protocol's spelling."""
    known: tuple[str, ...]
    """Those the protocol has."""
    unknown: tuple[str, ...]
    """Those without a label."""
    centred: bool
    """Whether the mean over emotions was taken off."""
    off_centre: float
    """Largest length, over layers, of what is left of that mean, as a share of a vector's."""
    n_layers: int
    assumed: bool
    """Whether nobody said how many layers the model has."""
    notes: tuple[str, ...]
    """What a user must know, one line each."""

    @property
    def unchanged(self) -> bool:
        """Whether the same vectors were there already."""
        return self.run_id is None


def import_vectors(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    reader: str,
    corpus: str,
    paths: Sequence[Path],
    *,
    layer: int | None = None,
    n_layers: int | None = None,
    one_based: bool = False,
    centre: bool = False,
    model: str | None = None,
) -> ImportSummary:
    """Store the vectors of `paths`, unless they are there already.

    `layer` is that of a file that names none; `n_layers` how many the model has; `one_based` says
    that the files count layers from 1; `centre` takes the mean over emotions off vectors, as is
    done to means anyway; `model` is a name to remember.

    UsageError for a file that is not good, and a reader that has read texts here;
    FingerprintMismatch when the reader's other sets are of another model, or the corpus of another
    protocol.
    """
    _refuse_built(conn, require_slug(reader, "reader"))
    if require_slug(corpus, "corpus") == "all":
        raise UsageError("--corpus all means every corpus elsewhere: give another name")
    opened = open_files(paths, protocol.names, layer=layer, one_based=one_based, centre=centre)
    others = {name: each for name, each in imported_sets(conn, reader).items() if name != corpus}
    depth = _find_depth(reader, others, opened.layers, n_layers)
    settings: dict[str, Any] = {
        "imported": [{"file": path.name, "sha256": file_digest(path)} for path in paths],
        "layers": list(opened.layers),
        "n_layers": depth.n_layers,
        "n_layers_assumed": n_layers is None,
        "d_model": opened.d_model,
        "one_based": one_based,
        "centred": opened.centred,
        "model": model,
        "method": METHOD,
    }
    _refuse_other_model(reader, others, settings)
    place = Place(conn, workspace, reader, corpus, opened.layers)
    return _summarise(_store(place, protocol, opened, settings), opened, protocol, depth)


def _summarise(
    run_id: int | None, opened: Opened, protocol: Protocol, depth: Depth
) -> ImportSummary:
    known = tuple(name for name in opened.emotions if name in protocol.names)
    return ImportSummary(
        run_id=run_id,
        layers=opened.layers,
        emotions=opened.emotions,
        known=known,
        unknown=tuple(name for name in opened.emotions if name not in known),
        centred=opened.centred,
        off_centre=opened.off_centre,
        n_layers=depth.n_layers,
        assumed=depth.assumed,
        notes=tuple(tell_import(opened, protocol, depth)),
    )


def _refuse_built(conn: Connection, reader: str) -> None:
    if reader in known_readers(conn) and not is_imported(conn, reader):
        raise UsageError(
            f"reader {reader} is a model that has read texts here, which imported vectors must not "
            "be mixed with: name another --reader"
        )


def _find_depth(
    reader: str, others: Mapping[str, Mapping[str, Any]], layers: Sequence[int], told: int | None
) -> Depth:
    """How many layers the model has: as told now, or with another set, or as its sets ask for."""
    before = {each["n_layers"] for each in others.values() if not each["n_layers_assumed"]}
    if told is not None and before - {told}:
        raise FingerprintMismatch(
            f"reader {reader} was imported as a model of {before.pop()} layers, with corpus "
            f"{', '.join(others)}, and now of {told}: give the same --n-layers, or name another "
            "--reader"
        )
    wanted = 1 + max([*layers, *(layer for each in others.values() for layer in each["layers"])])
    n_layers = max(before, default=wanted) if told is None else told
    if n_layers > MOST_LAYERS:
        raise UsageError(
            f"reader {reader} would be a model of {n_layers} layers, and no model has more than "
            f"{MOST_LAYERS}: correct --n-layers, --layer or the numbers in the files"
        )
    if wanted > n_layers:
        raise UsageError(
            f"reader {reader} has vectors at layer {wanted - 1}, and the layers of a model of "
            f"{n_layers} are 0 to {n_layers - 1}: correct --n-layers, or give --one-based for "
            "files that count from 1"
        )
    return Depth(n_layers, assumed=told is None and not before)


def _refuse_other_model(
    reader: str, others: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> None:
    for corpus, before in others.items():
        for key in ("d_model", "model"):
            if None not in (before[key], settings[key]) and before[key] != settings[key]:
                raise FingerprintMismatch(
                    f"reader {reader} was imported with {key} {before[key]} for corpus {corpus}, "
                    f"and now with {settings[key]}: another model needs another --reader"
                )


def _store(
    place: Place, protocol: Protocol, opened: Opened, settings: Mapping[str, Any]
) -> int | None:
    """All layers and what describes them in one transaction; None when they are there already."""
    conn, workspace, reader, corpus = place.conn, place.workspace, place.reader, place.corpus
    open_corpus(conn, corpus, protocol.digest, protocol.files, protocol.root)
    inputs = _inputs_digest(opened, settings)
    if _is_stored(place, opened, inputs):
        # a killed import may have stored all and not come as far as this
        export_results(conn, workspace, reader, corpus, NAME)
        return None
    with recorded_run(
        conn,
        "vectors import",
        settings,
        inputs=inputs,
        protocol_digest=protocol.digest,
        reader=reader,
        corpus=corpus,
        model=settings["model"],
    ) as run:
        metrics = [row for found in opened.sets for row in _describe(found)]
        layers = [
            new_vectors(s.emotions, s.layer, s.vectors, settings, inputs) for s in opened.sets
        ]
        stage_set(workspace, reader, corpus, layers)
        install_set(conn, workspace, reader, corpus)
        with transaction(conn):
            for new in layers:
                record_vectors(conn, reader, corpus, new, run.id)
            publish(conn, run.id, reader, corpus, NAME, metrics, [_list_emotions(opened, protocol)])
    export_results(conn, workspace, reader, corpus, NAME)
    return run.id


def _inputs_digest(opened: Opened, settings: Mapping[str, Any]) -> str:
    return digest(canonical_json([list(opened.emotions), dict(settings), opened.sha256]))


def _is_stored(place: Place, opened: Opened, inputs: str) -> bool:
    """Whether these vectors are in the ledger and whole on the disk, and no others."""
    here = (place.conn, place.reader, place.corpus)
    if vector_layers(*here) != list(opened.layers):
        return False
    if any(vector_inputs(*here, layer) != inputs for layer in opened.layers):
        return False
    try:
        for found in opened.sets:
            for variant in found.vectors:
                read_vectors(
                    place.conn, place.workspace, place.reader, place.corpus, found.layer, variant
                )
    except (NotReady, StoreCorrupt):
        return False
    return True


def _describe(found: LayerSet) -> list[Metric]:
    """What a layer's vectors may be judged by, named as for vectors that are built here."""
    n, vectors = len(found.emotions), found.vectors
    sizes = {name: float(np.linalg.norm(rows, axis=1).mean()) for name, rows in vectors.items()}
    first: Variant = "raw" if "raw" in vectors else "denoised"
    centre = off_centre(vectors[first])
    rows = [
        Metric("vector_norm", sizes[first], found.layer, n=n),
        Metric("centre", centre, found.layer, n=n, passed=centre < TOLERANCE, threshold=TOLERANCE),
    ]
    if len(sizes) == 2:
        rows.append(Metric("kept_norm", sizes["denoised"] / sizes["raw"], found.layer, n=n))
    return rows


def _list_emotions(opened: Opened, protocol: Protocol) -> Table:
    """Every emotion, as the file spells it, and whether the protocol has it."""
    rows = [
        (name, opened.respelled.get(name, name), int(name in protocol.names))
        for name in opened.emotions
    ]
    return Table("emotions", ("emotion", "in_file", "known"), tuple(rows))
