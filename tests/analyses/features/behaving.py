"""A comparison of which only directions matter: any decoder rows, beside the vectors of a lab."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs, Result
from analyses.features.reading import Crosscheck, Dictionary
from analyses.methods.geometry import unit
from analyses.reading import open_model, open_probes
from stores.encodings import Bank, Encoding
from stores.results import Metric
from tests.analyses.lab import CORPUS, READER
from tests.analyses.planted import Floats

Ints = NDArray[np.int64]


def compare(
    inputs: Inputs, rows: Mapping[Bank, Floats], saes: Mapping[Bank, Any] | None = None
) -> Crosscheck:
    """Rows [f, d] of both dictionaries, all alive; `saes` where codes are read."""
    probes = open_probes(inputs)
    unread: Any = None
    dictionaries = {
        bank: Dictionary(
            bank,
            own.astype(np.float32),
            np.ones(len(own), dtype=np.bool_),
            unread,
            unread,
            None if saes is None else saes[bank],
        )
        for bank, own in rows.items()
    }
    return Crosscheck(
        inputs=inputs,
        encoding=Encoding(1, READER, CORPUS, "by-hand", {}, finished=True),
        identity=unread,
        opened=unread,
        model=open_model(inputs),
        layer=inputs.layer,
        emotions=probes.emotions,
        vectors={"denoised": probes.vectors[inputs.layer]},
        directions=probes.directions[inputs.layer],
        own=unread,
        topics=unread,
        dictionaries=dictionaries,
        spread=unread,
    )


def random_rows(features: int, d: int, seed: int) -> Floats:
    """[f, d] of length 1."""
    return unit(np.random.default_rng(seed).normal(size=(features, d)))


def choose(**features: Any) -> dict[str, Ints]:
    """The same features for each name that is not given."""
    first = next(iter(features.values()))
    names = ("auc", "cosine", "control")
    return {name: np.asarray(features.get(name, first), dtype=np.int64) for name in names}


def row_of(result: Result, metric: str, subject: str | None = None) -> Metric:
    """The one row of that name and subject."""
    (found,) = [row for row in result.metrics if (row.metric, row.subject) == (metric, subject)]
    return found


def number(result: Result, metric: str, subject: str | None = None) -> float:
    """The value of that row."""
    return cast("float", row_of(result, metric, subject).value)
