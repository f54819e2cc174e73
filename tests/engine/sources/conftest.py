"""One hub on the loopback and one child that asks it, for all tests of sources."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.sources.asking import Asker, asker
from tests.engine.sources.hubs import Hub, serving
from tests.engine.sources.shelf import GRANTED, OTHER, PILE, repositories


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    with serving(repositories(), frozenset({GRANTED, OTHER})) as hub:
        yield hub


@pytest.fixture(scope="session")
def child(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    """At work where a folder has the data set's very name."""
    home = tmp_path_factory.mktemp("home")
    (home / PILE).mkdir(parents=True)
    (home / PILE / "train.jsonl").write_text('{"text": "not from the hub"}\n', encoding="utf-8")
    with asker(hub.url, home) as child:
        yield child


@pytest.fixture(scope="session")
def whole(child: Asker) -> Any:
    """Every document of the Pile's stand-in for seed 0."""
    return child.ask(dataset=PILE, part_field="meta.set")
