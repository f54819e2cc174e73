"""Sources of texts that a test has in its hands."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.sources.base import Found


@dataclass
class Given:
    """A source of these documents; `reads` counts how often it was begun, `handed` documents."""

    documents: Iterable[str | Found]
    whole: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = "given"
    before: Callable[[int], None] = lambda number: None
    """Called with the number of each document before it is handed out."""
    reads: int = 0
    handed: int = 0

    def read(self) -> Iterator[Found]:
        self.reads += 1
        for number, each in enumerate(self.documents):
            self.before(number)
            self.handed += 1
            yield each if isinstance(each, Found) else Found(f"line:{number}", each)
