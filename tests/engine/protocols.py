"""A small protocol folder, written as a user would write one."""

from pathlib import Path

from stores.protocol import Bounds, Protocol, load_protocol

EMOTIONS = ("calm", "angry", "proud")
TOPICS = ("a letter", "the rain")


def write_protocol(
    root: Path,
    *,
    stories: Bounds = Bounds(3, 400),  # noqa: B008 - a frozen value
    dialogues: Bounds = Bounds(3, 400),  # noqa: B008
    story: str = "Write a story about {topic}. The feeling is {emotion}.",
) -> Protocol:
    """Three emotions and two topics, with the given bounds on words."""
    folder = root / "protocol"
    (folder / "prompts").mkdir(parents=True)
    limits = {"stories": stories, "dialogues": dialogues}
    bounds = "\n".join(
        f"{kind} = {{ min_words = {b.min_words}, max_words = {b.max_words} }}"
        for kind, b in limits.items()
    )
    (folder / "protocol.toml").write_text(f'concept = "emotion"\n[bounds]\n{bounds}\n')
    rows = "\n".join(f"{name}\town" for name in EMOTIONS)
    (folder / "emotions.tsv").write_text(f"emotion\tsource\n{rows}\n")
    for name in ("topics.txt", "neutral_topics.txt"):
        (folder / name).write_text("\n".join(TOPICS) + "\n")
    (folder / "prompts" / "story.txt").write_text(story + "\n")
    (folder / "prompts" / "dialogue.txt").write_text("Write a dialogue about {topic}.\n")
    return load_protocol(folder)
