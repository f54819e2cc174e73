"""Several sets of vectors side by side: their own numbers, published ones, and how far they agree.

A set is a reader and a corpus with vectors at some layers, built here or imported. Numbers of one
set are read back from its rows and never computed here; what is computed is the agreement of two
sets. Layers of different models are matched by depth. Knows nothing of models or texts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial

from analyses.comparing.board import board, missing
from analyses.comparing.depths import depths
from analyses.comparing.figures import draw
from analyses.comparing.pairs import COMPONENTS, Watch, compare_pairs
from analyses.comparing.sets import OpenSet, Place, name_home, open_sets, parse_sets
from analyses.comparing.text import board_cells, board_columns, tell
from analyses.keeping import AnalysisSummary, Home, Result, Rows, keep_results, read_rows
from analyses.readiness import STAGES
from analyses.readiness import Place as Stage
from stores.database import Connection, canonical_json, digest
from stores.errors import UsageError
from stores.protocol import Protocol
from stores.published import Published, read_published
from stores.results import Cell, Metric, Table
from stores.workspace import Workspace

__all__ = ["Comparison", "compare_sets", "parse_sets"]

NAME = "comparison"
SET_COLUMNS = (
    *("set", "reader", "corpus", "model", "imported", "variant", "emotions", "layers"),
    *("n_layers", "assumed", "layer", "depth", "labels"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_sets` found, ready to be shown."""

    home: Home
    """Where the rows, exports and figures are kept; the figures lie in `home.folder`."""
    summary: AnalysisSummary
    kept: Rows
    """Its rows as they were published."""

    @property
    def title(self) -> str:
        """What was compared, with a warning where labels were planted."""
        note = "toy model, planted geometry: it shows that the tool works; "
        names = ", ".join(str(row["set"]) for row in self.kept.records("sets"))
        return f"{note if self.home.planted else ''}{names}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the board: the metric, what it measures, one column a set, and published numbers."""
        return board_columns(self.kept)

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Of the board: a line for every measure that some set has a number for."""
        return board_cells(self.kept)

    @property
    def lines(self) -> list[str]:
        """What the board does not say: the sets, agreement of the pairs, and what is missing."""
        return tell(self.kept)

    def document(self) -> dict[str, object]:
        """The whole comparison as JSON values: its metrics, and its tables as records."""
        return {
            "reader": self.home.reader,
            "corpus": self.home.corpus,
            "run": self.summary.run_id,
            "status": self.summary.status,
            "metrics": [asdict(row) for row in self.kept.metrics],
            **{table.name: self.kept.records(table.name) for table in self.kept.tables},
        }


def compare_sets(
    conn: Connection,
    workspace: Workspace,
    protocol_of: Callable[[str], Protocol],
    places: Sequence[Place],
    *,
    seed: int,
    permutations: int,
    watch: Watch | None = None,
) -> Comparison:
    """Compare the sets at `places`, keep rows, exports and figures, and return the board.

    `protocol_of` gives the protocol of a corpus; `watch` is told how many pairs are done. Nothing
    is computed again while the vectors, the rows of the sets' analyses and the published rows are
    the same.

    Raises NotReady when a set has no vectors, UsageError when no set or one twice is given.
    """
    if not places or len(set(places)) < len(places):
        raise UsageError(f"compare needs each set once, and at least one, not {list(places)}")
    settings = {"seed": seed, "permutations": permutations}
    sets = open_sets(conn, workspace, protocol_of, places, **settings)
    published = read_published(conn)
    planted = any(opened.inputs.protocol.labels == "planted" for opened in sets)
    home = Home(conn, workspace, *name_home(places), planted)
    summary = keep_results(
        home,
        "compare",
        NAME,
        partial(_run, sets, published, settings, watch),
        draw,
        settings={**settings, "sets": [opened.name for opened in sets]},
        made_from=_digest(sets, published, settings),
    )
    return Comparison(home, summary, read_rows(home, NAME))


def _run(
    sets: Sequence[OpenSet],
    published: Sequence[Published],
    settings: Mapping[str, int],
    watch: Watch | None,
) -> Result:
    shown = {**settings, "procrustes_components": COMPONENTS}
    tables = (
        Table("settings", ("setting", "value"), tuple(shown.items())),
        Table("sets", SET_COLUMNS, tuple(_about(opened) for opened in sets)),
        board(sets, published),
        missing(sets),
        depths(sets),
    )
    counted = Metric("sets", len(sets), n=len(sets))
    return Result((counted,), tables) + compare_pairs(sets, **settings, watch=watch)


def _about(opened: OpenSet) -> tuple[Cell, ...]:
    inputs, spaces = opened.inputs, opened.spaces
    vectors = (opened.imported, spaces.variant, len(spaces.emotions), len(spaces))
    layers = (opened.n_layers, opened.assumed, inputs.layer, opened.depth(inputs.layer))
    return (opened.name, *opened.place, opened.model, *vectors, *layers, opened.labels)


def _digest(
    sets: Sequence[OpenSet], published: Sequence[Published], settings: Mapping[str, int]
) -> str:
    """Of all that decides the rows. NotReady when a set has no vectors."""
    of_sets = [
        {
            "about": _about(opened),
            "vectors": STAGES["vectors"](_stage(opened)),
            "rows": {name: list(map(astuple, rows)) for name, rows in opened.metrics.items()},
            "stale": opened.stale,
        }
        for opened in sets
    ]
    numbers = [astuple(row) for row in published]
    return digest(canonical_json({"sets": of_sets, "published": numbers, **settings}))


def _stage(opened: OpenSet) -> Stage:
    inputs = opened.inputs
    return Stage(inputs.conn, inputs.workspace, *opened.place, inputs.layers)
