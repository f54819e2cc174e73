"""Vectors from files and into files, as a user meets them on the command line."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from stores.arrays import chunk_path
from stores.database import open_database
from stores.results import read_metrics
from stores.vectors import vector_path
from stores.workspace import Workspace
from tests.analyses.foreign import IN_FILE, OURS, centred, write_protocol, write_stack
from tests.test_cli import DEMO_MODEL, expect_error, run

LAYERS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A workspace into which a series of four layers was imported."""
    write_protocol(tmp_path / "protocol")
    files = [
        write_stack(tmp_path / f"theirs_layer_{n}.npz", means=layer + 3.0)
        for n, layer in enumerate(centred(LAYERS), start=1)
    ]
    done = run(
        *("vectors", "import", *files, "--reader", "theirs", "--one-based", "--n-layers", 4),
        *("--protocol", tmp_path / "protocol"),
        workspace=tmp_path / "ws",
    )
    assert done.exit_code == 0, done.output
    assert (
        done.stdout == "theirs/imported: imported, 4 layers of 4, 4 emotions (3 of the protocol)\n"
    )
    assert "wistful" in done.stderr
    assert "was taken off" in done.stderr
    yield tmp_path


def test_an_imported_set_is_analysed_without_a_word_on_whose_it_is(folder: Path) -> None:
    workspace = Workspace(folder / "ws")
    first = run("analyze", "geometry", "--permutations", 19, workspace=workspace.root)
    assert first.exit_code == 0, first.output
    again = run("analyze", "geometry", "--permutations", 19, workspace=workspace.root)
    assert again.stdout.startswith("geometry: unchanged")
    with closing(open_database(workspace.database, read_only=True)) as conn:
        rows = read_metrics(conn, "theirs", "imported", "geometry")
    assert {row.layer for row in rows} - {None} == set(range(LAYERS))
    assert list((workspace.results("theirs") / "figures" / "imported").glob("geometry.*.svg"))


def test_what_needs_a_model_or_texts_says_that_the_set_was_imported(folder: Path) -> None:
    for command in (
        ("analyze", "logit_lens"),
        ("analyze", "reliability"),
        ("vectors", "build"),
    ):
        refused = run(*command, workspace=folder / "ws")
        expect_error(refused, 1, "theirs were imported", "another --reader")


def test_no_model_reads_texts_under_the_name_of_imported_vectors(folder: Path) -> None:
    planned = run(
        *("generate", "stories", "--model", DEMO_MODEL, "--protocol", DEMO_MODEL / "protocol"),
        *("--corpus", "main", "--emotions", "happy,sad", "--topics", 1, "--plan-only"),
        workspace=folder / "ws",
    )
    assert planned.exit_code == 0, planned.output
    asked = ("extract", "--model", DEMO_MODEL, "--device", "cpu", "--reader", "theirs")
    refused = run(*asked, workspace=folder / "ws")
    expect_error(refused, 2, "theirs is the name of imported vectors", "another --reader")


def test_every_emotion_becomes_a_control_vector(folder: Path) -> None:
    done = run("vectors", "export", folder / "{emotion}.gguf", workspace=folder / "ws")
    assert done.exit_code == 0, done.output
    names = [Path(line).stem for line in done.stdout.splitlines()]
    assert names == [name.replace(" ", "-") for name in OURS]
    assert "layers [0] were left out" in done.stderr


def test_an_export_of_chosen_layers_is_read_by_numpy(folder: Path) -> None:
    path = folder / "named.npz"
    asked = ("--layers", "1,3", "--layout", "named")
    done = run("vectors", "export", path, *asked, workspace=folder / "ws")
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    with np.load(path) as exported:
        assert set(exported) == {*OURS, "layers"}
        assert exported["layers"].tolist() == [1, 3]
        expected = centred(LAYERS)[[1, 3], IN_FILE.index("wistful")]
        np.testing.assert_allclose(exported["wistful"], expected, atol=1e-12)


def test_doctor_sends_a_damaged_set_back_to_its_files(folder: Path) -> None:
    workspace = Workspace(folder / "ws")
    assert run("doctor", workspace=workspace.root).exit_code == 0
    chunk_path(vector_path(workspace, "theirs", "imported", "raw", 2), 0).write_bytes(b"")
    found = run("doctor", "--json", workspace=workspace.root)
    assert found.exit_code == 1
    repairs = {each["thing"]: each["repair"] for each in json.loads(found.stdout)}
    assert repairs["vectors"] == "import it again"
    run("doctor", "--repair", workspace=workspace.root)
    refused = run("analyze", "geometry", workspace=workspace.root)
    expect_error(refused, 1, "layers [2]", "vectors import FILE...")


@pytest.mark.parametrize(
    ("name", "words"),
    [("v.pkl", "pickle"), ("v.npz", "v.npz"), ("v_layer_0.npz", "torn")],
)
def test_a_bad_file_is_one_line_and_leaves_no_set(tmp_path: Path, name: str, words: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"PK\x03\x04 torn")
    ws = tmp_path / "ws"
    expect_error(run("vectors", "import", file, "--reader", "x", workspace=ws), 2, name)
    listed = run("sql", "SELECT count(*) FROM vectors", "--json", workspace=ws)
    assert "0" in listed.stdout
