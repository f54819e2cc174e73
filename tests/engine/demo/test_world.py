"""The shipped world: what it plants, and that its phrases give no emotion away."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.demo.world import DEMO_FOLDER, World, load_world
from engine.quality import leak_pattern
from stores.errors import ProtocolError
from stores.protocol import load_protocol


def phrases(world: World) -> Iterator[str]:
    """Every text that a document may contain, but for the sentences that name an emotion."""
    for table in (world.cues, world.ambience, world.pace, world.openings, world.continuations):
        for texts in table.values():
            yield from texts
    for table in (world.scenarios, world.slots):
        for texts in table.values():
            yield from texts
    yield from world.filler
    yield from (*world.protocol.topics, *world.protocol.neutral_topics)
    yield from (text for pairs in world.turns.values() for pair in pairs for text in pair)
    yield from (text for a in world.activities for text in (a.name, a.gerund))
    yield from (scenario.prompt for scenario in world.protocol.scenarios)
    yield from (template.prompt for template in world.protocol.intensity)


def test_no_phrase_names_an_emotion_or_a_synonym(world: World) -> None:
    patterns = [leak_pattern(emotion) for emotion in world.protocol.emotions]
    texts = list(phrases(world))
    leaks = [(t, p.pattern[:40]) for p in patterns for t in texts if p.search(t)]
    assert len(texts) > 800
    assert leaks == []


def test_the_emotions_are_those_of_the_default_protocol(world: World) -> None:
    assert set(world.protocol.names) == set(load_protocol().names)
    assert len(world.protocol.names) == 171
    assert world.protocol.labels == "planted"


def test_planted_valence_and_arousal_are_spread_and_unrelated(world: World) -> None:
    valence = np.array(list(world.protocol.label("valence").values()))
    arousal = np.array(list(world.protocol.label("arousal").values()))
    assert abs(np.corrcoef(valence, arousal)[0, 1]) < 0.1
    assert min(valence.std(), arousal.std()) > 0.45
    assert len(set(zip(valence, arousal, strict=True))) > 150


def test_every_emotion_lies_near_its_family(world: World) -> None:
    assert len(world.families) == 14
    for emotion in world.protocol.emotions:
        palette = world.palettes[emotion.name]
        assert abs(palette.valence - palette.family.valence) < 0.4
        assert abs(palette.arousal - palette.family.arousal) < 0.4
    sizes = [len(choice.values) for choice in world.words.values()]
    assert min(sizes) >= 8
    assert sum(sizes) == 171


def test_each_family_has_cues_of_every_kind(world: World) -> None:
    rows = (DEMO_FOLDER / "world" / "cues.tsv").read_text().splitlines()[1:]
    kinds = {tuple(row.split("\t")[:2]) for row in rows}
    wanted = {(f, k) for f in world.families for k in ("body", "action", "thought", "speech")}
    assert kinds == wanted
    assert min(map(len, world.cues.values())) >= 14


def test_a_cue_belongs_to_one_family_only(world: World) -> None:
    texts = [cue for cues in world.cues.values() for cue in cues]
    assert len(set(texts)) == len(texts)


def test_activities_have_eight_to_a_category_in_each_table(world: World) -> None:
    shown = [a.category for a in world.protocol.activities]
    every = [a.category for a in world.activities]
    assert {shown.count(c) for c in shown} == {8}
    assert {every.count(c) for c in every} == {16}
    assert len(set(shown)) == 8
    assert (
        len({a.name for a in world.activities}) == len({a.gerund for a in world.activities}) == 128
    )


def test_an_activity_is_felt_as_its_value_says(world: World) -> None:
    valence = world.protocol.label("valence")
    felt = [
        sum(valence[emotion] * share for emotion, share in world.felt[name].shares().items())
        for name in world.values
    ]
    assert np.corrcoef(felt, list(world.values.values()))[0, 1] > 0.98


def test_planted_intensity_has_the_signs_that_the_protocol_expects(world: World) -> None:
    signs = 0
    for template in world.protocol.intensity:
        mixes = [choice.shares() for choice in world.intensity[template.key]]
        assert len(mixes) == len(template.values)
        for emotion, direction in template.directions.items():
            family = world.palettes[emotion].family.name
            steps = np.diff([mix[family] for mix in mixes]) * direction.sign
            assert (steps > 0).all(), (template.key, emotion)
            signs += 1
    assert signs == 24
    stated = [d.stated for t in world.protocol.intensity for d in t.directions.values()]
    assert sum(stated) == 12


def test_every_family_has_scenarios_and_the_held_out_ones_are_not_among_them(world: World) -> None:
    assert set(world.scenarios) == set(world.families)
    assert min(map(len, world.scenarios.values())) >= 8
    templates = [template for texts in world.scenarios.values() for template in texts]
    patterns = [re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(t))) for t in templates]
    held_out = [scenario.prompt for scenario in world.protocol.scenarios]
    assert len(held_out) == 12
    assert not [p for p in patterns for prompt in held_out if p.fullmatch(prompt)]


def test_numbers_cover_every_template(world: World) -> None:
    values = {str(v) for template in world.protocol.intensity for v in template.values}
    assert values <= set(world.numbers)
    assert "happy" in world.words_for_bpe


def test_loading_twice_gives_the_same_weights(world: World) -> None:
    again = load_world()
    assert again.palettes == world.palettes
    assert again.felt == world.felt


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the demo folder beside a copy of the default protocol, to be spoilt."""
    root = DEMO_FOLDER.parent
    shutil.copytree(root / "protocol", tmp_path / "protocol")
    for name in ("protocol", "world"):
        shutil.copytree(DEMO_FOLDER / name, tmp_path / "demo" / name)
    return tmp_path / "demo"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("world/families.tsv", "joy\t", "glee\t", "not those of emotions.tsv, first: 'glee'"),
        ("world/relations.tsv", "uncle\t", "ancle\t", "topics differ"),
        ("world/cues.tsv", "family\tkind", "family\tsort", "column"),
        ("protocol/activities.tsv", "\tvalue", "\tnote", "no planted value"),
    ],
)
def test_a_spoilt_table_is_named(copied: Path, file: str, old: str, new: str, message: str) -> None:
    path = copied / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ProtocolError, match=message):
        load_world(copied)


def test_a_missing_table_is_named(copied: Path) -> None:
    (copied / "world" / "pace.tsv").unlink()
    with pytest.raises(ProtocolError, match=r"pace\.tsv.*missing"):
        load_world(copied)
