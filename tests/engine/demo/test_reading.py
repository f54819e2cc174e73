"""Reading texts of the demo language back."""

import random

import numpy as np
import pytest

from engine.demo.reading import planted_reading
from engine.demo.stories import write_story
from engine.demo.world import World


def test_what_a_story_plants_is_read_back(world: World) -> None:
    rng = random.Random(0)
    rows = []
    for emotion in world.protocol.emotions:
        palette = world.palettes[emotion.name]
        for _ in range(4):
            story = write_story(world, emotion.name, rng.choice(world.protocol.topics), rng)
            reading = planted_reading(world, story, emotion.name)
            assert reading.known == reading.sentences - 2  # all but the opening
            assert reading.valence is not None
            assert reading.arousal is not None
            rows.append((palette.valence, reading.valence, palette.arousal, reading.arousal))
    correlations = np.corrcoef(np.array(rows).T)
    assert correlations[0, 1] > 0.9
    assert correlations[2, 3] > 0.8


def test_three_quarters_of_the_cues_are_the_familys_own(world: World) -> None:
    rng = random.Random(1)
    shares = []
    for name in world.protocol.names * 2:
        story = write_story(world, name, rng.choice(world.protocol.topics), rng)
        shares.append(planted_reading(world, story, name).own_share or 0.0)
    assert 0.70 < np.mean(shares) < 0.80


@pytest.mark.parametrize("sentence", ["I let my hat fall.", "", "The end"])
def test_unknown_text_reads_as_nothing(world: World, sentence: str) -> None:
    reading = planted_reading(world, sentence, "happy")
    assert reading.known == 0
    assert reading.valence is reading.arousal is reading.own_share is None


@pytest.mark.parametrize(
    "sentence",
    [
        "Otto's heart grew soft and warm.",
        "My heart grew soft and warm.",
        "her heart grew soft and warm.",
    ],
)
def test_a_cue_is_known_whoever_it_is_about(world: World, sentence: str) -> None:
    reading = planted_reading(world, sentence, "loving")
    assert reading.families == {"love": 1}
    assert reading.valence == world.families["love"].valence
    assert reading.own_share == 1.0


def test_scenery_counts_for_its_own_scale_only(world: World) -> None:
    ambience = planted_reading(world, world.ambience["4"][0])
    pace = planted_reading(world, world.pace["0"][0])
    assert (ambience.valence, ambience.arousal) == (1.0, None)
    assert (pace.valence, pace.arousal) == (None, -1.0)
