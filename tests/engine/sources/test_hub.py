"""Sources on the hub, against a hub on the loopback and with the real loader in a child."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.sources.hub import BUFFER_DOCUMENTS, SHARDS
from tests.engine.sources.asking import ROOT, Asker, asker
from tests.engine.sources.hubs import COMMIT, Hub
from tests.engine.sources.shelf import CHATS, GRANTED, N_LINES, N_SHARDS, PILE


def texts(answered: Any) -> list[str]:
    return [each["text"] for each in answered["documents"]]


def test_a_stream_gives_every_document_once_with_place_and_part(whole: Any) -> None:
    expected = {f"text {n} of {s}" for s in range(N_SHARDS) for n in range(N_LINES)}
    assert set(texts(whole)) == expected
    assert len(texts(whole)) == len(expected)
    for position, each in enumerate(whole["documents"]):
        number = int(each["text"].split()[1])
        assert each == {
            "place": f"stream:{position}",
            "text": each["text"],
            "part": f"part {number % 3}",
            "fault": None,
        }


def test_settings_name_the_commit_and_all_that_fixes_the_order(whole: Any) -> None:
    import datasets

    assert whole["settings"] == {
        "kind": "hub",
        "dataset": PILE,
        "revision": COMMIT,
        "config": None,
        "split": "train",
        "field": "text",
        "part": "meta.set",
        "shuffle": {"seed": 0, "buffer": BUFFER_DOCUMENTS, "shards": SHARDS},
        "datasets": datasets.__version__,
    }
    assert whole["whole"] is False


def test_the_same_seed_gives_the_same_order_in_another_process(
    whole: Any, hub: Hub, tmp_path: Path
) -> None:
    with asker(hub.url, tmp_path) as other:
        again = other.ask(dataset=PILE, part_field="meta.set", take=700)
    assert again["documents"] == whole["documents"][:700]


def test_another_seed_gives_another_order(whole: Any, child: Asker) -> None:
    other = texts(child.ask(dataset=PILE, seed=1, take=700))
    assert other != texts(whole)[:700]
    assert len(set(other) & set(texts(whole)[:700])) < 350


def test_the_first_documents_come_from_as_many_shards_as_are_read_at_once(whole: Any) -> None:
    assert len({text.split()[-1] for text in texts(whole)[:200]}) == SHARDS


def test_shards_are_opened_only_as_they_are_needed(child: Asker, hub: Hub) -> None:
    hub.fetched.clear()
    child.ask(dataset=PILE, take=200)
    assert SHARDS <= len(set(hub.fetched)) < N_SHARDS


def test_conversations_in_parquet_are_rendered_and_parted(child: Asker) -> None:
    answered = child.ask(token=GRANTED, dataset=CHATS, part_field="language")
    assert set(texts(answered)) == {
        f"Human: {n}?\n\nAssistant: {n} of {s}." for n in range(40) for s in range(3)
    }
    assert {each["part"] for each in answered["documents"]} == {"English"}


def test_a_configuration_and_a_split_can_be_named(child: Asker) -> None:
    that = child.ask(dataset="someone/two", config="that")
    assert set(texts(that)) == {f"text {n} of 1" for n in range(5)}
    test = child.ask(dataset="someone/splits", split="test")
    assert set(texts(test)) == {f"text {n} of 1" for n in range(5)}


def test_importing_a_source_of_the_hub_imports_no_heavy_library() -> None:
    code = (
        "import sys, engine.sources.hub\n"
        "print({'datasets', 'pyarrow', 'torch', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert done == "set()\n"
