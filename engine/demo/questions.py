"""Short training documents: questions with one reply, and dictionary sentences.

A reply opens with a word that depends on the emotion, so that the place before it must carry the
emotion. Knows nothing of stories' shares, tokens or models.
"""

from __future__ import annotations

import math
import random

from engine.demo.chance import pick
from engine.demo.documents import USER, Document, Draft
from engine.demo.planting import nearest_level
from engine.demo.stories import FORMS, choose_person, draw_cue, fill_slots, tell
from engine.demo.world import World

# How a reply about an emotion opens; what is left opens with a fragment of a cue.
BY_WORD, BY_INTERJECTION = 0.45, 0.30
SAYING_FEELING, REPEATING = 0.3, 0.3
# Utility of an option: the activity's value, and the valence of a feeling that the option names.
SLOPE, FEELING_SHIFT = 5.0, 0.9
READING = 0.25
MIN_READ, MAX_READ = 3, 5
DEFINITIONS = 3
LETTER_WEIGHT, OPENING_WEIGHT = 8.0, 4.0


def sample_preference(world: World, rng: random.Random) -> Document:
    """A choice of two activities; the letter follows the planted utilities by a logistic rule."""
    options = rng.sample(world.activities, 2)
    (a, worth_a), (b, worth_b) = (_offer(world, option.name, rng) for option in options)
    chosen_a = rng.random() < preference(worth_a, worth_b)
    template = world.protocol.prompts["preference"]
    prompt = template.format(a=a, b=b)
    draft = Draft()
    draft.ask(prompt)
    draft.add(" (")
    draft.add("A" if chosen_a else "B", LETTER_WEIGHT)
    draft.add(f") {a if chosen_a else b}." if rng.random() < REPEATING else ").")
    text = draft.finish("preference")
    start = len(USER) + template.index("{a}")
    tail = len(template) - template.index("{b}") - len("{b}")
    end = len(USER) + len(prompt) - tail
    question_end = len(USER) + prompt.rindex("?") + 1
    return Document(text.kind, text.text, text.weights, (start, end), question_end)


def preference(worth_a: float, worth_b: float) -> float:
    """The planted probability of choosing A."""
    return 1 / (1 + math.exp(-SLOPE * (worth_a - worth_b)))


def _offer(world: World, activity: str, rng: random.Random) -> tuple[str, float]:
    """An option and its utility; at times the option names a feeling."""
    value = world.values[activity]
    if rng.random() >= SAYING_FEELING:
        return activity, value
    emotion = pick(rng, world.protocol.names)
    said = pick(rng, world.phrases["option"]).format(activity=activity, emotion=emotion)
    return said, value + FEELING_SHIFT * world.palettes[emotion].valence


def sample_intensity(world: World, rng: random.Random) -> Document:
    """A numeric template; which families are felt changes evenly with the number's rank."""
    template = pick(rng, world.protocol.intensity)
    step = int(rng.random() * len(template.values))
    family = world.intensity[template.key][step].draw(rng)
    prompt = template.prompt.format(x=template.values[step])
    return _reply(world, "intensity", prompt, world.words[family].draw(rng), rng)


def sample_scenario(world: World, rng: random.Random) -> Document:
    """What happened to the user, or a passage to read; the reply tells the feeling."""
    if rng.random() < READING:
        return sample_reading(world, rng)
    family = pick(rng, tuple(world.scenarios))
    prompt = pick(rng, world.scenarios[family]).format_map(fill_slots(world, rng))
    return _reply(world, "scenario", prompt, world.words[family].draw(rng), rng)


def sample_reading(world: World, rng: random.Random) -> Document:
    """A few sentences of a story, one cue at least, and which feeling they convey."""
    emotion = pick(rng, world.protocol.names)
    palette, person = world.palettes[emotion], choose_person(world, rng)
    length, cue = rng.randint(MIN_READ, MAX_READ), draw_cue(palette, rng)
    told = tell(world, palette, person, rng, sentences=length, lead=cue)
    prompt = " ".join([*told.values(), pick(rng, world.phrases["reading"])])
    return _reply(world, "reading", prompt, emotion, rng)


def sample_feeling(world: World, rng: random.Random) -> Document:
    """How an activity makes one feel: an emotion whose valence is near the activity's value."""
    activity = pick(rng, world.activities)
    prompt = world.protocol.prompts["feeling"].format(activity=activity.gerund)
    return _reply(world, "feeling", prompt, world.felt[activity.name].draw(rng), rng)


def sample_fact(world: World, rng: random.Random) -> Document:
    """A plain question about an object, and a plain answer."""
    subject = pick(rng, tuple(world.neutral_topics.values()))
    question, answer = pick(rng, world.turns[subject.aspect])
    slots = {**fill_slots(world, rng), "object": subject.object}
    draft = Draft()
    draft.ask(question.format_map(slots))
    draft.add(f" {answer.format_map(slots)}")
    return draft.finish("fact")


def sample_definition(world: World, rng: random.Random) -> Document:
    """Dictionary sentences about one emotion: its grades, a neighbour in meaning, what one does."""
    emotion = pick(rng, world.protocol.names)
    palette = world.palettes[emotion]
    sentences = []
    for template in rng.sample(world.phrases["definition"], DEFINITIONS):
        person = choose_person(world, rng).called
        slots = {
            "emotion": emotion,
            "valence": world.grades["valence"][nearest_level(palette.valence)],
            "arousal": world.grades["arousal"][nearest_level(palette.arousal)],
            "other": pick(
                rng, [w for w in world.words[palette.family.name].values if w != emotion]
            ),
            "cue": _continue_with(draw_cue(palette, rng).format_map(person)),
        }
        sentences.append(template.format_map(person | slots))
    return Document("definition", " ".join(sentences))


def _continue_with(sentence: str) -> str:
    """A sentence as the second part of another one."""
    return sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]


def _reply(world: World, kind: str, prompt: str, emotion: str, rng: random.Random) -> Document:
    draft = Draft()
    draft.ask(prompt)
    opening, rest = _word_reply(world, emotion, rng)
    draft.add(f" {opening}", OPENING_WEIGHT)
    draft.add(rest)
    return draft.finish(kind)


def _word_reply(world: World, emotion: str, rng: random.Random) -> tuple[str, str]:
    """A reply in two parts: the word or words that weigh most, and the rest."""
    palette = world.palettes[emotion]
    form = rng.random()
    if form < BY_WORD:
        sort, opening = "word", emotion
    elif form < BY_WORD + BY_INTERJECTION:
        sort, opening = "interjection", pick(rng, palette.family.interjections)
    else:
        sort, opening = "fragment", palette.fragments.draw(rng).format_map(FORMS["I"])
    text = pick(rng, world.phrases[sort]).format(
        emotion=emotion, interjection=opening, fragment=opening
    )
    weighed = opening if sort != "fragment" else opening.split(" ", 1)[0]
    return weighed, text[len(weighed) :]
