"""Laws of opening a comparison: what was encoded is what is compared, or it is refused."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.features import reading
from analyses.features.reading import Crosscheck, open_crosscheck, read_sample
from engine.demo.world import DEMO_FOLDER
from engine.features import opening, sampling
from engine.features.codes import mean_codes, read_tokens
from engine.features.identity import Identity
from engine.features.job import EncodingSettings, run_encoding
from engine.features.opening import describe_folder
from engine.loading import LazyModel
from engine.readings import TextReader
from stores.database import Connection
from stores.encodings import BANKS, Encoding, PooledCodes, read_codes
from stores.errors import FingerprintMismatch, NotReady, StoreCorrupt, UsageError
from stores.rows import read_rows, read_texts
from stores.workspace import Workspace
from tests.analyses.features.crosschecks import (
    D_MODEL,
    LAYER,
    MODEL,
    NORM,
    START,
    make_topk,
    matched_rows,
    open_grammar_lab,
    read_stories,
    spread_of,
)
from tests.analyses.lab import CORPUS, READER, Lab
from tests.engine.features.saes import make_sae, save_sae

EVERY, TOPICS, FEATURES = 12, 3, 96
Open = Callable[[], Crosscheck]


def identify(folder: Path, seed: int = 0, **changes: Any) -> Identity:
    """An SAE drawn as controls are, in a folder."""
    read = read_stories(EVERY, TOPICS)
    spread = spread_of(np.concatenate(read.tokens))
    rows = matched_rows(spread, FEATURES, np.random.default_rng(seed))
    sae = make_topk(rows, spread.mean, 8)
    sae.cfg.metadata.hook_name = f"blocks.{LAYER}.hook_resid_post"
    return replace(describe_folder(save_sae(sae, folder)), **changes)


def encode(lab: Lab, identity: Identity, **changes: Any) -> Encoding:
    settings = EncodingSettings(
        reader=READER,
        corpus=CORPUS,
        name="small",
        layer=LAYER,
        format="raw",
        start_token=START,
        seed=3,
        spread_tokens=1000,
        **changes,
    )
    return run_encoding(
        lab.conn,
        MODEL,
        identity,
        settings,
        mean_norm=NORM,
        progress=lambda _progress: None,
        stop=threading.Event(),
    ).encoding


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return open_grammar_lab(conn, workspace, EVERY, TOPICS)[0]


def test_codes_and_labels_are_those_of_the_stories_and_the_control_is_the_one_that_was_encoded(
    lab: Lab, tmp_path: Path
) -> None:
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    found = open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)
    read = read_stories(EVERY, TOPICS)
    topics = sorted({text.topic for text in read.plan})
    key = [
        (found.emotions[own], topics[topic])
        for own, topic in zip(found.own, found.topics, strict=True)
    ]
    place = {(text.emotion, text.topic): i for i, text in enumerate(read.plan)}
    assert sorted(key) == sorted((str(text.emotion), text.topic) for text in read.plan)
    for bank in BANKS:
        dictionary, sae = found[bank], found[bank].sae
        for row in range(0, len(key), 7):
            tokens = torch.from_numpy(read.tokens[place[key[row]]])
            with torch.inference_mode():
                expected = sae.encode(tokens).double().mean(dim=0).numpy()  # type: ignore[attr-defined]
            got = dictionary.codes[[row]].toarray()[0]
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
        assert dictionary.rows.shape == (FEATURES, D_MODEL)
        assert dictionary.alive.tolist() == (dictionary.codes.sum(axis=0) > 0).tolist()
    assert not np.allclose(found["sae"].rows, found["control"].rows)


def test_vectors_stand_in_the_order_of_the_emotions(lab: Lab, tmp_path: Path) -> None:
    identity = identify(tmp_path / "sae")
    found = open_crosscheck(lab.inputs(LAYER, model=MODEL), encode(lab, identity), identity)
    read = read_stories(EVERY, TOPICS)
    assert found.emotions == lab.protocol.names
    np.testing.assert_array_equal(found.vectors["denoised"], read.denoised)
    np.testing.assert_allclose(found.vectors["raw"], read.denoised, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1.0)
    segments = read_sample(found, 200)
    assert sum(len(each.ids[each.pooled]) for each in segments) >= 200
    assert len(segments) < len(found.own)


def test_another_sae_than_was_encoded_is_refused_before_it_is_loaded(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = encode(lab, identify(tmp_path / "sae"))

    def refuse(*_given: object, **_named: object) -> None:
        raise AssertionError("weights were read")

    other = identify(tmp_path / "other", seed=1)
    monkeypatch.setattr(opening, "open_sae", refuse)
    with pytest.raises(FingerprintMismatch, match=r"another sae than .*other at layer 3; run"):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, other)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"l0": 16.0}])
def test_a_control_that_is_drawn_otherwise_than_it_was_encoded_is_refused(
    lab: Lab, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """As if numpy drew other numbers, or a device fired others."""
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    drawn = replace(encoding, settings={**encoding.settings, **changes})
    with pytest.raises(
        FingerprintMismatch, match=r"the control's codes of story .* another --name"
    ):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), drawn, identity)


def test_weights_that_changed_behind_a_fingerprint_are_refused(lab: Lab, tmp_path: Path) -> None:
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    lab.conn.execute("UPDATE codes SET means = zeroblob(length(means)) WHERE bank = 'sae'")
    with pytest.raises(FingerprintMismatch, match="the sae's codes of story"):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)


def test_codes_that_differ_by_rounding_alone_are_the_same(lab: Lab, tmp_path: Path) -> None:
    """Those of the same model in bfloat16 are within a third of what is forgiven."""
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    found = open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)
    low = LazyModel(name=str(DEMO_FOLDER), device="cpu", dtype="bfloat16")
    reader = TextReader(low.loaded, "raw", START)
    longest = int(found["sae"].pooled.tokens.argmax())
    text_id = int(found["sae"].pooled.text_ids[longest])
    text = read_texts(lab.conn, "stories", [text_id])[text_id]
    (tokens,) = read_tokens(low.loaded, LAYER, [reader.read(text).segment])
    for bank in BANKS:
        kept = found[bank].codes[[longest]].toarray()[0]
        apart = np.linalg.norm(mean_codes(found[bank].sae, tokens) - kept)
        assert 0.0 < apart < reading.ROUNDING / 3.0 * np.linalg.norm(kept)


def test_a_story_that_was_changed_since_is_not_what_codes_are_held_against(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, inputs = identify(tmp_path / "sae"), lab.inputs(LAYER, model=MODEL)
    rows = read_rows(lab.conn, READER, CORPUS, "stories")
    longest = max(rows, key=lambda row: row.tokens or 0)
    others = [row for row in rows if row is not longest]
    monkeypatch.setattr(sampling, "choose_stories", lambda *_given, **_named: others[:15])
    encoding = encode(lab, identity)
    lab.conn.execute("UPDATE stories SET text = 'other words' WHERE id = ?", (longest.text_id,))
    assert longest.text_id in open_crosscheck(inputs, encoding, identity)["sae"].pooled.text_ids


def test_a_control_is_not_drawn_from_a_story_that_was_changed_since(
    lab: Lab, tmp_path: Path
) -> None:
    """It would be another one than was encoded."""
    identity, inputs = identify(tmp_path / "sae"), lab.inputs(LAYER, model=MODEL)
    encoding = encode(lab, identity)
    lab.conn.execute("UPDATE stories SET text = text || ' And more.'")
    with pytest.raises(NotReady, match="were changed after reader toy read them; run"):
        open_crosscheck(inputs, encoding, identity)


def test_without_vectors_it_is_not_ready(lab: Lab, tmp_path: Path) -> None:
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    lab.conn.execute("DELETE FROM vectors")
    with pytest.raises(NotReady, match="vectors build"):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)


def test_stories_about_one_topic_cannot_judge_what_they_choose(
    conn: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    lab, identity = open_grammar_lab(conn, workspace, EVERY, 1)[0], identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    with pytest.raises(NotReady, match="about 1 topic"):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)


def test_an_sae_that_fires_on_nothing_is_refused(lab: Lab, tmp_path: Path) -> None:
    sae = make_sae("jumprelu", d_in=D_MODEL, d_sae=FEATURES)
    with torch.no_grad():
        sae.threshold.fill_(1e9)
    identity = describe_folder(save_sae(sae, tmp_path / "sae"))
    encoding = encode(lab, identity)
    with pytest.raises(UsageError, match="none of its 96 features fires on a story of corpus main"):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)


def test_features_that_fire_in_dialogues_alone_are_alive(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)

    def read(conn: Connection, encoding: Encoding, kind: str, bank: str) -> PooledCodes:
        """Stories in which features 0 and 1 never fire, dialogues in which feature 1 does."""
        found = read_codes(conn, encoding, "stories", bank)  # type: ignore[arg-type]
        if kind == "dialogues":
            return replace(found, features=np.array([1], np.int32))
        return replace(found, features=np.maximum(found.features, 2))

    monkeypatch.setattr(reading, "read_codes", read)
    monkeypatch.setattr(reading, "AGAIN", 0)
    found = open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)
    assert found["sae"].alive[:2].tolist() == [False, True]


def test_banks_with_other_stories_are_a_damage(lab: Lab, tmp_path: Path) -> None:
    identity = identify(tmp_path / "sae")
    encoding = encode(lab, identity)
    lab.conn.execute("DELETE FROM codes WHERE bank = 'control' AND text_id = 1")
    with pytest.raises(StoreCorrupt, match="doctor --repair"):
        open_crosscheck(lab.inputs(LAYER, model=MODEL), encoding, identity)
