"""What the demo's external texts plant is found again, and only once the common offset is gone.

A text holds two or three cue sentences of one emotion's family among plain ones. Emotions of a
family share their cues, so it is the family that one text can tell. What is found is read off the
rows and tables of the analysis of texts of others, as its figures and pages are.
"""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from analyses.base import Result
from analyses.external import run
from analyses.methods.denoising import neutral_components, project_out
from analyses.methods.directions import difference_of_means
from analyses.methods.geometry import unit
from analyses.methods.offsets import count_first, standard_scores
from engine.budget import ExtractionBudget
from engine.demo.external import KINDS, write_sources
from engine.demo.job import DEMO_MODEL
from engine.demo.stories import write_dialogue, write_story
from engine.demo.world import World, load_world
from engine.loading import LazyModel
from engine.pooling import ChunkPooler
from engine.projection.job import Directions, ProjectionSettings, run_projection
from engine.readings import TextReader
from engine.sources.files import open_files
from engine.sources.sampling import draw_sample
from stores.corpora import open_corpus
from stores.database import open_database
from stores.planning import plan_dialogues
from stores.projections import KEPT_SNIPPETS, read_scores
from stores.samples import read_documents
from stores.vectors import read_vectors
from stores.workspace import Workspace
from tests.analyses.lab import (
    CORPUS,
    READER,
    Lab,
    store_vectors,
    write_activations,
    write_texts,
)

LAYER, START = 3, 50
STORIES, DOCUMENTS = 3, 300
"""Of each emotion; of each source."""
ABOUT, PLAIN = 30, 30
"""Texts of one emotion, and plain ones beside them."""
SEED = 0

Floats = NDArray[np.float64]
Rank = Callable[[Floats], Floats]
"""From the scores of a folder [n, e] to what its emotions are ranked by [e]."""
Record = dict[str, Any]
"""A row of a table, by column."""


@dataclass(frozen=True, slots=True, eq=False)
class Toy:
    """The demo model with vectors made of stories that the grammar wrote, in a workspace."""

    world: World
    model: LazyModel
    lab: Lab
    emotions: tuple[str, ...]
    neutral: Floats
    """Scores of neutral dialogues [n, e]."""

    @property
    def families(self) -> NDArray[np.str_]:
        """Of each emotion."""
        return np.array([self.family(name) for name in self.emotions])

    def family(self, emotion: str | None) -> str:
        """ "" for none."""
        return self.world.palettes[emotion].family.name if emotion else ""


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """Scores of documents [n, e] and the emotion planted in each."""

    scores: Floats
    emotions: list[str | None]
    planted: NDArray[np.str_]
    """Its family, "" for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was projected, by source, and what the analysis says of it."""

    sources: dict[str, Projected]
    folders: dict[str, Projected]
    """Named as the emotion that half of the texts are of."""
    result: Result

    def records(self, name: str, source: str) -> list[Record]:
        """The rows of a source in the tables of that name."""
        tables = [table for table in self.result.tables if table.name == name]
        rows = [dict(zip(each.columns, row, strict=True)) for each in tables for row in each.rows]
        return [row for row in rows if row["source"] == _slug(source)]


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    world, rng = load_world(), random.Random(0)
    model = LazyModel(name=str(DEMO_MODEL), device="cpu", dtype="float32")
    emotions, topics = world.protocol.names, tuple(world.topics)
    told = [write_story(world, e, t, rng) for e in emotions for t in rng.sample(topics, STORIES)]
    spoken = pool(model, [write_dialogue(world, topic, rng) for topic in world.neutral_topics])
    stories = pool(model, told).reshape(len(emotions), STORIES, -1)
    raw = difference_of_means(stories.mean(axis=1))
    directions = unit(project_out(raw, neutral_components(spoken, 0.5).components))
    workspace = Workspace(tmp_path_factory.mktemp("planted"))
    with closing(open_database(workspace.database)) as conn:
        open_corpus(conn, CORPUS, world.protocol.digest, world.protocol.files)
        lab = Lab(conn, workspace, world.protocol)
        planned = plan_dialogues(
            topics=tuple(world.neutral_topics), per_topic=1, corpus=CORPUS, seed=0
        )
        write_texts(lab, "dialogues", planned)
        pooled = {LAYER: lambda row: spoken[row.row]}
        write_activations(lab, "dialogues", pooled, d_model=spoken.shape[1])
        store_vectors(lab, {LAYER: directions})
        yield Toy(world, model, lab, emotions, spoken @ directions.T)


def pool(model: LazyModel, texts: list[str]) -> Floats:
    """Pooled means [n, d] of texts, all of which must be long enough."""
    reader = TextReader(model.loaded, "raw", START)
    segments = [reader.read(text).segment for text in texts]
    pooler = ChunkPooler(model.loaded, "padded", ExtractionBudget(4096), threading.Event())
    pools = pooler.pool(segments, range(len(texts)), (LAYER,), lambda _texts, _tokens: None)
    assert pools is not None
    return pools.means[:, 0].astype(np.float64)


def project(toy: Toy, path: Path, name: str) -> Projected:
    """Draw all of a file and read it, as the command does."""
    stop, conn = threading.Event(), toy.lab.conn
    source = open_files(path, name=_slug(name))
    sample = draw_sample(conn, source, size=10_000, seed=0, progress=lambda *_: None, stop=stop)
    stored = read_vectors(conn, toy.lab.workspace, READER, CORPUS, LAYER)
    found = run_projection(
        conn,
        sample,
        toy.model,
        ProjectionSettings(
            reader=READER, corpus=CORPUS, layers=(LAYER,), format="raw", start_token=START
        ),
        Directions(toy.emotions, {LAYER: stored.vectors}, {LAYER: stored.sha256}),
        progress=lambda _progress: None,
        stop=stop,
    )
    lines = [json.loads(line)["emotion"] for line in path.read_text("utf-8").splitlines()]
    documents = read_documents(conn, sample.id, 0, len(lines))
    named = {each.id: lines[_line(each.place)] for each in documents}
    ids, scores, _ = read_scores(conn, found.projection_id, LAYER)
    assert len(ids) == len(lines)
    emotions = [named[i] for i in ids.tolist()]
    return Projected(scores, emotions, np.array([toy.family(name) for name in emotions]))


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _line(place: str) -> int:
    """From 0."""
    return int(place.rpartition(":")[2]) - 1


def write_folders(toy: Toy, folder: Path) -> dict[str, Path]:
    """Of an emotion of each family, a file of chats about it and of the same plain ones."""
    rng, chats = random.Random(SEED), KINDS["chats"]
    families = sorted(set(toy.families))
    members = [[e for e in toy.emotions if toy.family(e) == family] for family in families]
    plain = [chats.write(toy.world, None, rng) for _ in range(PLAIN)]
    paths = {rng.choice(names): folder / f"{i}.jsonl" for i, names in enumerate(members)}
    for name, path in paths.items():
        about = [chats.write(toy.world, name, rng) for _ in range(ABOUT)]
        lines: list[Record] = [{chats.key: text, "emotion": name} for text in about]
        lines += [{chats.key: text, "emotion": None} for text in plain]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def found(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Notes and chats as the demo writes them, and folders of one emotion among plain chats."""
    folder = tmp_path_factory.mktemp("external")
    paths = write_sources(folder, documents=DOCUMENTS, seed=SEED)
    sources = {name: project(toy, path, name) for name, path in paths.items()}
    folders = {name: project(toy, path, name) for name, path in write_folders(toy, folder).items()}
    return Found(sources, folders, run(toy.lab.inputs(LAYER, permutations=9)))


def family_first(toy: Toy, found: Projected, scores: Floats) -> float:
    """The share of the documents with an emotion whose highest is one of its family."""
    about = found.planted != ""
    return float(np.mean(toy.families[scores.argmax(axis=1)][about] == found.planted[about]))


def same_first(found: Projected, scores: Floats) -> float:
    """The share of the plain documents that have the same emotion first."""
    plain = scores[found.planted == ""]
    return float(count_first(plain).max() / len(plain))


def right_and_same(toy: Toy, found: Found, firsts: Sequence[str]) -> tuple[int, int]:
    """In how many folders a ranking's first is of the planted family, and the same as elsewhere."""
    pairs = zip(firsts, found.folders, strict=True)
    right = sum(toy.family(first) == toy.family(planted) for first, planted in pairs)
    return right, max(Counter(firsts).values())


def first_by(toy: Toy, found: Found, rank: Rank) -> list[str]:
    """The first emotion of each folder by a ranking that the analysis does not have."""
    return [toy.emotions[int(rank(each.scores).argmax())] for each in found.folders.values()]


def first_in_table(found: Found, column: str) -> list[str]:
    """The emotion that the table `ranking` has first, of each folder."""
    return [
        next(row["emotion"] for row in found.records("ranking", name) if row[column] == 1)
        for name in found.folders
    ]


# What tests measured over seven draws of the texts stands above them; the vectors were the same.


# Seven seeds: .88 to .99 of the documents; .05 to .11 of the plain ones.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_centred_the_planted_family_is_first_in_nearly_every_document(
    toy: Toy, found: Found, name: str
) -> None:
    source = found.sources[name]
    assert family_first(toy, source, standard_scores(source.scores)) > 0.8
    assert same_first(source, standard_scores(source.scores)) < 0.25


# Seven seeds: .65 to .85 of the plain ones; in .51 to .74 of the others, .18 to .44 fewer.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_raw_one_emotion_is_first_in_most_plain_documents_and_hides_what_others_express(
    toy: Toy, found: Found, name: str
) -> None:
    source = found.sources[name]
    assert same_first(source, source.scores) > 0.5
    centred = family_first(toy, source, standard_scores(source.scores))
    assert family_first(toy, source, source.scores) < centred - 0.1


# Seven seeds: .91 to 1.0.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_emotions_are_first_as_often_as_their_family_was_planted(
    toy: Toy, found: Found, name: str
) -> None:
    """Texts of no emotion have a first too, so that of half of the places nothing is known."""
    assert first_places(toy, found, name) > 0.8


def first_places(toy: Toy, found: Found, name: str) -> float:
    """How much of what was planted of each family is there among the first places, at least."""
    places: Counter[str] = Counter()
    for row in found.result.metrics:
        if row.metric == f"first.{name}":
            places[toy.family(row.subject)] += round((row.value or 0.0) * (row.n or 0))
    planted = Counter(found.sources[name].planted[found.sources[name].planted != ""].tolist())
    return (places & planted).total() / planted.total()


# Seven seeds: .87 to .96 of as many as there can be.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_documents_that_an_emotion_is_highest_in_are_of_its_family(
    toy: Toy, found: Found, tmp_path: Path, name: str
) -> None:
    assert own_texts(toy, found, tmp_path, name, "documents", 5) > 0.7


# Seven seeds: .84 to .95 of as many as there can be; .04 of all documents are such.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_snippets_of_an_emotion_are_from_documents_of_its_family(
    toy: Toy, found: Found, tmp_path: Path, name: str
) -> None:
    assert own_texts(toy, found, tmp_path, name, "snippets", KEPT_SNIPPETS) > 0.7


def own_texts(toy: Toy, found: Found, folder: Path, name: str, table: str, most: int) -> float:
    """The share of a table's rows whose text is of the emotion's family, of as many as can be."""
    path = write_sources(folder, documents=DOCUMENTS, seed=SEED)[name]
    lines = [json.loads(line)["emotion"] for line in path.read_text("utf-8").splitlines()]
    rows = [
        (toy.family(row["emotion"]), toy.family(lines[_line(row["place"])]))
        for row in found.records(table, name)
    ]
    documents = Counter(found.sources[name].planted.tolist())
    possible = sum(min(most, documents[family]) for family in toy.families.tolist())
    return sum(own == planted for own, planted in rows) / possible


# Seven seeds: a median rank of 4 to 7 of 171; the very first in .10 to .18.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_planted_emotion_itself_is_among_the_first_of_all(
    toy: Toy, found: Found, name: str
) -> None:
    source = found.sources[name]
    planted = np.array([toy.emotions.index(name) if name else -1 for name in source.emotions])
    z = standard_scores(source.scores)[planted >= 0]
    own = z[np.arange(len(z)), planted[planted >= 0]]
    above = (z > own[:, None]).sum(axis=1)
    assert np.median(above) < 10
    assert np.mean(above == 0) > 10 / len(toy.emotions)


# Seven seeds, of 14 folders: raw 3 or 4, against neutral texts 8 to 11; one and the same
# emotion first in 8 to 10, in 1 to 3.
def test_a_folder_of_one_emotion_ranks_its_family_first_against_neutral_texts_and_not_raw(
    toy: Toy, found: Found
) -> None:
    raw_right, raw_same = right_and_same(toy, found, first_in_table(found, "raw_rank"))
    right, same = right_and_same(toy, found, first_in_table(found, "neutral_rank"))
    assert raw_right < 6 <= right
    assert same < 6 <= raw_same


# Seven seeds, of 14 folders: 0.
def test_dividing_by_the_spread_of_the_documents_takes_away_what_they_express(
    toy: Toy, found: Found
) -> None:
    """What half of the documents express varies most between them; in neutral texts it does not."""
    mean, sd = toy.neutral.mean(axis=0), toy.neutral.std(axis=0)
    by_own = first_by(toy, found, lambda s: (s.mean(axis=0) - mean) / s.std(axis=0))
    assert right_and_same(toy, found, by_own)[0] <= 3
    by_neutral = first_by(toy, found, lambda s: (s.mean(axis=0) - mean) / sd)
    assert by_neutral == first_in_table(found, "neutral_rank")


# Seven seeds, of 14 folders: a median rank of 6 to 11 of 171 (raw 28 to 53); above 0 in 13 or 14.
def test_the_planted_emotion_of_a_folder_is_among_the_first_and_above_chance(
    toy: Toy, found: Found
) -> None:
    rows = planted_rows(found)
    ranks = {by: np.median([row[by] for row in rows]) for by in ("raw_rank", "neutral_rank")}
    assert ranks["neutral_rank"] < 20 < ranks["raw_rank"]
    assert sum(row["neutral_low"] > 0.0 for row in rows) >= 11


def planted_rows(found: Found) -> list[Record]:
    """Of each folder the row of its own emotion."""
    ranked = {name: found.records("ranking", name) for name in found.folders}
    return [row for name, rows in ranked.items() for row in rows if row["emotion"] == name]


# Seven seeds: .93 to .97 of the documents, raw .47 to .60.
def test_among_emotions_that_share_no_cues_the_planted_one_itself_is_first(
    toy: Toy, found: Found
) -> None:
    """One emotion of each family alone: texts of all folders together, then each centred probe."""
    names = list(found.folders)
    columns = [toy.emotions.index(name) for name in names]
    texts = [each.scores[:, columns] for each in found.folders.values()]
    planted = np.concatenate(
        [[names.index(name) if name else -1 for name in f.emotions] for f in found.folders.values()]
    )
    scores, about = np.concatenate(texts), planted >= 0
    right = standard_scores(scores).argmax(axis=1)[about] == planted[about]
    raw = scores.argmax(axis=1)[about] == planted[about]
    assert right.mean() > 0.8
    assert raw.mean() < right.mean() - 0.1
