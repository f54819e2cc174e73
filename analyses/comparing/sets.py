"""The sets of vectors that are compared: which there are, and what is known of each one.

A set is a reader and a corpus with vectors at some layers. Knows nothing of what is asked of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analyses.base import Inputs
from analyses.opening import open_inputs
from analyses.spaces import Spaces, open_spaces
from stores.database import Connection, digest
from stores.errors import NotReady, UsageError
from stores.protocol import Protocol
from stores.readers import (
    count_layers,
    import_settings,
    imported_sets,
    known_corpora,
    known_readers,
    reader_settings,
)
from stores.results import Metric, read_metrics, read_tables
from stores.vectors import VectorSet, read_vectors, vector_layers
from stores.workspace import Workspace

Place = tuple[str, str]

READ = (
    *("vectors", "geometry", "norms", "reliability"),
    *("logit_lens", "scenarios", "intensity", "preferences", "preference_steering"),
)
"""The analyses whose rows are shown."""
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpenSet:
    """One set, its vectors ready to be read, and the current rows of its analyses."""

    inputs: Inputs
    """Of its layers that have vectors; the analysis layer is that of its geometry's rows."""
    spaces: Spaces
    n_layers: int
    model: str
    """Who the vectors are of; empty where nobody said."""
    imported: bool
    assumed: bool
    """Whether nobody said how many layers the model has, so that every depth may be off."""
    metrics: Mapping[str, list[Metric]]
    """Analysis -> rows; analyses that were not run are left out."""
    labels: str
    """Whose labels its components are compared with: norms by name, or the protocol's."""
    stale: tuple[str, ...]
    """Analyses whose rows are older than the vectors."""

    @property
    def name(self) -> str:
        """How it is called: reader/corpus."""
        return f"{self.inputs.reader}/{self.inputs.corpus}"

    @property
    def place(self) -> Place:
        return self.inputs.reader, self.inputs.corpus

    @property
    def width(self) -> int:
        """Numbers in a vector, d."""
        return int(self.read(self.inputs.layer).vectors.shape[1])

    def read(self, layer: int) -> VectorSet:
        """The vectors of a layer as they are stored, of the variant that is compared."""
        place = (self.inputs.conn, self.inputs.workspace, *self.place)
        return read_vectors(*place, layer, self.spaces.variant)

    def depth(self, layer: int) -> float:
        """Where a layer lies, above 0 to 1."""
        return (layer + 1) / self.n_layers


def parse_sets(conn: Connection, names: Sequence[str]) -> list[Place]:
    """The sets (reader, corpus) of these names, each once, in the order asked for.

    'reader' stands for every corpus it has vectors of, 'reader/corpus' for one; no name at all for
    every set there is.

    Raises:
        UsageError: a name is no set; lists what there is.
        NotReady: there are no vectors at all.
    """
    known = [
        (reader, corpus)
        for reader in known_readers(conn)
        for corpus in known_corpora(conn, reader)
        if vector_layers(conn, reader, corpus)
    ]
    if not known:
        raise NotReady(
            "there are no vectors to compare: run `cli.py vectors build` or `cli.py vectors import`"
        )
    found: dict[Place, None] = dict.fromkeys([] if names else known)
    for name in names:
        chosen = [place for place in known if name in (place[0], "/".join(place))]
        if not chosen:
            there = ", ".join("/".join(place) for place in known)
            raise UsageError(f"no set of vectors is called {name!r}; there are {there}")
        found |= dict.fromkeys(chosen)
    return list(found)


def name_home(places: Sequence[Place]) -> Place:
    """The reader and corpus under which a comparison of these sets is kept: legal folder names."""
    readers, corpora = zip(*places, strict=True)
    shared = corpora[:1] if len(set(corpora)) == 1 else corpora
    return _join(readers), _join(shared)


def _join(names: Sequence[str]) -> str:
    joined = "-vs-".join(names)
    if len(joined) <= LONGEST_NAME:
        return joined
    mark = digest(joined).removeprefix("sha256:")[:12]
    return f"{joined[: LONGEST_NAME - len(mark) - 1]}-{mark}"


def open_sets(
    conn: Connection,
    workspace: Workspace,
    protocol_of: Callable[[str], Protocol],
    places: Sequence[Place],
    *,
    seed: int,
    permutations: int,
) -> list[OpenSet]:
    """The sets at these places. NotReady when one has no vectors."""
    opened = []
    for reader, corpus in places:
        rows = {name: read_metrics(conn, reader, corpus, name) for name in READ}
        imported = import_settings(conn, reader, corpus)
        # A layer that the files had and that is gone must be missed.
        layers = imported["layers"] if imported else vector_layers(conn, reader, corpus)
        inputs = open_inputs(
            conn,
            workspace,
            protocol_of(corpus),
            reader,
            corpus,
            tuple(layers),
            _geometry_layer(rows["geometry"], layers),
            seed=seed,
            permutations=permutations,
        )
        made_with = reader_settings(conn, reader) if imported is None else imported
        opened.append(
            OpenSet(
                inputs=inputs,
                spaces=open_spaces(inputs)[0],
                n_layers=count_layers(conn, reader),
                model=str(made_with.get("model") or ""),
                imported=imported is not None,
                assumed=_nobody_said(conn, reader),
                metrics={name: found for name, found in rows.items() if found},
                labels=_norms_source(inputs) or inputs.protocol.labels,
                stale=_stale(conn, reader, corpus),
            )
        )
    return opened


def _nobody_said(conn: Connection, reader: str) -> bool:
    """Whether no set of an imported reader came with the number of the model's layers."""
    sets = imported_sets(conn, reader).values()
    return bool(sets) and all(each["n_layers_assumed"] for each in sets)


def _geometry_layer(rows: Sequence[Metric], layers: Sequence[int]) -> int | None:
    """The layer that the geometry's single answers are about; None leaves the choice open."""
    chosen = {row.layer for row in rows if row.metric == "pc1_variance"} & set(layers)
    return next(iter(chosen), None)


def _norms_source(inputs: Inputs) -> str | None:
    tables = read_tables(inputs.conn, inputs.reader, inputs.corpus, "norms")
    labels = next((table for table in tables if table.name == "labels"), None)
    return str(labels.rows[0][labels.columns.index("source")]) if labels else None


def _stale(conn: Connection, reader: str, corpus: str) -> tuple[str, ...]:
    query = """
        SELECT analysis FROM metrics WHERE reader = ?1 AND corpus = ?2
        GROUP BY analysis HAVING max(run_id) <
            (SELECT max(run_id) FROM vectors WHERE reader = ?1 AND corpus = ?2)"""
    found = {row["analysis"] for row in conn.execute(query, (reader, corpus))}
    return tuple(name for name in READ if name in found)
