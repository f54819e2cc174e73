"""Sets of vectors for tests of the geometry: a reader of so many layers, one variant or both."""

from collections.abc import Sequence

from stores.activations import ArraySettings, open_arrays
from stores.vectors import write_vectors
from tests.analyses.lab import CORPUS, READER, Lab, store_vectors
from tests.analyses.planted import Floats

N_LAYERS = 9


def open_reader(lab: Lab, d_model: int = 8) -> None:
    """A reader whose model has N_LAYERS blocks; it has read nothing yet."""
    settings = ArraySettings(
        "toy", "r", "w", N_LAYERS, d_model, 50, "raw", "float32", lab.protocol.digest
    )
    open_arrays(lab.conn, lab.workspace, READER, CORPUS, "stories", settings, 17)


def store_set(
    lab: Lab,
    layer: int,
    *,
    raw: Floats | None = None,
    denoised: Floats | None = None,
    names: Sequence[str] = (),
) -> None:
    """The vectors of one layer in the variants given, as if they had been built or imported."""
    some = raw if denoised is None else denoised
    if some is None:
        raise ValueError("which vectors?")
    store_vectors(lab, {layer: some}, names)
    run_id = lab.conn.execute("SELECT max(id) FROM runs").fetchone()[0]
    write_vectors(
        lab.conn,
        lab.workspace,
        READER,
        CORPUS,
        emotions=names or lab.protocol.names,
        layer=layer,
        raw=raw,
        denoised=denoised,
        settings={},
        inputs=f"inputs {layer}",
        run_id=run_id,
    )
