"""What goes wrong with the hub is one line that names the thing, the place and the next step."""

import json
import re
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.sources.hub import open_hub
from engine.sources.refusals import muted
from stores.errors import EngineError
from tests.engine.sources.asking import Asker, asker
from tests.engine.sources.hubs import Hub
from tests.engine.sources.shelf import CHATS, GRANTED, OTHER, PILE


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, r"^someone/chats: is gated, and no token was found: accept its terms at http\S+/"
               r"datasets/someone/chats and put your token into HF_TOKEN$"),
        (OTHER, r"^someone/chats: is gated, and the token in HF_TOKEN is not let in: accept the "
                r"terms at http\S+/datasets/someone/chats with the account of that token"),
        ("hf_unknown", r"^someone/chats: the hub does not know the token in HF_TOKEN: renew it$"),
    ],
)  # fmt: skip
def test_a_gate_says_what_is_missing_and_where_to_get_it(
    child: Asker, token: str | None, sentence: str
) -> None:
    answered = child.ask(token=token, dataset=CHATS)
    assert (answered["documents"], answered["exit_code"]) == ([], 1)
    assert re.search(sentence, answered["error"])


def test_a_token_is_nowhere_in_what_is_kept_or_told(child: Asker) -> None:
    for token in (GRANTED, OTHER, "hf_unknown"):
        assert token not in json.dumps(child.ask(token=token, dataset=CHATS, take=3))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"dataset": "someone/none"}, r"^someone/none: no such data set on the hub, or a private"),
        ({"dataset": "no name"}, r"^no name: is no name of a data set; write hub:OWNER/NAME$"),
        ({"dataset": PILE, "revision": "v9"}, r"no such revision; correct --hub-revision$"),
        ({"dataset": PILE, "split": "dev"}, r"--hub-split: no 'dev'; there is train$"),
        ({"dataset": PILE, "text_field": "body"}, r"no field 'body'; --text-field is one of text"),
        ({"dataset": PILE, "text_field": "meta"}, r"the field meta holds no text; correct"),
        ({"dataset": PILE, "seed": -1}, r"^--seed -1: data sets on the hub are shuffled by one of"),
        ({"dataset": "someone/two"}, r"--config: several to choose from; there is this, that$"),
        ({"dataset": "someone/two", "config": "it"}, r"--config: no 'it'; there is this, that$"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_mistake_in_the_call(
    child: Asker, wanted: dict[str, Any], sentence: str
) -> None:
    answered = child.ask(**wanted)
    assert (answered["documents"], answered["exit_code"]) == ([], 2)
    assert re.search(sentence, answered["error"])


@pytest.mark.parametrize("dataset", ["someone/empty", "someone/weights", "someone/torn"])
def test_a_data_set_that_cannot_be_read_is_told_before_anything_is_drawn(
    child: Asker, dataset: str
) -> None:
    answered = child.ask(dataset=dataset)
    assert (answered["documents"], answered["exit_code"]) == ([], 1)
    told = rf"^{dataset}: holds nothing that can be read as documents \(\w+\): download it"
    assert re.search(told, answered["error"])


def test_a_damaged_shard_is_told_and_is_no_network_trouble(child: Asker) -> None:
    told = child.ask(dataset="someone/damaged")["error"]
    assert re.search(r"what comes after \d+ documents cannot be read \(ZstdError\)", told)


def last_opened(child: Asker, hub: Hub) -> str:
    """The shard that a draw by seed 0 comes to last."""
    hub.fetched.clear()
    child.ask(dataset=PILE)
    return list(dict.fromkeys(hub.fetched))[-1]


def test_a_line_that_goes_dead_is_told_in_bounded_time_and_the_next_draw_sees_the_same(
    child: Asker, hub: Hub, whole: Any
) -> None:
    hub.dropped.add(last_opened(child, hub))
    try:
        lost = child.ask(dataset=PILE, part_field="meta.set")
        count = len(lost["documents"])
        enough = child.ask(dataset=PILE, part_field="meta.set", take=count)
    finally:
        hub.dropped.clear()
    assert "error" not in enough
    assert enough["documents"] == lost["documents"]
    assert 0 < count < len(whole["documents"])
    assert lost["documents"] == whole["documents"][:count]
    assert lost["exit_code"] == 1
    told = rf"^{PILE}: the connection to the hub was lost after {count:,} documents \(\w+\): run it"
    assert re.search(told, lost["error"])
    assert "http" not in lost["error"]
    assert lost["slept"] < 120
    assert child.ask(dataset=PILE, part_field="meta.set")["documents"] == whole["documents"]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, r"^someone/pile: the hub cannot be reached \(ConnectError\): connect, or project"),
        (
            {"HF_HUB_OFFLINE": "1"},
            r"the hub cannot be reached: HF_HUB_OFFLINE or \w+ is set; unset",
        ),
    ],
)
def test_without_a_network_it_says_so_at_once_and_names_the_way_without(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    with asker("http://127.0.0.1:9", tmp_path, **environment) as child:
        answered = child.ask(dataset=PILE)
    assert answered["exit_code"] == 1
    assert re.search(sentence, answered["error"])
    assert "project a local copy with `project PATH`" in answered["error"]
    assert answered["slept"] < 5


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_status_is_told_as_such_also_once_the_loader_gave_up(
    child: Asker, hub: Hub, status: int
) -> None:
    hub.refused = status
    try:
        before = child.ask(dataset=PILE)
    finally:
        hub.refused = None
    assert f"the hub answers {status}: try again later, or project" in before["error"]
    assert before["slept"] < 240


def test_a_status_in_the_middle_of_a_stream_is_told(child: Asker, hub: Hub) -> None:
    late = last_opened(child, hub)
    hub.limited.add(late)
    try:
        lost = child.ask(dataset=PILE)
    finally:
        hub.limited.clear()
    assert len(lost["documents"]) > 0
    assert re.search(r"lost after [\d,]+ documents \(it answers 429\): run it", lost["error"])


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_takes_calls_and_never_answers_is_given_up(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        asker(address(server), tmp_path, HF_HUB_ETAG_TIMEOUT="1") as child,
    ):
        answered = child.ask(dataset=PILE)
    assert re.search(r"the hub cannot be reached \(ReadTimeout\)", answered["error"])
    assert answered["slept"] == 0


@pytest.mark.parametrize("package", ["datasets", "zstandard"])
def test_a_package_that_is_missing_is_one_sentence(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "engine.sources.refusals.find_spec",
        lambda name: None if name == package else find_spec(name),
    )
    with pytest.raises(EngineError, match=f"the package {package}, which is missing; pip install"):
        open_hub("theirs", seed=0, dataset=PILE)


def test_the_libraries_are_as_loud_and_patient_after_as_before() -> None:
    import datasets
    import huggingface_hub.utils as hub

    def found() -> list[object]:
        limits = ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_READ_MAX_RETRIES")
        return [
            *(library.logging.get_verbosity() for library in (datasets, hub)),
            *(library.are_progress_bars_disabled() for library in (datasets, hub)),
            *(getattr(datasets.config, limit) for limit in limits),
        ]

    before = found()
    with pytest.raises(KeyError), muted():
        assert all(was != now for was, now in zip(before, found(), strict=True))
        raise KeyError
    assert found() == before
