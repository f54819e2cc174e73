"""The command `sae compare` as one call: check the SAE against the reader, encode, compare, keep.

Knows the order of these steps; each goes on where it stopped.
"""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.base import AnalysisSummary, Inputs, Result, home_of
from analyses.features.cards import make_cards, pages
from analyses.features.choosing import choose_features, find_best
from analyses.features.comparison import compare_features, figures
from analyses.features.criteria import score_features
from analyses.features.reading import open_crosscheck, require_comparable
from analyses.features.steering import require_steered, steer_features
from analyses.keeping import keep_results
from analyses.readiness import STAGES, Place
from analyses.reading import require_model
from stores.corpora import open_corpus
from stores.database import canonical_json, digest
from stores.encodings import Encoding, known_encodings
from stores.errors import NotReady, UsageError
from stores.readers import is_imported, reader_settings
from stores.receipts import mean_norms
from stores.vectors import vector_layers

if TYPE_CHECKING:
    from engine.features.identity import Identity, Read
    from engine.features.job import EncodingSettings, EncodingSummary

COMMAND = "sae compare"
LISTED = 10
SPREAD_TOKENS, TOKENS_PER_DIMENSION = 8192, 8
"""Tokens whose covariance the control matches: a covariance of few tokens has spurious ones."""
NEEDS = ("activations", "vectors", "model")


@dataclass(frozen=True, slots=True)
class Compared:
    """What was encoded and what came of it."""

    summary: "EncodingSummary"
    done: AnalysisSummary
    inputs: Inputs
    """At the layer that was compared."""
    differences: tuple[str, ...]
    """In which the SAE is not the reader's, where the user insisted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an SAE is to be compared."""

    name: str | None = None
    """What to call it; None: by its release or folder."""
    layer: int | None = None
    """None: the SAE's own."""
    force: bool = False
    dtype: str | None = None
    """Of the SAE's weights; None: as the reader computes."""
    steered: int = 8
    tokens_per_batch: int | None = None


def identify(
    inputs: Inputs, release: str | None, sae_id: str | None, folder: Path | None
) -> "Identity":
    """What an SAE says of itself; no weight is read.

    UsageError unless it is named in one way, listing the releases that fit the reader's model.
    """
    from engine.features.catalogue import releases_for
    from engine.features.opening import describe_folder, describe_release

    if folder is not None and (release or sae_id):
        raise UsageError("--path names an SAE by its folder, --release by the catalogue: take one")
    if folder is not None:
        return describe_folder(folder)
    if release is not None:
        return describe_release(release, sae_id)
    model = describe_reader(inputs).model
    known = releases_for(model)
    fitting = f"has for {model}: {', '.join(known[:LISTED])}"
    none = f"has none for {model} that is free of pickles, and `cli.py sae train` makes one"
    raise UsageError(
        "which SAE? --path DIR, or --release R --sae-id S; the catalogue "
        f"{fitting if known else none}"
    )


def compare_sae(
    inputs: Inputs,
    identity: "Identity",
    wanted: Wanted,
    *,
    tell: Callable[[str], None] = lambda _line: None,
) -> Compared | None:
    """Encode the corpus under an SAE and hold it against the vectors; None after a stop.

    Raises before any text is read what `choose_layer`, `require_match`, `require_comparable` and
    `require_model` raise, NotReady for imported vectors, and UsageError for another SAE's name.
    """
    from engine.features.identity import choose_layer, require_match
    from engine.features.job import run_encoding

    require_steered(wanted.steered)
    read = describe_reader(inputs)
    layer = choose_layer(identity, read, wanted.layer, force=wanted.force)
    differences = require_match(identity, read, layer, force=wanted.force)
    inputs = replace(inputs, layers=tuple(sorted({layer, *inputs.layers})), layer=layer)
    settings = _settings(inputs, identity, wanted, differences)
    _require_own_name(inputs, identity, settings.name)
    open_corpus(inputs.conn, inputs.corpus, inputs.protocol.digest, inputs.protocol.files)
    require_comparable(inputs)
    norm = mean_norms(inputs.conn, inputs.reader, inputs.corpus, layers=[layer])[layer]
    summary = run_encoding(
        inputs.conn,
        require_model(inputs),
        identity,
        settings,
        mean_norm=norm,
        progress=lambda now: _watch(inputs, now.done, now.total, now.told),
        stop=inputs.stop or threading.Event(),
        tell=tell,
    )
    if summary.stopped:
        return None
    done = keep_comparison(inputs, summary.encoding, identity, wanted)
    return Compared(summary, done, inputs, differences)


def describe_reader(inputs: Inputs) -> "Read":
    """What an SAE is held against. NotReady when nobody knows how the reader's model read."""
    from engine.features.identity import Read

    if is_imported(inputs.conn, inputs.reader):
        raise NotReady(
            f"the vectors of reader {inputs.reader} were imported, and with them no model that "
            "reads texts here; `extract` with that model and build its vectors"
        )
    known = reader_settings(inputs.conn, inputs.reader)
    built = vector_layers(inputs.conn, inputs.reader, inputs.corpus)
    return Read(
        model=known["model"],
        weights_sha=known["weights_sha"],
        n_layers=known["n_layers"],
        d_model=known["d_model"],
        layers=tuple(layer for layer in inputs.layers if layer in built),
    )


def analysis_name(name: str, differences: tuple[str, ...]) -> str:
    """Under which rows are kept: those of an SAE that is not the reader's say so in every row."""
    return f"{'sae-forced' if differences else 'sae'}.{name}"


def keep_comparison(
    inputs: Inputs, encoding: Encoding, identity: "Identity", wanted: Wanted
) -> AnalysisSummary:
    """Compute, publish, export and draw, unless a finished run was made from the same."""
    protocol, layer = inputs.protocol, inputs.layer
    place = Place(inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, (layer,))
    settings = {
        "layer": layer,
        "seed": inputs.seed,
        "permutations": inputs.permutations,
        "suite": asdict(inputs.suite),
        "steered": wanted.steered,
        "encoding": dict(encoding.settings),
    }
    name = analysis_name(encoding.name, tuple(encoding.settings["differences"]))
    made_from = {
        "analysis": name,
        "protocol": protocol.digest,
        "stages": {need: STAGES[need](place) for need in NEEDS},
        **settings,
    }
    return keep_results(
        home_of(inputs),
        f"{COMMAND} {encoding.name}",  # one of its own, or two would take turns
        name,
        lambda: compute(inputs, encoding, identity, wanted.steered),
        figures,
        settings=settings,
        made_from=digest(canonical_json(made_from)),
        protocol_digest=protocol.digest,
        pages=pages,
    )


def compute(inputs: Inputs, encoding: Encoding, identity: "Identity", steered: int) -> Result:
    """Everything about one SAE: geometry and codes, then prompts, steering and cards."""
    found = open_crosscheck(inputs, encoding, identity)
    best = find_best(found)
    chosen = choose_features(best)
    return (
        compare_features(found, best)
        + score_features(found, chosen)
        + steer_features(found, chosen, steered)
        + make_cards(found, chosen)
    )


def _require_own_name(inputs: Inputs, identity: "Identity", name: str) -> None:
    """UsageError where another SAE was compared under this name, whose rows would be gone.

    One that was saved or released anew in the same place takes the place of the one before.
    """
    from engine.features.opening import fingerprint

    for each in known_encodings(inputs.conn, inputs.reader, inputs.corpus):
        source = each.settings["source"]
        same = Path(source).resolve() == Path(identity.source).resolve()
        if each.name == name and not same and each.settings["sae"] != fingerprint(identity):
            raise UsageError(
                f"{identity.source}: the SAE {source} was compared under the name {name} here; "
                "give this one another --name"
            )


def _settings(
    inputs: Inputs, identity: "Identity", wanted: Wanted, differences: tuple[str, ...]
) -> "EncodingSettings":
    """Texts are read as the reader read them."""
    from engine.features.job import EncodingSettings
    from engine.features.naming import require_name

    known = reader_settings(inputs.conn, inputs.reader)
    return EncodingSettings(
        reader=inputs.reader,
        corpus=inputs.corpus,
        name=identity.name if wanted.name is None else require_name(wanted.name),
        layer=inputs.layer,
        format=known["format"],
        start_token=known["start_token"],
        seed=inputs.seed,
        differences=differences,
        dtype=wanted.dtype,
        spread_tokens=max(SPREAD_TOKENS, TOKENS_PER_DIMENSION * known["d_model"]),
        tokens_per_batch=wanted.tokens_per_batch,
    )


def _watch(inputs: Inputs, done: int, total: int, note: str) -> None:
    if inputs.watch is not None:
        inputs.watch("codes", done, total, note)
