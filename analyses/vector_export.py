"""The vectors of a reader as files for other programs. Knows nothing of how those are laid out."""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analyses.readiness import Place
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.exchange.layouts import LayerSet
from stores.exchange.naming import fold_name
from stores.exchange.writing import (
    SERIES,
    Layout,
    write_control_vector,
    write_directions,
    write_npz,
    write_safetensors,
)
from stores.readers import import_settings, reader_settings
from stores.results import read_metrics
from stores.vectors import (
    Variant,
    making_step,
    read_vectors,
    vector_layers,
    vector_variant,
    vector_variants,
)
from stores.workspace import Workspace

EACH = "{emotion}"
ALL = "all"
SUFFIXES = (".npz", ".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What `export_vectors` wrote."""

    files: tuple[Path, ...]
    layers: tuple[int, ...]
    variants: tuple[Variant, ...]
    notes: tuple[str, ...]
    """What a user must know, one line each."""


def export_vectors(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    path: Path,
    *,
    layers: Sequence[int] | None = None,
    variant: Variant | None = None,
    layout: Layout = "full",
    emotions: Sequence[str] = (),
) -> ExportSummary:
    """Write vectors as .npz, .safetensors or .gguf, by the suffix of `path`.

    An .npz or .safetensors holds all emotions at all `layers` (default: every one), or is one of a
    series where its name has `{layer}`; the layouts of an .npz but `full` hold one variant. A .gguf
    is a control vector of one of `emotions`, and so is a .safetensors where any are chosen; with
    `{emotion}` in its name there is a file for each of them, by default for every one.

    NotReady without vectors; UsageError for what cannot be written that way.
    """
    suffix = path.suffix.lower()
    emotions = emotions or ((ALL,) if EACH in path.name else ())
    _refuse_contradictions(path, suffix, layout, emotions)
    place = Place(conn, workspace, reader, corpus, _choose_layers(conn, reader, corpus, layers))
    variants = _choose_variants(place, variant, single=bool(emotions) or layout != "full")
    sets = tuple(_read(place, layer, variants) for layer in place.layers)
    if emotions:
        return _write_each(path, place, sets, _choose_emotions(place, sets, emotions))
    npz = suffix == ".npz"
    files = write_npz(path, sets, layout) if npz else write_safetensors(path, sets)
    return ExportSummary(files, place.layers, variants, ())


def _refuse_contradictions(
    path: Path, suffix: str, layout: Layout, emotions: Sequence[str]
) -> None:
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: vectors are written as {', '.join(SUFFIXES)}: name it so")
    if SERIES in str(path.parent) or EACH in str(path.parent):
        raise UsageError(f"{path}: {SERIES} and {EACH} belong in the name of the file itself")
    if suffix == ".gguf" and not emotions:
        raise UsageError(
            f"{path}: a control vector is that of one emotion: choose one with --emotions, or put "
            f"{EACH} in the name"
        )
    if emotions and SERIES in path.name:
        raise UsageError(f"{path}: a file of one emotion holds every layer: leave {SERIES} out")
    if suffix == ".npz" and emotions:
        raise UsageError(
            f"{path}: an .npz holds every emotion, since vectors are differences from all of them; "
            "for one emotion write .gguf or .safetensors"
        )
    if suffix != ".npz" and layout != "full":
        raise UsageError(f"{path}: the layout {layout!r} is one of .npz: name the file so")


def _choose_layers(
    conn: Connection, reader: str, corpus: str, wanted: Sequence[int] | None
) -> tuple[int, ...]:
    stored = vector_layers(conn, reader, corpus)
    if not stored:
        raise NotReady(
            f"reader {reader} has no vectors of corpus {corpus}: "
            f"{making_step(conn, reader, corpus)}"
        )
    if missing := [layer for layer in wanted or () if layer not in stored]:
        raise UsageError(
            f"reader {reader} has no vectors of corpus {corpus} at layers {missing}; it has "
            f"{stored}"
        )
    return tuple(stored if wanted is None else sorted(set(wanted)))


def _choose_variants(place: Place, wanted: Variant | None, *, single: bool) -> tuple[Variant, ...]:
    here = (place.conn, place.reader, place.corpus)
    stored = vector_variants(*here)
    if wanted is None:
        return (vector_variant(*here),) if single else stored
    if wanted not in stored:
        raise UsageError(
            f"the vectors of {place.reader}/{place.corpus} are {' and '.join(stored)} ones, not "
            f"{wanted}"
        )
    return (wanted,)


def _choose_emotions(
    place: Place, sets: Sequence[LayerSet], wanted: Sequence[str]
) -> tuple[str, ...]:
    """The emotions that are meant, however they are spelled. UsageError names near ones."""
    emotions = sets[0].emotions
    folded = {fold_name(name): name for name in emotions}
    for name in wanted:
        if name != ALL and fold_name(name) not in folded:
            near = get_close_matches(name, emotions, n=5) or emotions[:5]
            raise UsageError(
                f"{place.reader}/{place.corpus} has no vector of {name!r}, but of {', '.join(near)}"
            )
    return emotions if ALL in wanted else tuple(folded[fold_name(name)] for name in wanted)


def _read(place: Place, layer: int, variants: Sequence[Variant]) -> LayerSet:
    here = (place.conn, place.workspace, place.reader, place.corpus, layer)
    found = {variant: read_vectors(*here, variant) for variant in variants}
    vectors = {variant: each.vectors for variant, each in found.items()}
    source = f"{place.reader}/{place.corpus}"
    return LayerSet(layer, found[variants[0]].emotions, vectors, False, source)


def _write_each(
    path: Path, place: Place, sets: Sequence[LayerSet], emotions: Sequence[str]
) -> ExportSummary:
    """One file per emotion, out of sets of one variant."""
    write = write_control_vector if path.suffix.lower() == ".gguf" else write_directions
    files, model = _files(path, emotions), _model_name(place)
    held: set[int] = set()
    for file, emotion in files.items():
        held |= set(write(file, _directions(sets, emotion), model_hint=model, name=emotion))
    notes = tuple(_notes(place, sets, emotions, held))
    return ExportSummary(tuple(files), tuple(sorted(held)), tuple(sets[0].vectors), notes)


def _files(path: Path, emotions: Sequence[str]) -> dict[Path, str]:
    """A file for each emotion. UsageError when two would be written to the same place."""
    if EACH not in path.name and len(emotions) > 1:
        raise UsageError(
            f"{path}: it holds one emotion, not {len(emotions)}; put {EACH} in its name"
        )
    names = [re.sub(r"[^\w-]+", "-", emotion).strip("-") for emotion in emotions]
    files = [path.with_name(path.name.replace(EACH, name)) for name in names]
    odd = [e for e, n in zip(emotions, names, strict=True) if not n or names.count(n) > 1]
    if odd and EACH in path.name:
        raise UsageError(
            f"{path}: {', '.join(map(repr, odd))} do not make different names of files; write them "
            f"one by one, each with --emotions and a name without {EACH}"
        )
    return dict(zip(files, emotions, strict=True))


def _directions(sets: Sequence[LayerSet], emotion: str) -> dict[int, NDArray[np.float64]]:
    """The vector of one emotion at every layer, out of sets of one variant."""
    row = sets[0].emotions.index(emotion)
    return {found.layer: next(iter(found.vectors.values()))[row] for found in sets}


def _model_name(place: Place) -> str:
    imported = import_settings(place.conn, place.reader, place.corpus)
    settings = reader_settings(place.conn, place.reader) if imported is None else imported
    return str(settings["model"] or place.reader)


def _notes(
    place: Place, sets: Sequence[LayerSet], emotions: Sequence[str], held: Set[int]
) -> Iterator[str]:
    if left_out := [found.layer for found in sets if found.layer not in held]:
        yield f"layers {left_out} were left out: the format has no place for them"
    rows = read_metrics(place.conn, place.reader, place.corpus, "vectors", metric="mean_norm")
    norms = {row.layer: row.value for row in rows if row.value}
    shares = [
        float(np.linalg.norm(vector)) / norms[layer]
        for emotion in emotions
        for layer, vector in _directions(sets, emotion).items()
        if layer in held and layer in norms
    ]
    if shares:
        yield (
            f"at a scale of 1 the strength is {min(shares):.3f} to {max(shares):.3f} of the mean "
            "residual norm, by layer"
        )
