"""Laws of comparing sets of vectors: what is read back, what is computed, and against what.

Sets, labels and numbers are made up here; published numbers in these tests are nobody's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from analyses import geometry, norms
from analyses.base import run_analysis
from analyses.comparing.figures import draw
from analyses.comparing.sets import LONGEST_NAME, name_home
from analyses.comparison import Comparison, compare_sets, parse_sets
from analyses.opening import open_inputs
from stores.activations import ArraySettings, open_arrays
from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.norms import load_norms
from stores.protocol import Protocol
from stores.published import load_published, read_published
from stores.results import Metric, Table, publish, read_metrics
from stores.vectors import vector_layers, write_vectors
from stores.workspace import Workspace, require_slug
from tests.analyses.lab import write_protocol
from tests.analyses.planted import Floats, planted_world

E, D, PERMUTATIONS = 24, 30, 99
WORLD = planted_world(e=E, d=D)
NAMES = tuple(f"e{i:02d}" for i in range(E))


@pytest.fixture
def protocol(workspace: Workspace) -> Protocol:
    return write_protocol(workspace.root / "protocol", WORLD)


class Bench:
    """A workspace to put sets into and compare them."""

    def __init__(self, conn: Connection, workspace: Workspace, protocol: Protocol) -> None:
        self.conn, self.workspace, self.protocol = conn, workspace, protocol
        load_published(conn)

    def run(self, command: str = "vectors build") -> int:
        row = self.conn.execute(
            "INSERT INTO runs (command, settings, code_version, started_at) "
            "VALUES (?, '{}', '', '') RETURNING id",
            (command,),
        ).fetchone()
        return int(row["id"])

    def store(
        self,
        reader: str,
        corpus: str,
        layers: Mapping[int, Floats],
        *,
        n_layers: int = 6,
        names: Sequence[str] = NAMES,
        model: str = "",
        assumed: bool = False,
    ) -> tuple[str, str]:
        """An imported set: the vectors are kept as they are."""
        settings = {
            "imported": ["made-up.npz"],
            "layers": sorted({*layers, *vector_layers(self.conn, reader, corpus)}),
            "n_layers": n_layers,
            "n_layers_assumed": assumed,
            "model": model or None,
        }
        open_corpus(self.conn, corpus, self.protocol.digest, self.protocol.files)
        run = self.run("vectors import")
        for layer, vectors in layers.items():
            write_vectors(
                self.conn,
                self.workspace,
                reader,
                corpus,
                emotions=names,
                layer=layer,
                raw=vectors,
                denoised=None,
                settings=settings,
                inputs="files",
                run_id=run,
            )
        return reader, corpus

    def compare(self, *places: tuple[str, str], **changes: Any) -> Comparison:
        settings: dict[str, Any] = {"seed": 3, "permutations": PERMUTATIONS} | changes
        return compare_sets(
            self.conn, self.workspace, lambda corpus: self.protocol, places, **settings
        )


@pytest.fixture
def bench(
    conn: Connection, workspace: Workspace, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """Without figures, which take most of the time; who looks at them asks for `drawing`."""
    monkeypatch.setattr("analyses.comparison.draw", lambda rows: {})
    return Bench(conn, workspace, protocol)


@pytest.fixture
def drawing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("analyses.comparison.draw", draw)
    return bench


def turned(vectors: Floats, d: int, seed: int = 5) -> Floats:
    """The same shape in a space of d dimensions, turned and twice as large."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    copy: Floats = 2.0 * vectors @ axes[: vectors.shape[1]]
    return copy


def noise(seed: int, e: int = E, d: int = D) -> Floats:
    return np.random.default_rng(seed).normal(size=(e, d))


def cosines(vectors: Floats) -> Floats:
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    triangle: Floats = (directions @ directions.T)[np.triu_indices(len(vectors), 1)]
    return triangle


def row_of(found: Comparison, table: str, **chosen: object) -> dict[str, Any]:
    """The only row of a table with these cells."""
    records = found.kept.records(table)
    rows = [row for row in records if all(row[key] == cell for key, cell in chosen.items())]
    assert len(rows) == 1, rows
    return rows[0]


# ---- which sets ----------------------------------------------------------------------------------


def test_a_reader_stands_for_all_its_corpora_and_no_name_for_every_set(bench: Bench) -> None:
    sets = [bench.store(*place, {0: noise(1)}) for place in (("b", "x"), ("a", "y"), ("a", "x"))]
    everything = [("a", "x"), ("a", "y"), ("b", "x")]
    assert parse_sets(bench.conn, ()) == everything == sorted(sets)
    assert parse_sets(bench.conn, ("b", "a")) == [("b", "x"), ("a", "x"), ("a", "y")]
    assert parse_sets(bench.conn, ("a/y", "a")) == [("a", "y"), ("a", "x")]


def test_an_unknown_set_is_refused_with_those_there_are(bench: Bench) -> None:
    bench.store("a", "x", {0: noise(1)})
    with pytest.raises(UsageError, match="no set of vectors is called 'a/z'; there are a/x"):
        parse_sets(bench.conn, ("a/z",))


def test_without_any_vectors_the_commands_that_make_them_are_named(bench: Bench) -> None:
    with pytest.raises(NotReady, match=r"vectors build.*vectors import"):
        parse_sets(bench.conn, ())


def test_a_set_named_twice_or_no_set_is_refused(bench: Bench) -> None:
    place = bench.store("a", "x", {0: noise(1)})
    for places in ((), (place, place)):
        with pytest.raises(UsageError, match="each set once"):
            bench.compare(*places)


def test_the_home_of_a_comparison_names_its_sets_and_is_a_legal_folder() -> None:
    assert name_home([("a", "x")]) == ("a", "x")
    assert name_home([("a", "x"), ("b", "x")]) == ("a-vs-b", "x")
    assert name_home([("a", "x"), ("b", "y")]) == ("a-vs-b", "x-vs-y")
    many = [(f"reader-number-{i}", "x") for i in range(12)]
    homes = {name_home(many[start:])[0] for start in range(4)}
    assert len(homes) == 4
    assert {len(require_slug(home, "reader")) for home in homes} == {LONGEST_NAME}


# ---- agreement -----------------------------------------------------------------------------------


def test_a_turned_copy_in_another_space_agrees_wholly_and_noise_does_not(bench: Bench) -> None:
    a = bench.store("a", "x", {3: WORLD.vectors})
    same = bench.store("same", "x", {3: turned(WORLD.vectors, 50)})
    other = bench.store("other", "x", {3: noise(9, d=44)})
    found = bench.compare(a, same, other)
    for kind in ("rsa_pearson", "rsa_spearman", "rsa_cosine", "procrustes"):
        alike = row_of(found, "pairs", set="a/x", other="same/x", kind=kind)
        assert alike["value"] == pytest.approx(1.0, abs=1e-9)
        assert alike["p"] == 1.0 / (PERMUTATIONS + 1)
        assert alike["emotions"] == E
        unlike = row_of(found, "pairs", set="a/x", other="other/x", kind=kind)
        assert unlike["p"] > 0.01
        assert unlike["value"] == pytest.approx(unlike["chance"], abs=0.15)


def test_vectors_are_centred_over_their_whole_set_before_shared_emotions_are_chosen(
    bench: Bench,
) -> None:
    a_vectors, b_vectors = noise(1), noise(2) + 0.7 * noise(1)
    shared = NAMES[5:17]
    b_names = (*shared, *(f"only{i}" for i in range(E - len(shared))))
    a = bench.store("a", "x", {3: a_vectors})
    b = bench.store("b", "x", {3: b_vectors}, names=b_names)
    row = row_of(bench.compare(a, b), "pairs", kind="rsa_pearson")
    whole = [vectors - vectors.mean(axis=0) for vectors in (a_vectors, b_vectors)]
    subset = (whole[0][5:17], whole[1][: len(shared)])
    assert row["emotions"] == len(shared)
    assert row["value"] == pytest.approx(pearsonr(*map(cosines, subset)).statistic, abs=1e-9)
    late = [vectors - vectors.mean(axis=0) for vectors in (a_vectors[5:17], b_vectors[:12])]
    assert row["value"] != pytest.approx(pearsonr(*map(cosines, late)).statistic, abs=1e-3)


def test_emotions_are_matched_by_name_and_not_by_their_order(bench: Bench) -> None:
    order = np.random.default_rng(8).permutation(E)
    a = bench.store("a", "x", {3: WORLD.vectors})
    b = bench.store("b", "x", {3: WORLD.vectors[order]}, names=[NAMES[i] for i in order])
    found = bench.compare(a, b)
    for kind in ("rsa_pearson", "procrustes"):
        assert row_of(found, "pairs", kind=kind)["value"] == pytest.approx(1.0, abs=1e-9)


def test_an_offset_that_a_set_was_imported_with_changes_nothing(bench: Bench) -> None:
    a = bench.store("a", "x", {3: WORLD.vectors})
    b = bench.store("b", "x", {3: noise(2)})
    shifted = bench.store("shifted", "x", {3: noise(2) + 40.0})
    plain, moved = (bench.compare(a, other) for other in (b, shifted))
    for kind in ("rsa_pearson", "procrustes"):
        before, after = (row_of(found, "pairs", kind=kind) for found in (plain, moved))
        assert after["value"] == pytest.approx(before["value"], abs=1e-9)


def test_layers_are_matched_by_depth_and_not_by_number(bench: Bench) -> None:
    worlds = {layer: noise(layer) for layer in range(3)}
    small = bench.store("small", "x", worlds, n_layers=3)
    deep = {2 * layer + 1: turned(vectors, 40, layer) for layer, vectors in worlds.items()}
    rest = {layer: noise(100 + layer) for layer in (0, 2, 4)}
    large = bench.store("large", "x", deep | rest, n_layers=6)
    for places in ((small, large), (large, small)):
        found = bench.compare(*places)
        rows = [row for row in found.kept.records("by_depth") if row["kind"] == "rsa_pearson"]
        assert [row["value"] for row in rows] == pytest.approx([1.0] * 3, abs=1e-9)
        layers = [(row["layer"], row["other_layer"]) for row in rows]
        expected = [(0, 1), (1, 3), (2, 5)]
        assert layers == (expected if places[0] == small else [(b, a) for a, b in expected])
        assert [row["depth"] for row in rows] == [row["other_depth"] for row in rows]


def test_depths_are_in_doubt_only_where_no_set_of_the_reader_said_how_many_layers(
    bench: Bench,
) -> None:
    layers = {4: noise(0)}
    told = bench.store("a", "first", layers, n_layers=9)
    follows = bench.store("a", "second", layers, n_layers=9, assumed=True)
    unknown = bench.store("b", "first", layers, n_layers=5, assumed=True)
    found = bench.compare(told, follows, unknown)
    doubts = [(row["set"], row["depth"], row["assumed"]) for row in found.kept.records("sets")]
    assert doubts == [("a/first", 5 / 9, 0), ("a/second", 5 / 9, 0), ("b/first", 1.0, 1)]
    assert [line for line in found.lines if "nobody said" in line] == [
        "b/first: nobody said how many layers the model has; depths may be off"
    ]


def test_every_layer_is_compared_with_every_layer_of_the_other_set(bench: Bench) -> None:
    a_layers = {layer: noise(layer) for layer in (1, 2, 4)}
    b_layers = {0: turned(a_layers[4], 33), 5: noise(50)}
    found = bench.compare(bench.store("a", "x", a_layers), bench.store("b", "x", b_layers))
    assert len(found.kept.records("rsa_layers")) == len(a_layers) * len(b_layers)
    same = row_of(found, "rsa_layers", layer=4, other_layer=0)
    assert [same[kind] for kind in ("pearson", "spearman", "cosine")] == pytest.approx([1.0] * 3)
    pair = row_of(found, "rsa_layers", layer=2, other_layer=5)
    centred = [v - v.mean(axis=0) for v in (a_layers[2], b_layers[5])]
    assert pair["pearson"] == pytest.approx(pearsonr(*map(cosines, centred)).statistic, abs=1e-9)


def test_two_corpora_of_one_reader_are_compared_vector_by_vector(bench: Bench) -> None:
    one, other = noise(1), noise(1) + 0.8 * noise(2)
    a = bench.store("a", "x", {3: one})
    b = bench.store("a", "y", {3: other})
    found = bench.compare(a, b)
    centred = [vectors - vectors.mean(axis=0) for vectors in (one, other)]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in centred]
    expected = np.einsum("ed,ed->e", *units)
    [metric] = found.kept.select("matched_cosine")
    assert (metric.layer, metric.subject, metric.n) == (3, "a/x & a/y", E)
    assert metric.value == pytest.approx(expected.mean(), abs=1e-9)
    assert metric.p_value == 1.0 / (PERMUTATIONS + 1)
    assert metric.chance == pytest.approx(0.0, abs=0.1)
    rows = {row["emotion"]: row["cosine"] for row in found.kept.records("matched")}
    assert [rows[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("models", "n_layers", "matched"),
    [(("", ""), 6, 0), (("m", "n"), 6, 0), (("m", "m"), 6, 1), (("m", "m"), 7, 0)],
)
def test_vectors_of_two_readers_are_matched_only_if_their_model_is_one(
    bench: Bench, models: tuple[str, str], n_layers: int, matched: int
) -> None:
    a = bench.store("a", "x", {3: noise(1)}, model=models[0])
    b = bench.store("b", "x", {3: noise(2)}, model=models[1], n_layers=n_layers)
    assert len(bench.compare(a, b).kept.select("matched_cosine")) == matched


def test_vectors_of_different_length_under_one_reader_are_not_matched(bench: Bench) -> None:
    a = bench.store("a", "x", {3: noise(1)})
    b = bench.store("a", "y", {3: noise(2, d=D + 3)})
    found = bench.compare(a, b)
    assert found.kept.select("matched_cosine") == []
    assert found.kept.select("procrustes")


def test_sets_that_share_two_emotions_are_told_and_not_compared(bench: Bench) -> None:
    a = bench.store("a", "x", {3: noise(1)})
    names = (*NAMES[:2], *(f"only{i}" for i in range(E - 2)))
    found = bench.compare(a, bench.store("b", "x", {3: noise(2)}, names=names))
    [metric] = found.kept.select("procrustes")
    assert (metric.value, metric.n) == (None, 2)
    assert "a/x & b/x: too few emotions in common (2) to be compared" in found.lines
    assert not [table for table in found.kept.tables if table.name == "pairs"]


def test_three_shared_emotions_at_one_layer_are_compared_and_drawn(bench: Bench) -> None:
    a = bench.store("a", "x", {3: noise(1, e=3)}, names=NAMES[:3])
    b = bench.store("b", "x", {3: noise(2, e=5)}, names=NAMES[:5])
    found = bench.compare(a, b)
    row = row_of(found, "by_depth", kind="rsa_pearson")
    assert (row["emotions"], row["ci_low"]) == (3, None)
    assert -1.0 <= row["value"] <= 1.0
    assert {"rsa_pearson", "procrustes", "sets", "layers_1"} <= set(draw(found.kept))


def test_shared_emotions_of_one_vector_are_refused_in_one_line(bench: Bench) -> None:
    alike = noise(1, e=6)
    alike[:3] = alike[0]
    a = bench.store("a", "x", {3: alike}, names=NAMES[:6])
    b = bench.store("b", "x", {3: noise(2, e=3)}, names=NAMES[:3])
    with pytest.raises(UsageError, match=r"a/x and b/x cannot be compared: .* are the same"):
        bench.compare(a, b)


def test_of_many_pairs_six_are_drawn_and_all_are_in_the_tables(bench: Bench) -> None:
    places = [bench.store(name, "x", {3: noise(i)}) for i, name in enumerate("abcde")]
    told: list[tuple[str, int, int, str]] = []
    found = bench.compare(*places, permutations=9, watch=lambda *step: told.append(step))
    assert len({(row["set"], row["other"]) for row in found.kept.records("pairs")}) == 10
    assert sum(name.startswith("layers_") for name in draw(found.kept)) == 6
    assert "6 of 10 pairs are drawn; the tables have all of them" in found.lines
    assert told[0] == ("pairs", 0, 10, "a/x & b/x")


def test_the_same_seed_gives_the_same_rows_and_another_seed_the_same_values(
    bench: Bench,
) -> None:
    places = bench.store("a", "x", {3: noise(1)}), bench.store("b", "x", {3: noise(2)})
    first = bench.compare(*places)
    other = bench.compare(*places, seed=4)
    again = bench.compare(*places)
    assert (other.summary.status, again.summary.status) == ("done", "done")
    assert again.kept == first.kept
    values = [[row.value for row in found.kept.metrics] for found in (first, other)]
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    assert first.kept != other.kept


# ---- what is read back ---------------------------------------------------------------------------

GEOMETRY = [
    Metric("emotions", E, n=E),
    Metric("pc1_variance", 0.4321, 3, n=E),
    *(Metric("pc_variance", 0.1 * (layer + 1), layer, "PC1", E) for layer in (1, 3)),
    *(Metric("pc_variance", 0.05, layer, "PC2", E) for layer in (1, 3)),
    *(
        Metric("r_valence", 0.2 * (layer + 1), layer, "PC1", E, 0.1, 0.0, 0.9, 0.002)
        for layer in (1, 3)
    ),
    *(Metric("r_valence_max", 0.5, layer, "PC1", E, threshold=0.44) for layer in (1, 3)),
]
NORMS = [
    Metric("r_pc1_valence", 0.654, 3, None, 20, 0.1, 0.5, 0.75, 0.001),
    *(Metric("r_valence", 0.7, layer, "PC1", 20, 0.1, 0.6, 0.8, 0.003) for layer in (1, 3)),
]
NORM_LABELS = Table("labels", ("layer", "source"), ((1, "made-up ratings"),))


def test_the_board_shows_a_sets_own_rows_beside_every_published_row_of_that_name(
    bench: Bench,
) -> None:
    place = bench.store("a", "x", {1: noise(1), 3: noise(2)})
    publish(bench.conn, bench.run(), *place, "geometry", GEOMETRY)
    found = bench.compare(place)
    own = row_of(found, "board", metric="pc1_variance", set="a/x")
    assert (own["value"], own["layer"], own["n"], own["note"]) == (0.4321, 3, E, "")
    published = [
        (row["source"], row["model"], row["value"])
        for row in found.kept.records("board")
        if row["metric"] == "pc1_variance" and row["set"] is None
    ]
    expected = [
        (row.source, row.model, row.value) for row in read_published(bench.conn, "pc1_variance")
    ]
    assert published == expected
    assert len(expected) > 2
    line = next(row for row in found.rows if row[0] == "pc1_variance")
    assert line[2] == "0.43"
    assert all(source in line[3] for source, _, _ in expected)
    assert len(line) == len(found.columns)


def test_what_was_not_run_is_told_with_its_command_and_never_computed(bench: Bench) -> None:
    a, b = bench.store("a", "x", {3: noise(1)}), bench.store("b", "x", {3: noise(2)})
    publish(bench.conn, bench.run(), *a, "norms", NORMS, [NORM_LABELS])
    found = bench.compare(a, b)
    assert row_of(found, "board", metric="r_pc1_valence", set="b/x")["note"] == "not run"
    line = next(row for row in found.rows if row[0] == "r_pc1_valence")
    assert line[2:4] == ("0.65 (0.50 to 0.75; n 20; p 0.001), made-up ratings", "not run")
    told = "\n".join(found.lines)
    assert "b/x: geometry: not run; `cli.py analyze geometry --reader b --corpus x`" in told
    assert "b/x: norms: not run; `cli.py analyze norms --reader b --corpus x --norms FILE`" in told
    assert "a/x: norms" not in told
    assert "reliability, logit_lens" in told
    assert "needs texts or a model, and these were imported" in told
    for analysis in ("geometry", "reliability"):
        assert read_metrics(bench.conn, *b, analysis) == []
    assert all(row["value"] is None for row in found.kept.records("board") if row["set"] == "b/x")


def test_a_set_built_here_is_told_how_to_run_the_suite(bench: Bench) -> None:
    place = bench.store("other", "x", {3: noise(1)})
    settings = ArraySettings("m", "r", "w", 6, D, 50, "raw", "float32", bench.protocol.digest)
    open_arrays(bench.conn, bench.workspace, "own", "x", "stories", settings, 8)
    write_vectors(
        bench.conn,
        bench.workspace,
        "own",
        "x",
        emotions=NAMES,
        layer=3,
        raw=noise(2),
        denoised=noise(3),
        settings={},
        inputs="stories",
        run_id=bench.run(),
    )
    found = bench.compare(place, ("own", "x"))
    told = [line for line in found.lines if line.startswith("own/x")]
    assert "own/x: denoised vectors of m, built here" in told[0]
    assert any("preference_steering: not run; `cli.py verify --reader own" in row for row in told)
    assert any("`cli.py analyze reliability --reader own --corpus x`" in row for row in told)


def test_numbers_older_than_the_vectors_are_marked(bench: Bench) -> None:
    place = ("a", "x")
    bench.store(*place, {1: noise(1), 3: noise(2)})
    publish(bench.conn, bench.run(), *place, "geometry", GEOMETRY)
    fresh = bench.compare(place)
    bench.store(*place, {3: noise(4)})
    stale = bench.compare(place)
    notes = [
        row_of(found, "board", metric="pc1_variance", set="a/x")["note"] for found in (fresh, stale)
    ]
    assert notes == ["", "older than the vectors"]
    assert any("older than the vectors; `cli.py analyze geometry" in line for line in stale.lines)


def test_by_depth_human_norms_come_before_the_protocols_labels_and_both_say_so(
    bench: Bench,
) -> None:
    a, b = (bench.store(name, "x", {1: noise(1), 3: noise(2)}) for name in ("a", "b"))
    for place in (a, b):
        publish(bench.conn, bench.run(), *place, "geometry", GEOMETRY)
    publish(bench.conn, bench.run(), *a, "norms", NORMS, [NORM_LABELS])
    found = bench.compare(a, b)
    first = row_of(found, "depths", set="a/x", layer=1)
    second = row_of(found, "depths", set="b/x", layer=1)
    assert (first["labels"], first["valence_r"]) == ("made-up ratings", 0.7)
    assert (second["labels"], second["valence_r"]) == ("planted", pytest.approx(0.4))
    assert (second["valence_low"], second["valence_high"]) == (0.0, 0.9)
    assert second["valence_chance"] == 0.44
    assert (second["depth"], second["pc1_variance"]) == (pytest.approx(2 / 6), pytest.approx(0.2))
    assert second["arousal_r"] is None


def test_every_number_of_geometry_and_norms_is_found_under_the_name_they_give_it(
    bench: Bench,
) -> None:
    place = bench.store("a", "x", {1: WORLD.vectors + noise(1), 3: WORLD.vectors})
    file = bench.workspace.root / "made-up.csv"
    ratings = zip(NAMES, WORLD.valence, WORLD.arousal, strict=True)
    lines = [f"{name},{v:.4f},{a:.4f}" for name, v, a in ratings]
    file.write_text("\n".join(["word,valence,arousal", *lines]) + "\n", encoding="utf-8")
    inputs = open_inputs(
        *(bench.conn, bench.workspace, bench.protocol, *place, (1, 3), 3),
        {"norms": load_norms(file)},
        seed=0,
        permutations=PERMUTATIONS,
    )
    for analysis in (geometry.ANALYSIS, norms.ANALYSIS):
        run_analysis(replace(analysis, draw=lambda rows: {}), inputs)
    found = bench.compare(place)
    here = [row for row in found.kept.records("board") if row["set"] == "a/x"]
    read = [row for row in here if row["source"] in ("geometry", "norms")]
    assert len(read) >= 7
    assert [row["metric"] for row in read if row["value"] is None] == []
    assert all(row["layer"] in (None, 3) for row in read)
    for row in found.kept.records("depths"):
        assert [key for key, cell in row.items() if cell is None] == ["reliability"]
    assert row_of(found, "depths", layer=3)["valence_r"] > 0.9


def test_the_analysis_layer_is_that_of_the_geometry_where_it_was_run(bench: Bench) -> None:
    layers = {layer: noise(layer) for layer in (0, 3, 5)}
    a, b = bench.store("a", "x", layers), bench.store("b", "x", layers)
    publish(bench.conn, bench.run(), *a, "geometry", [Metric("pc1_variance", 0.4, 5, n=E)])
    found = bench.compare(a, b)
    row = row_of(found, "pairs", kind="rsa_pearson")
    assert (row["layer"], row["other_layer"]) == (5, 3)


def test_a_number_of_another_layer_than_the_sets_says_of_which(bench: Bench) -> None:
    place = bench.store("a", "x", {layer: noise(layer) for layer in (3, 5)})
    publish(bench.conn, bench.run(), *place, "geometry", [Metric("pc1_variance", 0.4, 5, n=E)])
    publish(bench.conn, bench.run(), *place, "norms", NORMS, [NORM_LABELS])
    found = bench.compare(place)
    notes = [
        row_of(found, "board", metric=metric, set="a/x")["note"]
        for metric in ("pc1_variance", "r_pc1_valence")
    ]
    assert notes == ["", "made-up ratings, layer 3"]


# ---- keeping and drawing -------------------------------------------------------------------------


def test_nothing_is_computed_again_until_something_it_was_made_from_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = bench.store("a", "x", {3: noise(1)}), bench.store("b", "x", {3: noise(2)})
    first = bench.compare(a, b)
    with monkeypatch.context() as patch:
        patch.setattr("analyses.comparison.compare_pairs", None)
        again = bench.compare(a, b)
    assert (again.summary.status, again.summary.run_id) == ("unchanged", first.summary.run_id)
    assert again.kept == first.kept
    publish(bench.conn, bench.run(), *a, "geometry", GEOMETRY)
    assert bench.compare(a, b).summary.status == "done"
    bench.store(*b, {3: noise(7)})
    assert bench.compare(a, b).summary.status == "done"
    assert bench.compare(a, b).summary.status == "unchanged"
    bench.conn.execute("UPDATE published SET value = 0.5 WHERE metric = 'pc1_variance'")
    assert bench.compare(a, b).summary.status == "done"
    assert bench.compare(a, b, permutations=50).summary.status == "done"


def test_one_set_alone_stands_beside_the_published_rows(bench: Bench) -> None:
    place = bench.store("a", "x", {3: noise(1)})
    publish(bench.conn, bench.run(), *place, "geometry", GEOMETRY)
    found = bench.compare(place)
    assert (found.home.reader, found.home.corpus) == ("a", "x")
    assert found.columns == ("", "measure", "a/x", "published")
    assert {row[0] for row in found.rows} >= {"n_emotions", "pc1_variance"}
    assert not found.kept.select("rsa_pearson")


def test_figures_come_from_rows_alone_and_lie_with_the_exports(drawing: Bench) -> None:
    bench = drawing
    layers = {1: noise(1), 3: noise(2)}
    places = [bench.store("a", "x", layers), bench.store("a", "y", layers)]
    places.append(bench.store("b", "x", {0: noise(3), 2: noise(4)}, n_layers=3))
    publish(bench.conn, bench.run(), *places[0], "geometry", GEOMETRY)
    found = bench.compare(*places)
    expected = {"valence", "variance", "sets", "rsa_pearson", "procrustes", "matched"}
    assert set(draw(found.kept)) == expected | {"layers_1", "layers_2", "layers_3"}
    names = {path.name for path in found.home.folder.glob("comparison.*.png")}
    assert names == {f"comparison.{name}.png" for name in draw(found.kept)}
    assert all(path.is_file() for path in found.summary.files)


def test_a_comparison_of_planted_labels_says_so(bench: Bench) -> None:
    found = bench.compare(bench.store("a", "x", {3: noise(1)}))
    assert found.home.planted
    assert found.title.startswith("toy model, planted geometry")


def test_the_document_is_json_with_every_table(bench: Bench) -> None:
    a, b = bench.store("a", "x", {3: noise(1)}), bench.store("b", "x", {3: noise(2)})
    found = bench.compare(a, b)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert {"sets", "board", "missing", "depths", "pairs", "by_depth", "rsa_layers"} <= set(
        document
    )
    assert [row["set"] for row in document["sets"]] == ["a/x", "b/x"]
    assert document["pairs"][0].keys() >= {"value", "chance", "ci_low", "ci_high", "p"}
