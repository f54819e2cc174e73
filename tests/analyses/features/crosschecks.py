"""A comparison made by hand: the embedded model reads stories of its own grammar, one by one.

Codes come from `sae.encode` called plainly on the pooled tokens. The SAE's first rows are the
emotions' directions with some noise, unless it is asked for without any; the rest, and the
control's, are drawn with the covariance of the tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from analyses.features.reading import Crosscheck, Dictionary
from analyses.methods.denoising import neutral_components, project_out
from analyses.methods.directions import difference_of_means
from analyses.methods.geometry import unit
from engine.demo.stories import write_dialogue, write_story
from engine.demo.world import DEMO_FOLDER, load_world
from engine.features.controls import Spread
from engine.features.identity import Identity
from engine.features.library import sae_lens
from engine.features.opening import OpenSAE
from engine.loading import LazyModel
from engine.packing import Segment
from engine.readings import TextReader
from stores.corpora import open_corpus
from stores.database import Connection, canonical_json, transaction
from stores.encodings import Bank, Encoding, PooledCodes
from stores.planning import PlannedText, plan, plan_stories
from stores.protocol import load_protocol
from stores.texts import commit, lease
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, FOREVER, READER, Lab, store_vectors, write_activations
from tests.projecting import read_plain

LAYER, START, D_MODEL, LAYERS = 3, 50, 128, 6
NORM = 60.0
"""Of the residual stream, about, as the receipts say."""
MODEL = LazyModel(name=str(DEMO_FOLDER), device="cpu")
WORLD = load_world()
DEMO = load_protocol(DEMO_FOLDER / "protocol")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Stories of e emotions about t topics, e * t of them, and the tokens of each [*, d]."""

    plan: list[PlannedText]
    texts: list[str]
    tokens: list[NDArray[np.float32]]
    raw: Floats
    denoised: Floats


def segment_of(text: str) -> Segment:
    """As the reader reads it."""
    return TextReader(MODEL.loaded, "raw", START).read(text).segment


@cache
def read_stories(every: int, topics: int) -> Read:
    """One story of every so-many-eth emotion about each of the first topics."""
    rng, emotions = random.Random(0), DEMO.names[::every]
    about = tuple(WORLD.topics)[:topics]
    planned = plan_stories(emotions=emotions, topics=about, per_topic=1, corpus=CORPUS, seed=1)
    texts = [write_story(WORLD, str(text.emotion), text.topic, rng) for text in planned]
    tokens = [_pooled(text) for text in texts]
    means = np.stack([each.mean(axis=0, dtype=np.float64) for each in tokens])
    own = np.array([emotions.index(str(text.emotion)) for text in planned])
    raw = difference_of_means(
        np.stack([means[own == i].mean(axis=0) for i in range(own.max() + 1)])
    )
    spoken = [write_dialogue(WORLD, topic, rng) for topic in list(WORLD.neutral_topics)[:40]]
    neutral = np.stack([_pooled(text).mean(axis=0, dtype=np.float64) for text in spoken])
    return Read(
        planned, texts, tokens, raw, project_out(raw, neutral_components(neutral, 0.5).components)
    )


def _pooled(text: str) -> NDArray[np.float32]:
    segment = segment_of(text)
    plain = read_plain(MODEL.loaded, segment.ids, segment.pooled.start, (LAYER,))
    return plain.streams[LAYER].astype(np.float32)


def spread_of(tokens: NDArray[np.float32]) -> Spread:
    exact = tokens.astype(np.float64)
    return Spread(exact.mean(axis=0), np.cov(exact, rowvar=False), len(tokens))


def matched_rows(spread: Spread, rows: int, rng: np.random.Generator) -> Floats:
    """Random rows [rows, d] of length 1 with the covariance of the tokens."""
    return unit(rng.multivariate_normal(np.zeros(len(spread.mean)), spread.covariance, size=rows))


def make_topk(rows: Floats, centre: Floats, k: int) -> Any:
    """A sae-lens TopK SAE whose encoder is its decoder [f, d], around a centre [d]."""
    package = sae_lens()
    features, d_in = rows.shape
    config = package.TopKSAEConfig(
        d_in=d_in, d_sae=features, k=k, apply_b_dec_to_input=True, dtype="float32", device="cpu"
    )
    sae = package.TopKSAE(config)
    with torch.no_grad():
        sae.W_dec.copy_(torch.from_numpy(rows))
        sae.W_enc.copy_(torch.from_numpy(rows.T.copy()))
        sae.b_dec.copy_(torch.from_numpy(centre))
        sae.b_enc.zero_()
    return sae.eval()


def plain_dictionary(bank: Bank, sae: Any, tokens: Sequence[NDArray[np.float32]]) -> Dictionary:
    """Codes pooled text by text, ids counted from 1."""
    texts = [_encode(sae, each) for each in tokens]
    codes = csr_array(np.stack([mean for mean, _, _, _ in texts]).astype(np.float32))
    codes.sort_indices()
    pooled = PooledCodes(
        text_ids=np.arange(1, len(texts) + 1),
        bounds=codes.indptr.astype(np.int64),
        features=codes.indices.astype(np.int32),
        means=codes.data,
        tokens=np.array([len(each) for each in tokens]),
        l0=np.array([l0 for _, l0, _, _ in texts]),
        error=np.array([error for _, _, error, _ in texts]),
        square=np.array([square for _, _, _, square in texts]),
    )
    alive = np.bincount(codes.indices, minlength=codes.shape[1]) > 0
    return Dictionary(bank, sae.W_dec.detach().float().numpy(), alive, codes, pooled, sae)


def _encode(sae: Any, tokens: NDArray[np.float32]) -> tuple[Floats, float, float, float]:
    given = torch.from_numpy(tokens)
    with torch.inference_mode():
        codes = sae.encode(given)
        error = (given - sae.decode(codes)).double().square().sum(dim=1).mean()
    fired = (codes > 0).double().sum(dim=1).mean()
    square = given.double().square().sum(dim=1).mean()
    return codes.double().mean(dim=0).numpy(), float(fired), float(error), float(square)


def make_crosscheck(
    conn: Connection,
    workspace: Workspace,
    *,
    every: int = 1,
    topics: int = 3,
    features: int = 512,
    k: int = 16,
    planted: Literal["vectors", "nothing"] = "vectors",
    noise: float = 0.5,
    seed: int = 0,
    **changes: Any,
) -> Crosscheck:
    """A lab with the stories, activations and vectors, and the comparison on it.

    Every `every`-th emotion of the demo's protocol has a story about each of `topics` topics.
    `noise` is the length of what is added to a direction that is planted. `changes` are of inputs.
    """
    read, rng = read_stories(every, topics), np.random.default_rng(seed)
    lab, ids = open_grammar_lab(conn, workspace, every, topics)
    protocol = lab.protocol
    spread = spread_of(np.concatenate(read.tokens))
    rows, directions = matched_rows(spread, features, rng), unit(read.denoised)
    if planted == "vectors":
        added = noise * matched_rows(spread, len(directions), rng)
        rows[: len(directions)] = unit(directions + added)
    control = matched_rows(spread, features, rng)
    dictionaries: dict[Bank, Dictionary] = {
        "sae": plain_dictionary("sae", make_topk(rows, spread.mean, k), read.tokens),
        "control": plain_dictionary("control", make_topk(control, spread.mean, k), read.tokens),
    }
    dictionaries = {bank: _with_ids(each, ids) for bank, each in dictionaries.items()}
    settings = {
        **{
            "layer": LAYER,
            "features": features,
            "sae": "sha256:0",
            "differences": [],
            "seed": seed,
        },
        **{"l0": float(k), "format": "raw", "start_token": START, "sae_dtype": "float32"},
        **{"spread_tokens": spread.tokens, "mean_norm": None, "scaled": None},
    }
    identity = Identity(
        source="a folder",
        name="by-hand",
        architecture="topk",
        d_in=D_MODEL,
        d_sae=features,
        hook_name=f"blocks.{LAYER}.hook_resid_post",
        model=MODEL.checkpoint.name,
        folder="a folder",
        stated={"l0": float(k)},
    )
    about = tuple(WORLD.topics)[:topics]
    return Crosscheck(
        inputs=lab.inputs(LAYER, model=MODEL, **changes),
        encoding=Encoding(1, READER, CORPUS, "by-hand", settings, finished=True),
        identity=identity,
        opened=OpenSAE(identity, dictionaries["sae"].sae),
        model=MODEL.loaded,
        layer=LAYER,
        emotions=protocol.names,
        vectors={"raw": read.raw, "denoised": read.denoised},
        directions=directions,
        own=np.array([protocol.names.index(str(text.emotion)) for text in read.plan]),
        topics=np.array([about.index(text.topic) for text in read.plan]),
        dictionaries=dictionaries,
        spread=spread,
    )


def open_grammar_lab(
    conn: Connection, workspace: Workspace, every: int, topics: int
) -> tuple[Lab, NDArray[np.int64]]:
    """The stories of `read_stories`, read and made into vectors; and their ids."""
    read = read_stories(every, topics)
    protocol = replace(DEMO, emotions=DEMO.emotions[::every])
    open_corpus(conn, CORPUS, protocol.digest, protocol.files)
    lab = Lab(conn, workspace, protocol)
    ids = _write_stories(lab, read)
    store_vectors(lab, {LAYER: read.denoised})
    return lab, ids


def _with_ids(found: Dictionary, ids: NDArray[np.int64]) -> Dictionary:
    return replace(found, pooled=replace(found.pooled, text_ids=ids))


def _write_stories(lab: Lab, read: Read) -> NDArray[np.int64]:
    """Stories and their activations, as if this model had read them; the ids of the stories."""
    with transaction(lab.conn):
        plan(lab.conn, "stories", CORPUS, read.plan, now=0.0)
        count = len(read.plan)
        leased = lease(
            *(lab.conn, "stories", CORPUS, "t"),
            limit=count,
            now=0.0,
            seconds=FOREVER,
            max_attempts=1,
        )
        by_key = {
            (text.emotion, text.topic): story
            for text, story in zip(read.plan, read.texts, strict=True)
        }
        for held in leased:
            text = by_key[held.emotion, held.topic]
            commit(lab.conn, held, text=text, words=80, generator="t", reply_id=None, now=0.0)
    found = {(held.emotion, held.topic): held.id for held in leased}
    ids = [found[text.emotion, text.topic] for text in read.plan]
    means = {id_: each.mean(axis=0) for id_, each in zip(ids, read.tokens, strict=True)}
    pooled = {LAYER: lambda row: means[row.text_id].astype(np.float64)}
    write_activations(lab, "stories", pooled, d_model=D_MODEL)
    checkpoint = MODEL.checkpoint
    made = {"weights_sha": checkpoint.weights_sha, "dtype": MODEL.compute_dtype, "n_layers": LAYERS}
    lab.conn.execute(
        "UPDATE arrays SET settings = json_patch(settings, ?)", (canonical_json(made),)
    )
    lab.conn.execute("UPDATE receipts SET norm = ?", (NORM,))
    return np.array(ids)
