"""Laws of imported vectors: numbers as they stood, means centred over all, all of it or nothing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from analyses.vector_import import ImportSummary
from stores import arrays
from stores.arrays import ChunkFile, chunk_path
from stores.database import Connection
from stores.errors import EngineError, FingerprintMismatch, UsageError
from stores.integrity import inspect, repair
from stores.protocol import load_protocol
from stores.readers import (
    analysable_layers,
    count_layers,
    import_settings,
    is_imported,
    known_corpora,
)
from stores.results import read_metrics, read_table
from stores.storyfiles import file_digest
from stores.vectors import vector_layers, vector_path, vector_variant
from stores.workspace import Workspace
from tests.analyses.foreign import (
    CORPUS,
    IN_FILE,
    KNOWN,
    OURS,
    READER,
    D,
    Desk,
    centred,
    open_desk,
    write_protocol,
    write_stack,
)
from tests.analyses.lab import READER as MODEL
from tests.analyses.lab import Lab, story_plan, write_activations, write_texts
from tests.conftest import ROOT
from tests.stores.arranged import files_below


@pytest.fixture
def desk(conn: Connection, workspace: Workspace) -> Desk:
    return open_desk(conn, workspace)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three layers of vectors in float32."""
    return write_stack(tmp_path / "theirs.npz", vectors=centred().astype(np.float32))


def noted(done: ImportSummary, words: str) -> list[str]:
    return [note for note in done.notes if words in note]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_are_kept_as_they_stood_bit_for_bit(
    desk: Desk, tmp_path: Path, dtype: type
) -> None:
    numbers: NDArray[Any] = centred().astype(dtype)
    done = desk.take(write_stack(tmp_path / "v.npz", vectors=numbers))
    for layer in range(3):
        np.testing.assert_array_equal(desk.read(layer), numbers[layer].astype(np.float64))
    assert (done.centred, done.layers) == (False, (0, 1, 2))
    assert vector_variant(desk.conn, READER, CORPUS) == "raw"


def test_both_variants_of_a_file_are_kept(desk: Desk, tmp_path: Path) -> None:
    numbers = centred()
    desk.take(write_stack(tmp_path / "v.npz", raw=numbers, denoised=numbers / 2))
    np.testing.assert_array_equal(desk.read(1, "denoised"), numbers[1] / 2)
    assert vector_variant(desk.conn, READER, CORPUS) == "denoised"
    kept = read_metrics(desk.conn, READER, CORPUS, "vectors", metric="kept_norm", layer=1)
    assert kept[0].value == pytest.approx(0.5)


def test_means_are_centred_over_every_emotion_of_the_file(desk: Desk, tmp_path: Path) -> None:
    """Also over those that the protocol does not know: a mean over some would move every vector."""
    means = centred() + 7.0
    means[:, IN_FILE.index("wistful")] += 3.0
    done = desk.take(write_stack(tmp_path / "v.npz", means=means))
    expected = means - means.mean(axis=1, keepdims=True)
    for layer in range(3):
        np.testing.assert_allclose(desk.read(layer), expected[layer], atol=1e-12)
    assert done.centred
    assert done.off_centre < 1e-12
    assert noted(done, "was taken off")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_means_that_are_centred_already_are_kept_bit_for_bit(
    desk: Desk, tmp_path: Path, dtype: type
) -> None:
    means: NDArray[Any] = centred().astype(dtype)
    done = desk.take(write_stack(tmp_path / "v.npz", means=means))
    np.testing.assert_array_equal(desk.read(2), means[2].astype(np.float64))
    assert not done.centred
    assert noted(done, "not a bit was changed")


def test_vectors_off_their_centre_are_kept_and_say_so(desk: Desk, tmp_path: Path) -> None:
    numbers = centred()
    numbers[1] += 0.2
    file = write_stack(tmp_path / "v.npz", vectors=numbers)
    done = desk.take(file)
    np.testing.assert_array_equal(desk.read(1), numbers[1])
    rows = read_metrics(desk.conn, READER, CORPUS, "vectors", metric="centre")
    assert [row.passed for row in rows] == [True, False, True]
    share = np.sqrt(D) * 0.2 / np.linalg.norm(numbers[1], axis=1).mean()
    assert [done.off_centre, rows[1].value] == pytest.approx([share] * 2)
    assert noted(done, "--centre takes it off")
    done = desk.take(file, centre=True)
    np.testing.assert_allclose(desk.read(1), numbers[1] - 0.2, atol=1e-12)
    np.testing.assert_array_equal(desk.read(0), numbers[0])
    assert done.centred


def test_emotions_carry_the_protocols_spelling_and_others_keep_theirs(
    desk: Desk, file: Path
) -> None:
    done = desk.take(file)
    assert (done.emotions, done.known, done.unknown) == (OURS, KNOWN, ("wistful",))
    assert noted(done, "1 of 4 emotions are not in the protocol")[0].endswith("wistful")
    assert noted(done, "'at_ease' is 'at ease'")
    table = read_table(desk.conn, READER, CORPUS, "vectors", "emotions")
    assert table.rows == tuple(
        (ours, theirs, int(ours in KNOWN)) for ours, theirs in zip(OURS, IN_FILE, strict=True)
    )


def test_an_exact_name_is_preferred_to_one_that_is_only_alike(desk: Desk, tmp_path: Path) -> None:
    emotions = desk.protocol.emotions
    alike = replace(emotions[1], name="at-ease")
    both = replace(desk, protocol=replace(desk.protocol, emotions=(*emotions, alike)))
    names = np.array(["at ease", "joyful"])
    done = both.take(write_stack(tmp_path / "v.npz", vectors=centred(e=2), emotions=names))
    assert done.emotions == ("at ease", "joyful")


def test_layers_counted_from_one_are_moved_and_a_layer_before_the_first_is_refused(
    desk: Desk, tmp_path: Path
) -> None:
    numbers = centred()
    file = write_stack(tmp_path / "v.npz", vectors=numbers, layers=np.array([1, 2, 3]))
    as_they_stand = desk.take(file)
    assert as_they_stand.layers == (1, 2, 3)
    assert noted(as_they_stand, "--one-based")
    moved = desk.take(file, one_based=True)
    assert moved.layers == (0, 1, 2)
    assert not noted(moved, "--one-based")
    np.testing.assert_array_equal(desk.read(0), numbers[0])
    assert vector_layers(desk.conn, READER, CORPUS) == [0, 1, 2]
    with pytest.raises(UsageError, match=r"v\.npz has a layer 0.*without --one-based"):
        desk.take(write_stack(file, vectors=numbers), one_based=True)


def test_a_layer_is_named_by_the_user_where_the_file_names_none(desk: Desk, tmp_path: Path) -> None:
    file = write_stack(tmp_path / "v.npz", vectors=centred()[0])
    with pytest.raises(UsageError, match="--layer"):
        desk.take(file)
    assert desk.take(file, layer=21).layers == (21,)


def test_the_number_of_layers_is_told_or_assumed_and_says_so(desk: Desk, file: Path) -> None:
    assumed = desk.take(file)
    assert (assumed.n_layers, assumed.assumed) == (3, True)
    assert noted(assumed, "give --n-layers")
    told = desk.take(file, n_layers=9)
    assert (told.n_layers, told.assumed) == (9, False)
    assert not noted(told, "--n-layers")
    assert count_layers(desk.conn, READER) == 9
    with pytest.raises(UsageError, match=r"vectors at layer 2, .* a model of 2 are 0 to 1"):
        desk.take(file, n_layers=2)
    assert count_layers(desk.conn, READER) == 9


def test_every_set_of_a_reader_is_of_one_model(desk: Desk, file: Path, tmp_path: Path) -> None:
    desk.take(file, n_layers=9, model="M")
    other = write_stack(tmp_path / "other.npz", vectors=centred(5, seed=1))
    done = desk.take(other, corpus="more")
    assert (done.n_layers, done.assumed) == (9, False)
    assert known_corpora(desk.conn, READER) == [CORPUS, "more"]
    with pytest.raises(FingerprintMismatch, match=r"a model of 9 layers.* now of 8"):
        desk.take(other, corpus="more", n_layers=8)
    with pytest.raises(FingerprintMismatch, match=r"with model M .* with N"):
        desk.take(other, corpus="more", model="N")
    wide = write_stack(tmp_path / "wide.npz", vectors=np.tile(centred(), 2))
    with pytest.raises(FingerprintMismatch, match=r"d_model 5 .* with 10"):
        desk.take(wide, corpus="more")
    assert desk.take(file, n_layers=7, model="M").n_layers == count_layers(desk.conn, READER) == 7


def test_nothing_is_stored_unless_every_file_is_good(desk: Desk, tmp_path: Path) -> None:
    good = write_stack(tmp_path / "v_layer_0.npz", vectors=centred()[0])
    bad = write_stack(tmp_path / "v_layer_1.npz", vectors=np.full((4, D), np.nan))
    with pytest.raises(UsageError, match="v_layer_1"):
        desk.take(good, bad)
    assert [desk.count(table) for table in ("vectors", "runs", "corpora", "metrics")] == [0] * 4
    assert not desk.workspace.vectors(READER).exists()


def test_the_same_again_changes_nothing(desk: Desk, file: Path) -> None:
    desk.take(file)
    before = files_below(desk.workspace.vectors(READER))
    again = desk.take(file)
    assert (again.run_id, again.unchanged) == (None, True)
    assert desk.count("runs") == 1
    assert files_below(desk.workspace.vectors(READER)) == before
    assert desk.take(file, n_layers=9).run_id == 2


def test_other_vectors_replace_those_of_before_with_all_their_layers(
    desk: Desk, file: Path, tmp_path: Path
) -> None:
    desk.take(file)
    numbers = centred(1, seed=1)[0]
    desk.take(write_stack(tmp_path / "one_layer_1.npz", vectors=numbers))
    assert vector_layers(desk.conn, READER, CORPUS) == [1]
    np.testing.assert_array_equal(desk.read(1), numbers)
    assert [row.layer for row in read_metrics(desk.conn, READER, CORPUS, "vectors")] == [1, 1]
    assert [f for f in inspect(desk.conn, desk.workspace) if f.fault] == []


def test_a_set_whose_bytes_were_damaged_is_stored_again(desk: Desk, file: Path) -> None:
    desk.take(file)
    chunk = chunk_path(vector_path(desk.workspace, READER, CORPUS, "raw", 1), 0)
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-9] + b"damaged!!")
    assert not desk.take(file).unchanged
    assert chunk.read_bytes() == whole


def test_what_doctor_withdraws_is_missed_until_it_is_imported_again(desk: Desk, file: Path) -> None:
    desk.take(file)
    chunk_path(vector_path(desk.workspace, READER, CORPUS, "raw", 1), 0).unlink()
    found = [f for f in inspect(desk.conn, desk.workspace) if f.fault]
    assert [(f.thing, f.repair) for f in found] == [("vectors", "import it again")]
    repair(desk.conn, desk.workspace, found)
    assert vector_layers(desk.conn, READER, CORPUS) == [0, 2]
    assert analysable_layers(desk.conn, READER, CORPUS) == (0, 1, 2)
    desk.take(file)
    assert vector_layers(desk.conn, READER, CORPUS) == [0, 1, 2]
    assert [f for f in inspect(desk.conn, desk.workspace) if f.fault] == []


KILLED = """
import os, sys
from contextlib import closing
from pathlib import Path
from analyses.vector_import import import_vectors
from stores import arrays
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
written, whole = [], arrays.write_block

def write_two(*given):
    if len(written) == 2:
        os._exit(137)
    written.append(whole(*given))
    return written[-1]

arrays.write_block = write_two
workspace = Workspace(Path(sys.argv[1]))
with closing(open_database(workspace.database)) as conn:
    protocol = load_protocol(workspace.root / "protocol")
    import_vectors(conn, workspace, protocol, sys.argv[2], sys.argv[3], [Path(sys.argv[4])])
"""


def test_an_import_that_was_killed_leaves_the_set_that_was_there(
    desk: Desk, file: Path, tmp_path: Path
) -> None:
    desk.take(file)
    other = write_stack(tmp_path / "other.npz", vectors=centred(5, seed=1))
    arguments = [str(desk.workspace.root), READER, CORPUS, str(other)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False)
    assert killed.returncode == 137
    assert desk.take(file).unchanged
    found = [f for f in inspect(desk.conn, desk.workspace) if f.fault]
    assert [f.thing for f in found] == ["file"] * 2
    desk.take(other)
    assert vector_layers(desk.conn, READER, CORPUS) == [0, 1, 2, 3, 4]
    assert [f for f in inspect(desk.conn, desk.workspace) if f.fault] == []
    outcomes = [row["outcome"] for row in desk.conn.execute("SELECT outcome FROM runs")]
    assert outcomes == ["done", None, "done"]


def test_results_that_a_killed_import_did_not_write_are_written_by_the_next_one(
    desk: Desk, file: Path
) -> None:
    desk.take(file)
    results = desk.workspace.results(READER) / CORPUS / "vectors.json"
    whole = results.read_bytes()
    results.unlink()
    assert desk.take(file).unchanged
    assert results.read_bytes() == whole


def test_a_disk_that_refuses_the_new_set_leaves_the_old_one(
    desk: Desk, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.take(file)
    before, whole = desk.read(2), arrays.write_block

    def refuse(path: Path, chunk: int, block: arrays.Floats) -> ChunkFile:
        if path.name == "layer_4":
            raise EngineError("no space is left")
        return whole(path, chunk, block)

    monkeypatch.setattr(arrays, "write_block", refuse)
    with pytest.raises(EngineError, match="no space"):
        desk.take(write_stack(tmp_path / "other.npz", vectors=centred(5, seed=1)))
    np.testing.assert_array_equal(desk.read(2), before)
    assert [f for f in inspect(desk.conn, desk.workspace) if f.fault] == []


def test_a_reader_that_read_texts_here_takes_no_vectors_from_files(desk: Desk, file: Path) -> None:
    lab = Lab(desk.conn, desk.workspace, desk.protocol)
    desk.conn.execute(
        "INSERT INTO corpora (corpus, protocol_digest, protocol_files, created_at) "
        "VALUES ('main', ?, '{}', '')",
        (desk.protocol.digest,),
    )
    write_texts(lab, "stories", story_plan(desk.protocol.names))
    write_activations(lab, "stories", {0: lambda _: np.ones(D)}, d_model=D)
    with pytest.raises(UsageError, match=f"{MODEL} is a model that has read texts here"):
        desk.take(file, reader=MODEL)
    assert desk.count("vectors") == 0


def test_the_corpus_is_bound_to_the_protocol_whose_names_the_emotions_carry(
    desk: Desk, file: Path, tmp_path: Path
) -> None:
    desk.take(file)
    emotions = write_protocol(tmp_path / "second").root / "emotions.tsv"
    emotions.write_text(emotions.read_text().replace("afraid", "scared"))
    second = replace(desk, protocol=load_protocol(tmp_path / "second"))
    with pytest.raises(FingerprintMismatch, match=r"emotions\.tsv"):
        second.take(file, reader="another")
    assert not is_imported(desk.conn, "another")
    second.take(file, reader="another", corpus="elsewhere")
    assert is_imported(desk.conn, "another")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"vectors": np.zeros((2, 4, D))}, ("v.npz", "'joyful'", "layer 0", "no direction")),
        ({"means": np.ones((2, 1, D)), "emotions": np.array(["a"])}, ("v.npz", "'a'", "alone")),
        ({"means": np.ones((2, 4, D))}, ("v.npz", "'joyful'", "no direction")),
        ({"vectors": np.full((2, 4, D), 1e-200)}, ("v.npz", "'joyful'", "no direction")),
        ({"means": centred(2) * 1e300}, ("v.npz", "'Joyful'", "beyond 1e+150")),
        ({"vectors": centred(2), "layers": np.array([0, 2**63], "u8")}, ("layers", "no model")),
    ],
    ids=["zero", "one mean", "equal means", "next to zero", "vast", "a vast layer"],
)
def test_vectors_without_a_direction_are_refused_in_one_line(
    desk: Desk, tmp_path: Path, contents: dict[str, NDArray[Any]], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        desk.take(write_stack(tmp_path / "v.npz", **contents))
    line = str(caught.value)
    assert [word for word in words if word not in line] == []
    assert "\n" not in line
    assert desk.count("vectors") == 0


def test_one_emotion_alone_is_kept_and_told_to_have_no_centre(desk: Desk, tmp_path: Path) -> None:
    names = np.array(["joyful"])
    file = write_stack(tmp_path / "v_layer_3.npz", vectors=np.ones((1, D)), emotions=names)
    assert noted(desk.take(file), "one emotion alone has no centre")
    with pytest.raises(UsageError, match="'joyful': its mean cannot be centred"):
        desk.take(file, centre=True)
    np.testing.assert_array_equal(desk.read(3), np.ones((1, D)))


@pytest.mark.parametrize("names", [{"reader": "a/b"}, {"corpus": "../up"}])
def test_names_that_are_no_slugs_are_refused(desk: Desk, file: Path, names: dict[str, str]) -> None:
    with pytest.raises(EngineError, match="is no slug"):
        desk.take(file, **names)


def test_the_ledger_says_which_files_it_was(desk: Desk, file: Path) -> None:
    done = desk.take(file, n_layers=9, model="somebody/model-9", one_based=False)
    settings = import_settings(desk.conn, READER, CORPUS)
    assert settings == {
        "imported": [{"file": "theirs.npz", "sha256": file_digest(file)}],
        "layers": [0, 1, 2],
        "n_layers": 9,
        "n_layers_assumed": False,
        "d_model": D,
        "one_based": False,
        "centred": False,
        "model": "somebody/model-9",
        "method": 1,
    }
    run = desk.conn.execute("SELECT * FROM runs").fetchone()
    assert (run["id"], run["command"], run["model"], run["outcome"]) == (
        *(done.run_id, "vectors import"),
        *("somebody/model-9", "done"),
    )


def test_a_set_of_published_size_takes_seconds_and_little_memory(tmp_path: Path) -> None:
    script = """
import sys, time
from contextlib import closing
from pathlib import Path
import numpy as np
from analyses.array_bench import peak_memory
from analyses.vector_import import import_vectors
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
root = Path(sys.argv[1])
protocol = load_protocol()
means = np.random.default_rng(0).standard_normal((35, len(protocol.names), 1536), np.float32)
np.savez(root / "p.npz", means=means, emotions=np.array(protocol.names), layers=np.arange(35))
del means
workspace = Workspace(root)
with closing(open_database(workspace.database)) as conn:
    begin = time.monotonic()
    import_vectors(conn, workspace, protocol, "theirs", "imported", [root / "p.npz"])
    print(time.monotonic() - begin, peak_memory() / 2**20)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, mebibytes = map(float, ran.stdout.split())
    assert seconds < 30  # 2 s on an idle machine
    assert mebibytes < 600
