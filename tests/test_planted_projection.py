"""What the demo's external texts plant is found again, and only once the common offset is gone.

A text holds two or three cue sentences of one emotion's family among plain ones. Emotions of a
family share their cues, so it is the family that one text can tell.
"""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

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
from stores.database import Connection, open_database
from stores.projections import KEPT_SNIPPETS, Snippet, read_scores, read_snippets
from stores.samples import read_documents

LAYER, START = 3, 50
STORIES, DOCUMENTS = 3, 300
"""Of each emotion; of each source."""
ABOUT, PLAIN = 30, 30
"""Texts of one emotion, and plain ones beside them."""

Floats = NDArray[np.float64]
Rank = Callable[[Floats], Floats]
"""From the scores of a folder [n, e] to what its emotions are ranked by [e]."""


@dataclass(frozen=True, slots=True, eq=False)
class Toy:
    """The demo model and its vectors, made of stories that the grammar wrote."""

    world: World
    model: LazyModel
    emotions: tuple[str, ...]
    directions: Floats
    neutral: Floats
    """Scores of neutral dialogues [n, e]."""

    @property
    def families(self) -> NDArray[np.str_]:
        """Of each emotion."""
        return np.array([self.world.palettes[name].family.name for name in self.emotions])

    def emotions_of(self, family: str) -> list[str]:
        """In order."""
        return [name for name in self.emotions if self.world.palettes[name].family.name == family]


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """Scores of documents [n, e], the family of the emotion planted in each ("" for none)."""

    scores: Floats
    planted: NDArray[np.str_]
    emotions: list[str | None]
    snippets: list[tuple[Snippet, str]]
    """And the family of the documents they are from."""


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy() -> Toy:
    world, rng = load_world(), random.Random(0)
    model = LazyModel(name=str(DEMO_MODEL), device="cpu", dtype="float32")
    emotions, topics = world.protocol.names, tuple(world.topics)
    told = [write_story(world, e, t, rng) for e in emotions for t in rng.sample(topics, STORIES)]
    spoken = pool(model, [write_dialogue(world, topic, rng) for topic in world.neutral_topics])
    stories = pool(model, told).reshape(len(emotions), STORIES, -1)
    raw = difference_of_means(stories.mean(axis=1))
    directions = unit(project_out(raw, neutral_components(spoken, 0.5).components))
    return Toy(world, model, emotions, directions, spoken @ directions.T)


def pool(model: LazyModel, texts: list[str]) -> Floats:
    """Pooled means [n, d] of texts, all of which must be long enough."""
    reader = TextReader(model.loaded, "raw", START)
    segments = [reader.read(text).segment for text in texts]
    pooler = ChunkPooler(model.loaded, "padded", ExtractionBudget(4096), threading.Event())
    pools = pooler.pool(segments, range(len(texts)), (LAYER,), lambda _texts, _tokens: None)
    assert pools is not None
    return pools.means[:, 0].astype(np.float64)


def project(conn: Connection, toy: Toy, path: Path) -> Projected:
    """Draw all of a file and read it, as the command does."""
    stop, emotions = threading.Event(), toy.emotions
    source = open_files(path)
    sample = draw_sample(conn, source, size=10_000, seed=0, progress=lambda *_: None, stop=stop)
    found = run_projection(
        conn,
        sample,
        toy.model,
        ProjectionSettings(
            reader="demo", corpus="demo", layers=(LAYER,), format="raw", start_token=START
        ),
        Directions(emotions, {LAYER: toy.directions}, {LAYER: "sha256:of stories"}),
        progress=lambda _progress: None,
        stop=stop,
    )
    lines = [json.loads(line)["emotion"] for line in path.read_text("utf-8").splitlines()]
    documents = read_documents(conn, sample.id, 0, len(lines))
    named = {each.id: lines[int(each.place.rpartition(":")[2]) - 1] for each in documents}
    family: dict[str | None, str] = dict(zip(emotions, toy.families.tolist(), strict=True))
    family[None] = ""
    ids, scores, _ = read_scores(conn, found.projection_id, LAYER)
    assert len(ids) == len(lines)
    snippets = read_snippets(conn, found.projection_id, LAYER)
    return Projected(
        scores,
        np.array([family[named[i]] for i in ids.tolist()]),
        [named[i] for i in ids.tolist()],
        [(each, family[named[each.document_id]]) for each in snippets],
    )


@pytest.fixture(scope="module")
def sources(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Projected]:
    """Notes and chats as the demo writes them."""
    folder = tmp_path_factory.mktemp("external")
    paths = write_sources(folder, documents=DOCUMENTS, seed=0)
    with closing(open_database(folder / "emovec.db")) as conn:
        return {name: project(conn, toy, path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def folders(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Floats]:
    """Of an emotion of each family, scores [n, e] of chats about it and of the same plain ones."""
    rng, folder, chats = random.Random(0), tmp_path_factory.mktemp("folders"), KINDS["chats"]
    members = [toy.emotions_of(family) for family in sorted(set(toy.families))]
    chosen = [rng.choice(names) for names in members]
    planted = [*(name for name in chosen for _ in range(ABOUT)), *[None] * PLAIN]
    texts = [(name, chats.write(toy.world, name, rng)) for name in planted]
    lines = [json.dumps({chats.key: text, "emotion": name}) for name, text in texts]
    (folder / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with closing(open_database(folder / "emovec.db")) as conn:
        found = project(conn, toy, folder / "chats.jsonl")
    named = np.array([name or "" for name in found.emotions])
    return {name: found.scores[(named == name) | (named == "")] for name in chosen}


def family_first(toy: Toy, found: Projected, scores: Floats) -> float:
    """The share of the documents with an emotion whose highest is one of its family."""
    about = found.planted != ""
    return float(np.mean(toy.families[scores.argmax(axis=1)][about] == found.planted[about]))


def same_first(found: Projected, scores: Floats) -> float:
    """The share of the plain documents that have the same emotion first."""
    plain = scores[found.planted == ""]
    return float(count_first(plain).max() / len(plain))


def first_of_folders(toy: Toy, folders: dict[str, Floats], rank: Rank) -> tuple[int, int]:
    """In how many folders a ranking's first is of the planted family, and the same as elsewhere."""
    firsts = [int(rank(scores).argmax()) for scores in folders.values()]
    planted = [toy.families[toy.emotions.index(name)] for name in folders]
    right = sum(toy.families[first] == own for first, own in zip(firsts, planted, strict=True))
    return right, max(Counter(firsts).values())


# What tests measured over seven draws of the texts stands above them; the vectors were the same.


# Seven seeds: .88 to .99 of the documents; .05 to .11 of the plain ones.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_centred_the_planted_family_is_first_in_nearly_every_document(
    toy: Toy, sources: dict[str, Projected], name: str
) -> None:
    found = sources[name]
    assert family_first(toy, found, standard_scores(found.scores)) > 0.8
    assert same_first(found, standard_scores(found.scores)) < 0.25


# Seven seeds: .65 to .85 of the plain ones; in .51 to .74 of the others, .18 to .44 fewer.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_raw_one_emotion_is_first_in_most_plain_documents_and_hides_what_others_express(
    toy: Toy, sources: dict[str, Projected], name: str
) -> None:
    found = sources[name]
    assert same_first(found, found.scores) > 0.5
    centred = family_first(toy, found, standard_scores(found.scores))
    assert family_first(toy, found, found.scores) < centred - 0.1


# Seven seeds: a median rank of 4 to 7 of 171; the very first in .10 to .18.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_planted_emotion_itself_is_among_the_first_of_all(
    toy: Toy, sources: dict[str, Projected], name: str
) -> None:
    found = sources[name]
    places = [toy.emotions.index(emotion) if emotion else -1 for emotion in found.emotions]
    planted = np.array(places)
    z = standard_scores(found.scores)[planted >= 0]
    own = z[np.arange(len(z)), planted[planted >= 0]]
    above = (z > own[:, None]).sum(axis=1)
    assert np.median(above) < 10
    assert np.mean(above == 0) > 10 / len(toy.emotions)


# Seven seeds, of 14 folders: 4 raw, 9 to 11 centred; one and the same first in 8 or 9, in 2 or 3.
def test_a_folder_of_one_emotion_ranks_its_family_first_once_neutral_texts_are_subtracted(
    toy: Toy, folders: dict[str, Floats]
) -> None:
    neutral = toy.neutral.mean(axis=0)
    raw_right, raw_same = first_of_folders(toy, folders, lambda scores: scores.mean(axis=0))
    right, same = first_of_folders(toy, folders, lambda scores: scores.mean(axis=0) - neutral)
    assert raw_right < 7 <= right
    assert same < 6 <= raw_same


# Seven seeds, of 14 folders: 0 by their own, 9 to 11 by that of neutral texts.
def test_dividing_by_the_spread_of_the_documents_takes_away_what_they_express(
    toy: Toy, folders: dict[str, Floats]
) -> None:
    """What half of the documents express varies most between them; in neutral texts it does not."""
    mean, sd = toy.neutral.mean(axis=0), toy.neutral.std(axis=0)
    by_own = first_of_folders(toy, folders, lambda s: (s.mean(axis=0) - mean) / s.std(axis=0))
    by_neutral = first_of_folders(toy, folders, lambda s: (s.mean(axis=0) - mean) / sd)
    assert by_own[0] <= 3
    assert by_neutral[0] >= 6


# Seven seeds: .83 to .95 of as many as there can be; .04 of all documents are such.
@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_snippets_of_an_emotion_are_from_documents_of_its_family(
    toy: Toy, sources: dict[str, Projected], name: str
) -> None:
    found = sources[name]
    family = dict(zip(toy.emotions, toy.families.tolist(), strict=True))
    own = sum(planted == family[snippet.emotion] for snippet, planted in found.snippets)
    documents = Counter(found.planted.tolist())
    possible = sum(min(KEPT_SNIPPETS, documents[family[name]]) for name in toy.emotions)
    assert own / possible > 0.7
