"""The comparison as rows: every number of the SAE beside the same number of its random control.

Tables: `settings`, and `emotions` with each emotion's best features; the parts say what the others
are. Knows nothing of how codes are made.
"""

from collections.abc import Callable, Iterator

import numpy as np

from analyses.base import Result
from analyses.features.alignment import describe_alignment, describe_rebuilding
from analyses.features.choosing import Best
from analyses.features.figures import figures
from analyses.features.reading import Crosscheck
from analyses.features.shapes import describe_shapes
from analyses.features.sharing import SYNONYMS, TOP, Families, describe_sharing, find_families
from analyses.features.telling import describe_telling, discovery_rates
from analyses.features.validity import describe_validity
from analyses.geometry_rows import joined
from analyses.labels import read_labels
from stores.errors import Stopped
from stores.results import Cell, Table

__all__ = ["compare_features", "figures"]

STAGE = "comparison"
EMOTIONS = (
    *("emotion", "family", "feature", "cosine", "null_half", "null_high", "p", "q"),
    *("control_cosine", "auc_feature", "auc", "auc_low", "auc_high", "auc_p", "auc_q"),
    "control_auc",
)


def compare_features(found: Crosscheck, best: Best) -> Result:
    """All rows and tables: validity, alignment, rebuild, telling, overlap, geometry.

    Stopped when the user ends it.
    """
    labels = read_labels(found.inputs.protocol, found.emotions)
    families = find_families(found, labels)
    parts: dict[str, Callable[[], Result]] = {
        "validity": lambda: describe_validity(found),
        "cosines": lambda: describe_alignment(found, best),
        "vectors rebuilt": lambda: describe_rebuilding(found),
        "AUCs": lambda: describe_telling(found, best, families.numbers),
        "overlap": lambda: describe_sharing(found, families),
        "geometry": lambda: describe_shapes(found, labels, families.names),
    }
    tables = (
        Table("settings", ("setting", "value"), tuple(_settings(found, families).items())),
        Table("emotions", EMOTIONS, tuple(_emotion_rows(found, best, families)), found.layer),
    )
    return joined([Result(tables=tables), *_watched(found, parts)])


def _watched(found: Crosscheck, parts: dict[str, Callable[[], Result]]) -> Iterator[Result]:
    """The parts, one after the other, telling of each."""
    stop, watch = found.inputs.stop, found.inputs.watch
    for done, (name, describe) in enumerate(parts.items()):
        if stop and stop.is_set():
            raise Stopped(
                "the comparison was stopped: codes are kept, and nothing else of it; run it again"
            )
        if watch:
            watch(STAGE, done, len(parts), name)
        yield describe()
    if watch:
        watch(STAGE, len(parts), len(parts), "compared")


def _settings(found: Crosscheck, families: Families) -> dict[str, Cell]:
    """What figures and pages must say."""
    inputs, identity, kept = found.inputs, found.identity, found.encoding.settings
    differences = [str(each) for each in kept["differences"]]
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "layer": found.layer,
        "concept": inputs.protocol.concept,
        "labels": inputs.protocol.labels,
        "vectors": "denoised",
        "name": found.encoding.name,
        "source": identity.source,
        "sae": str(kept["sae"]),
        "architecture": identity.architecture,
        "features": len(found["sae"].rows),
        "alive": int(found["sae"].alive.sum()),
        "control": f"random TopK of as many rows, k {_fired(found)}, seed {kept['seed']}",
        "control_alive": int(found["control"].alive.sum()),
        "hook_name": identity.hook_name,
        "model": identity.model,
        "scaled": found.opened.scaled,
        "neuronpedia": identity.neuronpedia,
        "stories": len(found.own),
        "differences": "; ".join(differences),
        "forced": int(bool(differences)),
        "families": families.source,
        "synonyms": SYNONYMS,
        "top_features": TOP,
        "seed": inputs.seed,
        "permutations": inputs.permutations,
    }
    return settings | {f"stated_{name}": value for name, value in identity.stated.items()}


def _fired(found: Crosscheck) -> int:
    """On each token, of the control."""
    return max(round(float(found.encoding.settings["l0"])), 1)


def _emotion_rows(found: Crosscheck, best: Best, families: Families) -> Iterator[tuple[Cell, ...]]:
    near, told = best.aligned["sae"], best.telling["sae"]
    columns = (
        *(near.feature, near.cosine, near.half, near.high, near.p, near.q),
        *(best.aligned["control"].cosine, told.feature, told.auc, told.low, told.high),
        *(told.p, discovery_rates(told.p), best.telling["control"].auc),
    )
    for i, (emotion, family) in enumerate(zip(found.emotions, families.names, strict=True)):
        yield emotion, family, *(np.asarray(column)[i].item() for column in columns)
