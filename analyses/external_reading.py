"""Which texts of others were projected on the vectors that are there now, and the neutral texts.

A pass over vectors that were built anew since says nothing of the present ones, and one of another
form cannot be read: both are left out, and that is told. Reads rows and arrays; loads no model.
Computes nothing but projections of neutral texts.
"""

from collections.abc import Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.methods.resampling import FEWEST
from analyses.projecting import read_denoised, unit_vectors
from analyses.readiness import projecting_step
from analyses.vectors import NOT_USED, Sources, label_rows, labelled_blocks
from engine.projection.summaries import KEPT
from stores.database import Connection
from stores.errors import NotReady
from stores.projections import Projection, count_outcomes, known_projections
from stores.receipts import written_layers
from stores.rows import extracted_layers, read_rows
from stores.samples import read_documents

Floats = NDArray[np.float64]

PAGE = 500
"""Documents that are read at once."""
SHOWN = 300
"""Characters of the beginning of a document."""


@dataclass(frozen=True, slots=True, eq=False)
class External:
    """The newest finished pass of each source, as far as it can be held against the vectors."""

    inputs: Inputs
    passes: tuple[Projection, ...]
    """By source name."""
    outcomes: Mapping[str, Mapping[str, int]]
    """Source -> what became of its documents."""
    layers: tuple[int, ...]
    """Those that every one of them has, ascending."""
    layer: int
    """The analysis layer, or the nearest of `layers` to it; of two the lower."""
    left_out: Mapping[str, str]
    """Source -> why it takes no part."""

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(each.sample.source for each in self.passes)

    @property
    def emotions(self) -> tuple[str, ...]:
        return self.passes[0].emotions


@dataclass(frozen=True, slots=True)
class Known:
    """A document as a table shows it."""

    place: str
    part: str | None
    beginning: str


def open_external(inputs: Inputs) -> External:
    """What can be analysed. NotReady when nothing can.

    Where no layer is in every pass, the one nearest to the analysis layer that any has decides, and
    the sources without it are left out.
    """
    place = (inputs.conn, inputs.reader, inputs.corpus)
    found = {each.sample.source: each for each in known_projections(*place)}
    begun = {each.sample.source for each in known_projections(*place, finished=False)}
    outcomes = {source: count_outcomes(inputs.conn, each.id) for source, each in found.items()}
    usable = _usable_layers(inputs, list(found.values()))
    left_out = {
        source: why
        for source, each in found.items()
        if (why := _fault(inputs, each, usable[source], outcomes[source]["done"]))
    }
    usable = {source: layers for source, layers in usable.items() if source not in left_out}
    if not usable:
        raise NotReady("; ".join(f"{source}: {why}" for source, why in left_out.items()))
    common = frozenset.intersection(*usable.values())
    layer = _nearest(common or frozenset().union(*usable.values()), inputs.layer)
    without = [source for source, layers in usable.items() if layer not in layers]
    left_out |= dict.fromkeys(without, f"not projected at layer {layer}; {_step(inputs)}")
    left_out |= dict.fromkeys(
        sorted(begun - found.keys()), "not read to its end: run the same `project` command again"
    )
    kept = {source: layers for source, layers in usable.items() if layer in layers}
    return External(
        inputs,
        tuple(found[source] for source in kept),
        {source: outcomes[source] for source in kept},
        tuple(sorted(frozenset.intersection(*kept.values()))),
        layer,
        left_out,
    )


def _nearest(layers: frozenset[int], wanted: int) -> int:
    return min(layers, key=lambda each: (abs(each - wanted), each))


def _usable_layers(inputs: Inputs, passes: Sequence[Projection]) -> dict[str, frozenset[int]]:
    """Source -> the layers at which it was projected on the vectors that are there now."""
    wanted = {layer for each in passes for layer in each.layers} & set(inputs.layers)
    current = {layer: read_denoised(inputs, layer) for layer in wanted}
    return {
        each.sample.source: frozenset(
            layer
            for layer, found in current.items()
            if each.settings["vectors"].get(str(layer)) == found.sha256
            and each.emotions == found.emotions
        )
        for each in passes
    }


def _fault(inputs: Inputs, each: Projection, usable: frozenset[int], done: int) -> str | None:
    if not set(each.layers) & set(inputs.layers):
        return f"projected at layers {list(each.layers)}, at none of {list(inputs.layers)}"
    if not usable:
        return f"projected on vectors that were built anew since; {_step(inputs)}"
    if each.settings.get("summaries") != KEPT:
        return f"its tokens were summarised in another form than today's; {_step(inputs)}"
    if done < FEWEST:
        return f"{done} of its documents could be read, and {FEWEST} are the fewest to compare"
    return None


def _step(inputs: Inputs) -> str:
    return projecting_step(inputs.reader, inputs.corpus)


def read_neutral(inputs: Inputs, layer: int) -> Floats:
    """Projections (n, e) of the corpus's neutral dialogues, pooled as documents are.

    No rows unless all that are planned are extracted at the layer. StoreCorrupt names a row that
    is not finite.
    """
    found = read_denoised(inputs, layer)
    place = (inputs.conn, inputs.reader, inputs.corpus)
    written = written_layers(*place, "dialogues")
    if layer not in written or layer not in extracted_layers(*place, "dialogues"):
        return np.empty((0, len(found.emotions)))
    dialogues = label_rows(read_rows(*place, "dialogues"), {})
    nobody = np.full(0, NOT_USED)
    where = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus)
    sources = Sources(*where, found.emotions, stories=nobody, dialogues=dialogues)
    directions = unit_vectors(found)
    with closing(labelled_blocks(sources, "dialogues", dialogues, layer)) as blocks:
        parts = [block.astype(np.float64) @ directions.T for block, _ in blocks]
    return np.concatenate(parts)


def know_documents(conn: Connection, each: Projection, wanted: Set[int]) -> dict[int, Known]:
    """These documents of a pass's sample, by id; memory holds a page of texts at a time."""
    known: dict[int, Known] = {}
    first = 0
    while page := read_documents(conn, each.sample.id, first, PAGE):
        first += len(page)
        for document in page:
            if document.id in wanted:
                beginning = document.text[:SHOWN]
                known[document.id] = Known(document.place, document.part, beginning)
    return known
