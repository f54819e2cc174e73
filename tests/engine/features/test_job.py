"""A pass leaves the codes of a plain computation, once each, and only of what was pooled."""

import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.features import job, passes
from engine.features.codes import CodePooler, Encoded, TextCodes
from engine.features.controls import draw_control, measure_spread
from engine.features.identity import Identity
from engine.features.opening import describe_folder
from engine.features.sampling import choose_stories
from engine.loading import LazyModel
from engine.tokens import encode_chat, encode_raw
from stores.database import Connection
from stores.encodings import BANKS, find_encoding, known_encodings, read_codes
from stores.errors import BadValue, LedgerError, NoRoom, NotReady
from stores.rows import read_rows, read_texts
from stores.texts import KINDS, Kind
from stores.workspace import Workspace
from tests.encoding import (
    CORPUS,
    FEATURES,
    LAYER,
    MEAN_NORM,
    NAME,
    READER,
    START,
    add_texts,
    encode,
    pool,
    rows_of,
    settings_of,
    texts_of,
)
from tests.engine.features.saes import load_plainly, make_sae, save_sae
from tests.engine.tiny import save_checkpoint
from tests.projecting import read_plain

CHUNK = 8
STORIES, DIALOGUES = 20, 10
DONE = 27
"""Texts that are long enough to be pooled."""
CLOSE = 1e-4
SAES: Mapping[str, dict[str, Any]] = {
    "topk": {},
    "standard": {"normalize": "layer_norm"},
    "jumprelu": {"normalize": "expected_average_only_in"},
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small corpus has several."""
    monkeypatch.setattr(job, "CHUNK_TEXTS", CHUNK)


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> LazyModel:
    return LazyModel(name=str(save_checkpoint(tmp_path_factory.mktemp("llama"))), device="cpu")


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    root = tmp_path_factory.mktemp("saes")
    made = {
        kind: make_sae(kind, d_in=32, d_sae=FEATURES, norm=MEAN_NORM, **how)
        for kind, how in SAES.items()
    }
    return {kind: describe_folder(save_sae(sae, root / kind)) for kind, sae in made.items()}


@pytest.fixture
def identity(identities: dict[str, Identity]) -> Identity:
    return identities["topk"]


@pytest.fixture
def pooled(conn: Connection, workspace: Workspace, lazy: LazyModel) -> Connection:
    add_texts(conn, texts_of(STORIES))
    add_texts(conn, texts_of(DIALOGUES, "dialogues"), "dialogues")
    pool(conn, workspace, lazy)
    return conn


@pytest.fixture
def unready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the model nor an SAE can be loaded."""

    def refuse(*_given: object, **_named: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(LazyModel, "loaded", property(refuse))
    monkeypatch.setattr(passes, "open_work", refuse)


def ids_of(conn: Connection, kind: Kind = "stories") -> list[int]:
    return [row.text_id for row in read_rows(conn, READER, CORPUS, kind) if row.status == "done"]


@dataclass(frozen=True, slots=True)
class Plain:
    """Every number of a pass, one text at a time by the model and the SAE themselves."""

    lazy: LazyModel
    format: str = "raw"

    def tokens(self, text: str) -> NDArray[np.float32]:
        spelled = (encode_raw if self.format == "raw" else encode_chat)(self.lazy.loaded, text)
        first, end = spelled.content.start + START, spelled.content.stop
        plain = read_plain(self.lazy.loaded, spelled.ids, first, [LAYER])
        return plain.streams[LAYER][: end - first].astype(np.float32)

    def control(self, conn: Connection, l0: float) -> Any:
        rows = choose_stories(conn, READER, CORPUS, start_token=START, tokens=200, seed=0)
        texts = read_texts(conn, "stories", [row.text_id for row in rows])
        tokens = np.concatenate([self.tokens(texts[row.text_id]) for row in rows])
        spread = measure_spread(tokens)
        return draw_control(spread, features=FEATURES, l0=l0, seed=0, device="cpu", dtype="float32")


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize("spelled", ["raw", "chat"])
def test_codes_are_those_of_a_plain_computation_of_one_text_at_a_time(
    conn: Connection,
    workspace: Workspace,
    lazy: LazyModel,
    identities: dict[str, Identity],
    kind: str,
    spelled: str,
) -> None:
    add_texts(conn, texts_of(STORIES))
    add_texts(conn, texts_of(DIALOGUES, "dialogues"), "dialogues")
    pool(conn, workspace, lazy, format=spelled)
    summary = encode(conn, lazy, identities[kind], format=spelled)
    assert (summary.outcomes, summary.texts) == ({"done": DONE}, DONE)
    assert summary.encoding.finished
    settings, plain = summary.encoding.settings, Plain(lazy, spelled)
    sae = load_plainly(Path(str(identities[kind].folder)))
    if kind == "jumprelu":
        assert settings["scaled"] == pytest.approx(32**0.5 / MEAN_NORM)
        sae.fold_activation_norm_scaling_factor(settings["scaled"])
    saes = {"sae": sae, "control": plain.control(conn, settings["l0"])}
    for texts in KINDS:
        words = read_texts(conn, texts, ids_of(conn, texts))
        for bank in BANKS:
            found = read_codes(conn, summary.encoding, texts, bank)
            assert found.text_ids.tolist() == sorted(words)
            for row, text_id in enumerate(found.text_ids.tolist()):
                tokens = torch.from_numpy(plain.tokens(words[text_id]))
                with torch.inference_mode():
                    codes = saes[bank].encode(tokens)
                    missed = saes[bank].decode(codes) - tokens
                own = slice(found.bounds[row], found.bounds[row + 1])
                dense = np.zeros(FEATURES)
                dense[found.features[own]] = found.means[own]
                np.testing.assert_allclose(dense, codes.mean(0), rtol=CLOSE, atol=CLOSE)
                sums = (found.tokens[row], found.l0[row], found.error[row], found.square[row])
                expected = (
                    len(tokens),
                    (codes != 0).sum(1).float().mean(),
                    missed.square().sum(1).mean(),
                    tokens.square().sum(1).mean(),
                )
                assert sums == pytest.approx(tuple(map(float, expected)), rel=1e-3)


def test_as_many_features_of_the_control_fire_as_of_the_sae(
    pooled: Connection, lazy: LazyModel, identities: dict[str, Identity]
) -> None:
    encoding = encode(pooled, lazy, identities["standard"]).encoding
    assert encoding.settings["l0"] > 4
    control = read_codes(pooled, encoding, "stories", "control")
    assert 0.9 < control.l0.mean() / encoding.settings["l0"] < 1.1


def test_a_second_run_reads_nothing_and_loads_nothing(
    pooled: Connection, lazy: LazyModel, identity: Identity, request: pytest.FixtureRequest
) -> None:
    first, before = encode(pooled, lazy, identity), rows_of(pooled)
    request.getfixturevalue("unready")
    second = encode(pooled, lazy, identity)
    assert (second.texts, second.tokens, second.stopped) == (0, 0, False)
    assert (second.encoding, second.outcomes) == (first.encoding, first.outcomes)
    assert rows_of(pooled) == before
    runs = "SELECT count(*) FROM runs WHERE command = 'encode small'"
    assert pooled.execute(runs).fetchone()[0] == 1


def test_a_pass_that_lacks_its_last_word_alone_is_finished_without_a_model(
    pooled: Connection, lazy: LazyModel, identity: Identity, request: pytest.FixtureRequest
) -> None:
    encode(pooled, lazy, identity)
    pooled.execute("UPDATE encodings SET finished_at = NULL")
    request.getfixturevalue("unready")
    assert encode(pooled, lazy, identity).encoding.finished
    assert len(known_encodings(pooled, READER, CORPUS)) == 1


def test_a_stop_drops_the_chunk_at_hand_and_the_next_run_leaves_the_same_rows(
    pooled: Connection, lazy: LazyModel, identity: Identity
) -> None:
    encode(pooled, lazy, identity, name="calm")
    stop, seen = threading.Event(), []

    def progress(reached: Any) -> None:
        seen.append(reached.done)
        if reached.done > CHUNK:
            stop.set()

    halted = encode(pooled, lazy, identity, progress=progress, stop=stop, tokens_per_batch=100)
    assert (halted.stopped, halted.encoding.finished) == (True, False)
    assert CHUNK < seen[-1] < 2 * CHUNK
    assert halted.outcomes == {"done": CHUNK}
    assert [each.name for each in known_encodings(pooled, READER, CORPUS)] == ["calm"]
    resumed = encode(pooled, lazy, identity)
    assert (resumed.encoding.id, resumed.texts) == (halted.encoding.id, DONE - CHUNK)
    calm = {row[:3]: row[3:] for row in rows_of(pooled, 1)}
    ours = {row[:3]: row[3:] for row in rows_of(pooled, halted.encoding.id)}
    assert ours.keys() == calm.keys()
    again = [key for key in calm if ours[key] == calm[key]]
    assert len(again) >= len(calm) - 2 * CHUNK  # the first chunk had another budget
    outcomes = pooled.execute("SELECT outcome FROM runs WHERE command GLOB 'encode *'")
    assert [row[0] for row in outcomes] == ["done", "stopped", "done"]


def test_a_stop_in_the_last_chunk_drops_it_too(
    pooled: Connection, lazy: LazyModel, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CHUNK_TEXTS", 6)  # of the last one three are left
    stop = threading.Event()

    def progress(reached: Any) -> None:
        if reached.done > DONE - 3:
            stop.set()

    halted = encode(pooled, lazy, identity, progress=progress, stop=stop, tokens_per_batch=64)
    assert (halted.stopped, halted.encoding.finished) == (True, False)
    assert halted.outcomes == {"done": DONE - 3}
    assert encode(pooled, lazy, identity).outcomes == {"done": DONE}


def test_a_stop_before_the_first_chunk_reads_nothing(
    pooled: Connection, lazy: LazyModel, identity: Identity
) -> None:
    stop = threading.Event()
    stop.set()
    assert encode(pooled, lazy, identity, stop=stop).outcomes == {"done": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"seed": 1},
        {"layer": 1},
        {"spread_tokens": 100},
        {"dtype": "bfloat16"},
        {"differences": ("another model",)},
    ],
)
def test_other_settings_are_another_pass(
    pooled: Connection, lazy: LazyModel, identity: Identity, changes: dict[str, Any]
) -> None:
    first = encode(pooled, lazy, identity)
    other = encode(pooled, lazy, identity, **changes)
    assert (other.encoding.id, other.texts) == (first.encoding.id + 1, DONE)
    assert encode(pooled, lazy, identity, **changes).encoding == other.encoding


def test_another_sae_or_precision_of_the_model_is_another_pass(
    pooled: Connection, lazy: LazyModel, identities: dict[str, Identity], tmp_path: Path
) -> None:
    encode(pooled, lazy, identities["topk"])
    assert encode(pooled, lazy, identities["standard"]).texts == DONE
    moved = make_sae("topk", d_in=32, d_sae=FEATURES, norm=MEAN_NORM, seed=1)
    assert encode(pooled, lazy, describe_folder(save_sae(moved, tmp_path / "topk"))).texts == DONE
    assert encode(pooled, replace(lazy, dtype="bfloat16"), identities["topk"]).texts == DONE


def test_the_same_sae_in_another_place_is_the_same_pass(
    pooled: Connection, lazy: LazyModel, identity: Identity, tmp_path: Path
) -> None:
    encode(pooled, lazy, identity)
    folder = Path(str(identity.folder)).rename(tmp_path / "moved")
    try:
        assert encode(pooled, lazy, describe_folder(folder)).texts == 0
    finally:
        folder.rename(str(identity.folder))


def test_the_mean_norm_counts_for_an_sae_that_asks_for_it_alone(
    pooled: Connection, lazy: LazyModel, identities: dict[str, Identity]
) -> None:
    for kind, texts in (("topk", 0), ("jumprelu", DONE)):
        encode(pooled, lazy, identities[kind])
        assert encode(pooled, lazy, identities[kind], mean_norm=9.0).texts == texts


def test_how_texts_share_a_pass_is_no_part_of_it_and_changes_rounding_alone(
    pooled: Connection, lazy: LazyModel, identity: Identity
) -> None:
    encode(pooled, lazy, identity)
    assert encode(pooled, lazy, identity, tokens_per_batch=64, batching="alone").texts == 0
    other = encode(pooled, lazy, identity, name="other", tokens_per_batch=64).encoding
    one, two = (read_codes(pooled, each, "stories", "sae") for each in known(pooled, NAME, "other"))
    assert other.name == "other"
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_allclose(one.means, two.means, rtol=1e-4, atol=1e-5)


def known(conn: Connection, *names: str) -> list[Any]:
    found = {each.name: each for each in known_encodings(conn, READER, CORPUS)}
    return [found[name] for name in names]


def test_texts_that_came_later_are_encoded_alone_while_the_control_stays(
    pooled: Connection, workspace: Workspace, lazy: LazyModel, identity: Identity
) -> None:
    first, before = encode(pooled, lazy, identity), rows_of(pooled)
    add_texts(pooled, texts_of(16, "dialogues")[DIALOGUES:], "dialogues")
    pool(pooled, workspace, lazy)
    second = encode(pooled, lazy, identity)
    assert (second.encoding, second.texts) == (first.encoding, 5)
    assert set(before) <= set(rows_of(pooled))
    assert second.outcomes == {"done": DONE + 5}


def test_other_stories_to_match_the_control_to_are_another_pass(
    pooled: Connection, workspace: Workspace, lazy: LazyModel, identity: Identity
) -> None:
    first = encode(pooled, lazy, identity, spread_tokens=10_000)
    add_texts(pooled, texts_of(STORIES + 1)[STORIES:])
    pool(pooled, workspace, lazy)
    second = encode(pooled, lazy, identity, spread_tokens=10_000)
    assert (second.encoding.id, second.texts) == (first.encoding.id + 1, DONE + 1)


def test_a_text_that_was_changed_is_refused_until_it_is_read_again_and_then_encoded_again(
    pooled: Connection,
    workspace: Workspace,
    lazy: LazyModel,
    identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode(pooled, lazy, identity)
    sampled = choose_stories(pooled, READER, CORPUS, start_token=START, tokens=200, seed=0)
    changed = next(id_ for id_ in ids_of(pooled) if id_ not in {row.text_id for row in sampled})
    words = "Nobody had told them that the boat would leave without a light on it."
    pooled.execute("UPDATE stories SET text = ? WHERE id = ?", (words, changed))
    assert encode(pooled, lazy, identity).texts == 0  # vectors and codes are of the same texts
    with monkeypatch.context() as patched:
        refuse_loading(patched)
        with pytest.raises(NotReady, match=r"1 texts of corpus main were changed after reader toy"):
            encode(pooled, lazy, identity, name="new")
    before = {row[:3]: row for row in rows_of(pooled)}
    pool(pooled, workspace, lazy)
    again = encode(pooled, lazy, identity)
    assert (again.encoding.id, again.texts) == (1, 1)
    after = {row[:3]: row for row in rows_of(pooled)}
    assert {key[2] for key in before if before[key] != after[key]} == {changed}


def refuse_loading(patched: pytest.MonkeyPatch) -> None:
    def refuse(_model: LazyModel) -> None:
        raise AssertionError("the model was loaded")

    patched.setattr(LazyModel, "loaded", property(refuse))


def test_a_reader_that_has_pooled_no_story_is_not_ready(
    conn: Connection, lazy: LazyModel, identity: Identity
) -> None:
    with pytest.raises(NotReady, match=r"reader toy has pooled no story of corpus main; run"):
        encode(conn, lazy, identity)


def test_a_control_is_kept_as_it_was_begun(
    pooled: Connection, lazy: LazyModel, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(pooled, lazy, identity)
    pooled.execute("DELETE FROM codes WHERE text_id > 4")
    monkeypatch.setattr("engine.features.banks.measure_l0", lambda *_given: 40.0)
    again = encode(pooled, lazy, identity)
    assert again.encoding.settings["l0"] == 4
    assert set(read_codes(pooled, again.encoding, "stories", "control").l0.tolist()) == {4.0}


Spoil = Callable[[list[tuple[TextCodes, ...] | None], Encoded], None]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Spoil], None]]:
    """Change what the first chunk comes to."""
    plainly = CodePooler.encode

    def wrap(change: Spoil) -> None:
        waiting = [change]

        def spoiled(self: CodePooler, *given: Any) -> Encoded | None:
            found = plainly(self, *given)
            if found is not None and waiting:
                waiting.pop()(found.texts, found)
            return found

        monkeypatch.setattr(CodePooler, "encode", spoiled)

    yield wrap


def test_a_text_without_usable_codes_fails_alone_and_under_both_banks(
    pooled: Connection, lazy: LazyModel, identity: Identity, spoil: Callable[[Spoil], None]
) -> None:
    encode(pooled, lazy, identity, name="calm")

    def change(texts: list[tuple[TextCodes, ...] | None], found: Encoded) -> None:
        sae, control = texts[1] or ()
        texts[1] = (sae, replace(control, means=np.full_like(control.means, np.nan)))
        texts[2] = None
        found.too_large.add(2)
        texts[4] = (replace(sae, error=float("inf")), control)

    spoil(change)
    lines: list[str] = []
    summary = encode(pooled, lazy, identity, tell=lines.append)
    assert summary.outcomes == {"done": DONE - 3, "not_finite": 2, "out_of_memory": 1}
    assert lines == ["1 texts do not fit the memory even alone: no codes of them"]
    gone = {ids_of(pooled)[i] for i in (1, 2, 4)}
    rows, calm = rows_of(pooled, 2), rows_of(pooled, 1)
    assert [row for row in rows if "done" in row] == [
        row for row in calm if row[0] == "dialogues" or row[2] not in gone
    ]
    for bank in BANKS:
        found = read_codes(pooled, summary.encoding, "stories", bank)
        assert found.text_ids.tolist() == [each for each in ids_of(pooled) if each not in gone]
    assert encode(pooled, lazy, identity).texts == 0


def test_progress_counts_every_text_and_says_how_many_there_are(
    pooled: Connection, lazy: LazyModel, identity: Identity
) -> None:
    seen: list[Any] = []
    summary = encode(pooled, lazy, identity, progress=seen.append)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert (seen[-1].done, {each.total for each in seen}) == (DONE, {DONE})
    assert seen[-1].tokens == summary.tokens > 0


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    pooled: Connection, lazy: LazyModel, identity: Identity
) -> None:
    encode(pooled, lazy, identity, name="calm")
    pages = pooled.execute("PRAGMA page_count").fetchone()[0]
    pooled.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(LedgerError, match=r"free space, then run the same command again"):
        encode(pooled, lazy, identity)
    pooled.execute("PRAGMA max_page_count = 1000000")
    assert encode(pooled, lazy, identity).outcomes == {"done": DONE}
    assert rows_of(pooled, 1) == rows_of(pooled, 2)


def test_an_sae_for_which_there_is_no_memory_is_one_line(
    pooled: Connection, lazy: LazyModel, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")

    monkeypatch.setattr("engine.features.banks.open_sae", fail)
    with pytest.raises(NoRoom, match=r"topk: memory runs short .*use --sae-dtype bfloat16"):
        encode(pooled, lazy, identity)


def test_an_unknown_type_of_weights_is_refused_with_those_there_are() -> None:
    known = r"--sae-dtype float8: unknown; use float32, bfloat16, float16"
    with pytest.raises(BadValue, match=known):
        settings_of(dtype="float8")


def test_what_multiplies_activations_is_told(
    pooled: Connection, lazy: LazyModel, identities: dict[str, Identity]
) -> None:
    lines: list[str] = []
    encode(pooled, lazy, identities["jumprelu"], tell=lines.append)
    factor = 32**0.5 / MEAN_NORM
    expected = f"activations are multiplied by {factor:.4g} before encoding, as the SAE asks"
    assert lines == [expected]


def test_memory_does_not_grow_with_the_corpus(
    conn: Connection, workspace: Workspace, lazy: LazyModel, identity: Identity
) -> None:
    """Arrays and objects; the dense codes of the last two hundred texts are 10 MB and more."""
    add_texts(conn, [f"{i:x} {text}" for i, text in enumerate(texts_of(13) * 23) if len(text) > 40])
    pool(conn, workspace, lazy)
    peaks: dict[int, int] = {}

    def progress(reached: Any) -> None:
        peaks[reached.done // 100] = tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    encode(conn, lazy, identity, progress=progress)
    tracemalloc.stop()
    assert peaks[2] - peaks[0] < 2**19


def test_the_settings_of_a_pass_say_all_that_its_numbers_hang_on(
    pooled: Connection, lazy: LazyModel, identity: Identity
) -> None:
    settings = settings_of()
    kept = job.pass_settings(pooled, lazy, identity, settings, MEAN_NORM)
    made = encode(pooled, lazy, identity).encoding
    assert find_encoding(pooled, READER, CORPUS, NAME, kept) == made
    assert set(made.settings) - set(kept) == {
        *("source", "architecture", "features", "model", "l0", "scaled")
    }
    assert kept["weights_sha"] == lazy.checkpoint.weights_sha
    assert (kept["dtype"], kept["sae_dtype"], kept["mean_norm"]) == ("float32", "float32", None)
