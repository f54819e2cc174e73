"""What is needed of a disk or a memory beside what is there. Knows nothing of where it is asked."""

from dataclasses import dataclass

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the things that take up room; `source` says where the number comes from."""

    name: str
    bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Room:
    """A disk or a memory: what will be taken of it, and what is free."""

    thing: str
    there: int
    source: str
    parts: tuple[Part, ...]

    @property
    def needed(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts)

    @property
    def short(self) -> int:
        """Bytes that are missing; 0 when it fits."""
        return max(self.needed - self.there, 0)

    def part(self, name: str) -> int:
        """Bytes of the part of this name; 0 when there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: '512 B', '3.2 GB'."""
    unit = 0
    while abs(count) >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"
