"""`vectors import`, `analyze` and `compare` on sets from files, as a user meets them."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from stores.protocol import DEFAULT_PROTOCOL, load_protocol
from stores.workspace import Workspace
from tests.test_cli import expect_error, run

NAMES = load_protocol(DEFAULT_PROTOCOL).names[:14]
STRANGER = "hangry"
LAYERS, D_MODEL = 3, 24
FEW = ("--permutations", 39)


def write_means(path: Path, seed: int) -> Path:
    """Made-up emotion means at three layers; valence runs along their first dimension."""
    rng = np.random.default_rng(seed)
    protocol = load_protocol(DEFAULT_PROTOCOL)
    names = np.array([*NAMES, STRANGER])
    valence = [*(protocol.emotion(name).valence or 0.0 for name in NAMES), 0.0]
    means = rng.normal(size=(LAYERS, len(names), D_MODEL)).astype(np.float32)
    means[:, :, 0] += 6.0 * np.array(valence, dtype=np.float32)
    np.savez(path, means=means + 20.0, emotions=names, layers=np.array([1, 3, 5]))
    return path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a reader whose vectors of two corpora came from files."""
    folder = tmp_path_factory.mktemp("imported")
    for corpus, seed in (("one", 1), ("two", 2)):
        file = write_means(folder / f"{corpus}.npz", seed)
        taken = run(
            *("vectors", "import", file, "--reader", "theirs", "--corpus", corpus),
            *("--n-layers", 8),
            workspace=folder,
        )
        assert taken.exit_code == 0, taken.output
    return folder


@pytest.fixture
def there(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "workspace")


def rows(workspace: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(Workspace(workspace).database)) as conn:
        return conn.execute(query).fetchall()


def write_norms(path: Path) -> Path:
    """Ratings made up for this test: they are nobody's."""
    rng = np.random.default_rng(3)
    lines = [f"{name},{rng.uniform(1, 9):.5f},{rng.uniform(1, 9):.5f}" for name in NAMES[:-1]]
    path.write_text("\n".join(["word,valence,arousal", *lines]) + "\n", encoding="utf-8")
    return path


def test_an_imported_set_is_analysed_like_a_built_one(there: Path) -> None:
    done = run("analyze", "geometry", "--corpus", "one", *FEW, workspace=there)
    assert done.exit_code == 0, done.output
    found = rows(
        there,
        "SELECT layer, p_value FROM current_metrics WHERE metric = 'r_valence' "
        "AND subject = 'PC1' AND analysis = 'geometry' ORDER BY layer",
    )
    assert [layer for layer, _ in found] == [1, 3, 5]
    assert all(isinstance(p, float) and p <= 0.05 for _, p in found)
    again = run("analyze", "geometry", "--corpus", "one", *FEW, workspace=there)
    assert "unchanged" in again.stdout


def test_status_tells_of_sets_from_files(there: Path) -> None:
    found = json.loads(run("status", "--json", workspace=there).stdout)["imported"]
    assert found == [
        {"reader": "theirs", "corpus": corpus, "layers": 3, "emotions": 15, "files": [file]}
        for corpus, file in (("one", "one.npz"), ("two", "two.npz"))
    ]
    shown = run("status", workspace=there).stdout
    assert "theirs" in shown
    assert "two.npz" in shown


def test_status_names_one_file_of_many_and_counts_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    files = [tmp_path / f"made_up_layer_{layer}.npz" for layer in range(5)]
    for file in files:
        np.savez(file, means=rng.normal(size=(3, 4)), emotions=np.array(NAMES[:3]))
    taken = run("vectors", "import", *files, "--reader", "many", workspace=tmp_path)
    assert taken.exit_code == 0, taken.output
    assert "made_up_layer_0.npz and 4 more" in run("status", workspace=tmp_path).stdout


def test_ctrl_c_tells_that_the_same_command_goes_on(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("analyses.comparison.compare_sets", press)
    monkeypatch.setattr("analyses.vector_import.import_vectors", press)
    for words in (("compare",), ("vectors", "import", "a.npz", "--reader", "b")):
        stopped = run(*words, workspace=there)
        assert stopped.exit_code == 130
        assert stopped.stdout == ""
        assert "the same command goes on" in stopped.stderr


def test_every_corpus_of_a_reader_in_one_call(there: Path) -> None:
    expect_error(run("analyze", "geometry", workspace=there), 2, "--corpus", "one, two")
    done = run("analyze", "geometry", "--corpus", "all", *FEW, workspace=there)
    assert done.exit_code == 0, done.output
    analysed = rows(there, "SELECT DISTINCT corpus FROM metrics WHERE analysis = 'geometry'")
    assert sorted(analysed) == [("one",), ("two",)]


def test_all_leaves_out_what_an_import_cannot_answer_and_says_so(there: Path) -> None:
    done = run("analyze", "all", "--corpus", "one", *FEW, workspace=there)
    assert done.exit_code == 0, done.output
    assert "geometry: done" in done.stdout
    for name in ("preferences", "reliability", "norms"):
        assert f"{name}: left out, " in done.stderr
    refused = run("analyze", "reliability", "--corpus", "one", workspace=there)
    expect_error(refused, 1, "theirs", "imported")
    expect_error(run("verify", "V3", "--corpus", "one", workspace=there), 1, "theirs", "imported")


def test_layers_may_be_chosen(there: Path) -> None:
    chosen = ("--corpus", "one", "--layers", "1,5", *FEW)
    assert run("analyze", "geometry", *chosen, workspace=there).exit_code == 0
    found = rows(there, "SELECT DISTINCT layer FROM metrics WHERE metric = 'r_valence'")
    assert sorted(found) == [(1,), (5,)]
    missing = run("analyze", "geometry", "--corpus", "one", "--layers", "2", workspace=there)
    expect_error(missing, 1, "[2]", "theirs")
    expect_error(run("analyze", "geometry", "--corpus", "one", "--layers", "9", workspace=there), 2)


def test_norms_are_named_matched_and_kept_apart_from_the_labels(there: Path) -> None:
    file = write_norms(there / "ratings.csv")
    done = run("analyze", "geometry", "--norms", file, "--corpus", "one", *FEW, workspace=there)
    assert done.exit_code == 0, done.output
    assert f"{len(NAMES) - 1} of {len(NAMES) + 1}" in done.stderr
    assert STRANGER in done.stderr
    analysed = rows(there, "SELECT DISTINCT analysis FROM metrics WHERE metric = 'r_valence'")
    assert sorted(analysed) == [("geometry",), ("norms",)]
    rating = file.read_text(encoding="utf-8").splitlines()[1].split(",")[1].encode()
    kept = [*there.rglob("*.db"), *(there / "results").rglob("*.*")]
    assert len(kept) > 3
    assert [path.name for path in kept if rating in path.read_bytes()] == []
    expect_error(run("analyze", "norms", "--corpus", "one", workspace=there), 2, "--norms")


def test_sets_are_compared_side_by_side(there: Path) -> None:
    assert run("analyze", "geometry", "--corpus", "all", *FEW, workspace=there).exit_code == 0
    done = run("compare", "theirs", *FEW, workspace=there)
    assert done.exit_code == 0, done.output
    for words in ("theirs/one", "theirs/two", "paper"):
        assert words in done.stdout
    document = json.loads(run("compare", "theirs", *FEW, "--json", workspace=there).stdout)
    assert isinstance(document, dict)
    agreement = rows(
        there, "SELECT count(*) FROM current_metrics WHERE analysis = 'comparison' AND n = 15"
    )
    assert agreement[0][0] != 0
    expect_error(run("compare", "nobody", workspace=there), 2, "nobody", "theirs/one")


def test_nothing_is_created_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    expect_error(run("compare", workspace=tmp_path / "none"), 1, "no ledger")
    assert not (tmp_path / "none").exists()


def test_a_set_is_written_and_taken_back_bit_for_bit(there: Path) -> None:
    for suffix in ("npz", "safetensors"):
        file = there / f"out.{suffix}"
        place = ("--reader", "theirs", "--corpus", "one")
        written = run("vectors", "export", file, *place, workspace=there)
        assert written.exit_code == 0, written.output
        taken = run(
            *("vectors", "import", file, "--reader", f"back-{suffix}", "--n-layers", 8),
            workspace=there,
        )
        assert taken.exit_code == 0, taken.output
    digests = rows(
        there,
        "SELECT layer, count(DISTINCT sha256), count(*) FROM vectors "
        "WHERE corpus IN ('one', 'imported') AND variant = 'raw' GROUP BY layer",
    )
    assert digests == [(1, 1, 3), (3, 1, 3), (5, 1, 3)]
