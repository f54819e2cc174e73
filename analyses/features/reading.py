"""What a comparison starts from: vectors, decoder rows, pooled codes and the control's, one layer.

Everything that needs the model or the SAE is opened once and kept here. Computes nothing else.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.methods.codespace import Codes, as_sparse
from analyses.reading import open_probes, require_model
from stores.database import digest
from stores.encodings import BANKS, Bank, Encoding, PooledCodes, read_codes
from stores.errors import FingerprintMismatch, NotReady, StoreCorrupt, UsageError
from stores.rows import read_rows, read_texts
from stores.texts import KINDS
from stores.vectors import read_vectors, vector_variants

if TYPE_CHECKING:
    from engine.features.controls import Spread
    from engine.features.identity import Identity
    from engine.features.opening import OpenSAE
    from engine.models import Model
    from engine.packing import Segment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 2
"""Features are chosen on some topics and judged on others."""
AGAIN = 2
"""Stories, the longest, that are encoded again when a comparison is opened."""
ROUNDING = 0.15
"""How far their codes may lie from those kept, as a share of their length. Read in bfloat16 instead
of float32 those of the toy move by .06 at most; of a control matched to other tokens by .27 at
least, of one with another seed by 1.1."""


@dataclass(frozen=True, slots=True, eq=False)
class Dictionary:
    """An SAE as the comparison sees it, or its control: f features, n stories."""

    bank: Bank
    rows: NDArray[np.float32]
    """Decoder rows [f, d]."""
    alive: NDArray[np.bool_]
    """[f]: fired on some pooled token of the corpus, dialogues included."""
    codes: Codes
    """[n, f] mean codes of the stories."""
    pooled: PooledCodes
    """Of the stories."""
    sae: object
    """The loaded `sae_lens.SAE`."""


@dataclass(frozen=True, slots=True, eq=False)
class Crosscheck:
    """One SAE beside a reader's vectors of a corpus at one layer."""

    inputs: Inputs
    encoding: Encoding
    identity: "Identity"
    opened: "OpenSAE"
    model: "Model"
    layer: int
    emotions: tuple[str, ...]
    vectors: Mapping[str, Floats]
    """`raw` and `denoised`, [e, d] each, as far as there are."""
    directions: Floats
    """[e, d] of length 1: of the denoised vectors."""
    own: Ints
    """[n]: whose story, a row of `emotions`."""
    topics: Ints
    """[n]: which topic, numbered from 0."""
    dictionaries: Mapping[Bank, Dictionary]
    """The SAE and its control; the stories are the same and in the same order."""
    spread: "Spread"

    def __getitem__(self, bank: Bank) -> Dictionary:
        return self.dictionaries[bank]


def require_comparable(inputs: Inputs) -> None:
    """What would fail once texts are encoded: raises NotReady without vectors of the protocol's
    emotions at the layer, or with pooled stories about one topic alone."""
    open_probes(inputs)
    rows = read_rows(inputs.conn, inputs.reader, inputs.corpus, "stories")
    _require_topics(inputs, {row.topic for row in rows if row.status == "done"})


def open_crosscheck(inputs: Inputs, encoding: Encoding, identity: "Identity") -> Crosscheck:
    """Open model, SAE, codes and vectors. `inputs.layer` is the layer compared.

    Raises NotReady without vectors or with stories about one topic alone, FingerprintMismatch for
    another model, SAE or control than was encoded, UsageError when the SAE does not fire on this
    corpus, StoreCorrupt for codes that do not fit.
    """
    from engine.features.controls import draw_control

    probes = open_probes(inputs)
    model = _require_encoded(inputs, encoding, identity)
    opened = _open_sae(encoding, identity, model)
    spread = _measure_spread(inputs, encoding, model)
    settings = encoding.settings
    control = draw_control(
        spread,
        features=encoding.features,
        l0=settings["l0"],
        seed=settings["seed"],
        device=str(model.device),
        dtype=settings["sae_dtype"],
    )
    dictionaries = {
        bank: _open_dictionary(inputs, encoding, bank, sae)
        for bank, sae in zip(BANKS, (opened.sae, control), strict=True)
    }
    own, topics = _label_stories(inputs, dictionaries, probes.emotions)
    _require_same_codes(inputs, encoding, model, dictionaries)
    denoised = probes.vectors[inputs.layer]
    return Crosscheck(
        inputs=inputs,
        encoding=encoding,
        identity=identity,
        opened=opened,
        model=model,
        layer=inputs.layer,
        emotions=probes.emotions,
        vectors=_read_raw(inputs, probes.emotions) | {"denoised": denoised},
        directions=probes.directions[inputs.layer],
        own=own,
        topics=topics,
        dictionaries=dictionaries,
        spread=spread,
    )


def read_sample(found: Crosscheck, tokens: int) -> "list[Segment]":
    """Stories of the corpus, as the control's sample draws them, until `tokens` are pooled."""
    return _sample(found.inputs, found.encoding, found.model, tokens)


def _require_encoded(inputs: Inputs, encoding: Encoding, identity: "Identity") -> "Model":
    """The model that was encoded with, loaded. FingerprintMismatch for another, or another SAE."""
    from engine.features.opening import fingerprint

    lazy, settings = require_model(inputs), encoding.settings
    given = {
        "sae": fingerprint(identity),
        "weights_sha": lazy.checkpoint.weights_sha,
        "layer": inputs.layer,
    }
    if wrong := [key for key, value in given.items() if settings[key] != value]:
        raise FingerprintMismatch(
            f"the codes of {encoding.name} were made with another {' and '.join(wrong)} than "
            f"{identity.source} at layer {inputs.layer}; run `cli.py sae compare` again"
        )
    return lazy.loaded


def _open_sae(encoding: Encoding, identity: "Identity", model: "Model") -> "OpenSAE":
    from engine.features.opening import open_sae

    settings = encoding.settings
    return open_sae(
        identity,
        device=str(model.device),
        dtype=settings["sae_dtype"],
        mean_norm=settings["mean_norm"],
    )


def _measure_spread(inputs: Inputs, encoding: Encoding, model: "Model") -> "Spread":
    """As the pass measured it."""
    from engine.features.controls import measure_spread
    from engine.features.sampling import sample_tokens

    segments = _sample(inputs, encoding, model, encoding.settings["spread_tokens"])
    return measure_spread(sample_tokens(model, inputs.layer, segments))


def _sample(inputs: Inputs, encoding: Encoding, model: "Model", tokens: int) -> "list[Segment]":
    from engine.features.sampling import sample_segments

    settings = encoding.settings
    return sample_segments(
        inputs.conn,
        model,
        inputs.reader,
        inputs.corpus,
        format=settings["format"],
        start_token=settings["start_token"],
        tokens=tokens,
        seed=settings["seed"],
    )


def _open_dictionary(inputs: Inputs, encoding: Encoding, bank: Bank, sae: Any) -> Dictionary:
    """Raises UsageError when no feature fires on any story."""
    from engine.features.codes import decoder_rows

    rows = decoder_rows(sae)
    read = {kind: read_codes(inputs.conn, encoding, kind, bank) for kind in KINDS}
    alive = np.zeros(len(rows), dtype=np.bool_)
    for pooled in read.values():
        alive[pooled.features] = True
    stories = read["stories"]
    if not len(stories.features):
        raise UsageError(
            f"{encoding.name}: none of its {len(rows)} features fires on a story of corpus "
            f"{inputs.corpus} at layer {inputs.layer}; is it of this model and layer?"
        )
    codes = as_sparse(stories.bounds, stories.features, stories.means, len(rows))
    return Dictionary(bank, rows, alive, codes, stories, sae)


def _require_same_codes(
    inputs: Inputs,
    encoding: Encoding,
    model: "Model",
    dictionaries: Mapping[Bank, Dictionary],
) -> None:
    """FingerprintMismatch where an SAE at hand gives a story other codes than were kept of it.

    The control is drawn anew for each comparison, and another numpy or machine may draw another.
    """
    from engine.features.codes import mean_codes, read_tokens
    from engine.readings import TextReader

    settings = encoding.settings
    reader = TextReader(model, settings["format"], settings["start_token"])
    for i, text_id, text in islice(_unchanged(inputs, dictionaries["sae"].pooled), AGAIN):
        (tokens,) = read_tokens(model, inputs.layer, [reader.read(text).segment])
        for bank, each in dictionaries.items():
            kept, now = each.codes[[i]].toarray()[0], mean_codes(each.sae, tokens)
            length = max(np.linalg.norm(now), np.linalg.norm(kept))
            if np.linalg.norm(now - kept) > ROUNDING * length:
                raise FingerprintMismatch(
                    f"{encoding.name}: the {bank}'s codes of story {text_id} are not those that "
                    "were kept, which another machine or release of numpy can cause; encode the "
                    "corpus anew with another --name"
                )


def _unchanged(inputs: Inputs, pooled: PooledCodes) -> Iterator[tuple[int, int, str]]:
    """Place, id and text of the stories that are still what was read, the longest first."""
    rows = read_rows(inputs.conn, inputs.reader, inputs.corpus, "stories")
    shas = {row.text_id: row.text_sha for row in rows}
    for i in np.argsort(-pooled.tokens, kind="stable").tolist():
        text_id = int(pooled.text_ids[i])
        text = read_texts(inputs.conn, "stories", [text_id]).get(text_id, "")
        if digest(text) == shas[text_id]:
            yield i, text_id, text


def _label_stories(
    inputs: Inputs, dictionaries: Mapping[Bank, Dictionary], emotions: tuple[str, ...]
) -> tuple[Ints, Ints]:
    """Emotion and topic of each story that has codes, [n] each."""
    sae, control = (dictionaries[bank].pooled.text_ids for bank in BANKS)
    if not np.array_equal(sae, control):
        raise StoreCorrupt(
            f"{len(sae)} stories have codes of the SAE and {len(control)} of its control; "
            "run `cli.py doctor --repair`"
        )
    rows = read_rows(inputs.conn, inputs.reader, inputs.corpus, "stories")
    known = {row.text_id: row for row in rows}
    stories = [known[text_id] for text_id in sae.tolist()]
    place = {name: i for i, name in enumerate(emotions)}
    own = np.array([place[str(row.emotion)] for row in stories], dtype=np.int64)
    names, topics = np.unique([row.topic for row in stories], return_inverse=True)
    _require_topics(inputs, names)
    return own, topics.astype(np.int64)


def _require_topics(inputs: Inputs, topics: Collection[str]) -> None:
    if len(topics) < FOLDS:
        raise NotReady(
            f"the stories of corpus {inputs.corpus} that reader {inputs.reader} can use are about "
            f"{len(topics)} topic{'' if len(topics) == 1 else 's'}: a feature is chosen on some "
            "topics and judged on others; generate stories about more of them and extract them"
        )


def _read_raw(inputs: Inputs, emotions: tuple[str, ...]) -> dict[str, Floats]:
    """The raw vectors in the order of `emotions`, where there are any."""
    place = (inputs.conn, inputs.reader, inputs.corpus)
    if "raw" not in vector_variants(*place):
        return {}
    found = read_vectors(
        inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, inputs.layer, "raw"
    )
    return {"raw": found.vectors[[found.emotions.index(name) for name in emotions]]}
