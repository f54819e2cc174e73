"""A folder of two thousand documents in every format: drawn, read and summed up as plainly counted.

The texts are made up on the spot; the model has random weights.
"""

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from numpy.typing import NDArray

from engine.loading import LazyModel
from engine.projection.summaries import merge_moments, quantiles_at, rank_error
from engine.sources.files import open_files
from engine.sources.sampling import draw_sample
from engine.tokens import encode_raw
from stores.database import Connection
from stores.projections import count_outcomes, read_scores, read_summaries
from stores.samples import Sample, read_documents
from tests.engine.tiny import text_of
from tests.projecting import EMOTIONS, LAYERS, START, directions_of, project, read_plain

DOCUMENTS = 2_000
CLOSE = 1e-5
HALF_A_PERCENTILE = 0.005


def write_folder(folder: Path) -> list[str]:
    """Distinct texts of 5 to 70 words, a quarter each as .jsonl, .jsonl.zst, .parquet and .txt."""
    texts = [f"document {i}: {text_of(5 + 13 * i % 66, i)}" for i in range(DOCUMENTS)]
    parts = [texts[start::4] for start in range(4)]
    lines = ["".join(json.dumps({"text": text}) + "\n" for text in part) for part in parts]
    folder.mkdir()
    (folder / "a.jsonl").write_text(lines[0])
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(lines[1].encode()))
    pq.write_table(pa.table({"text": parts[2]}), folder / "c.parquet")
    (folder / "letters").mkdir()
    for i, text in enumerate(parts[3]):
        (folder / "letters" / f"{i}.txt").write_text(text)
    return texts


@pytest.fixture
def sample(conn: Connection, tmp_path: Path) -> Sample:
    texts = write_folder(tmp_path / "folder")
    source = open_files(tmp_path / "folder", name="folder")
    sample = draw_sample(
        conn,
        source,
        size=5_000,
        seed=0,
        progress=lambda _seen, _kept: None,
        stop=threading.Event(),
    )
    kept = [each.text for each in read_documents(conn, sample.id, 0, 5_000)]
    assert sorted(kept) == sorted(texts)
    return sample


def test_scores_and_quantiles_of_a_folder_are_those_of_a_plain_computation(
    conn: Connection, sample: Sample, tiny_path: Path
) -> None:
    lazy = LazyModel(name=str(tiny_path), device="cpu")
    done = project(conn, lazy, sample=sample)
    counts = count_outcomes(conn, done.projection_id)
    assert counts["done"] == DOCUMENTS
    assert counts["cut"] > 0
    model, directions = lazy.loaded, directions_of(lazy.checkpoint.d_model)
    heat: dict[int, list[NDArray[np.float64]]] = {layer: [] for layer in LAYERS}
    for document in read_documents(conn, sample.id, 0, 5_000):
        tokens = encode_raw(model, document.text)
        first = tokens.content.start + START
        ids = tokens.ids[: tokens.content.start + 80]  # what settings_of reads of a document
        plain = read_plain(model, ids, first, LAYERS)
        for layer in LAYERS:
            heat[layer].append(plain.heat(layer, directions))
    asked = np.linspace(0.001, 0.999, 999)
    for layer in LAYERS:
        _, scores, norms = read_scores(conn, done.projection_id, layer)
        expected = np.array([each.mean(axis=1) for each in heat[layer]])
        assert np.abs(scores - expected).max() <= CLOSE * norms.max()
        summaries = read_summaries(conn, done.projection_id, layer)
        every = np.hstack(heat[layer])
        tokens_read, mean, sd = merge_moments(summaries)
        assert tokens_read == every.shape[1]
        np.testing.assert_allclose(mean, every.mean(axis=1), atol=CLOSE * norms.max())
        np.testing.assert_allclose(sd, every.std(axis=1), rtol=CLOSE)
        assert rank_error(summaries) <= HALF_A_PERCENTILE
        found = quantiles_at(summaries, asked)
        for probe in range(len(EMOTIONS)):
            ordered = np.sort(every[probe])
            below = np.searchsorted(ordered, found[probe] - CLOSE * norms.max()) / len(ordered)
            upto = np.searchsorted(ordered, found[probe] + CLOSE * norms.max(), "right")
            assert (below <= asked + HALF_A_PERCENTILE).all()
            assert (upto / len(ordered) >= asked - HALF_A_PERCENTILE).all()
