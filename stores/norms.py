"""Human ratings of words by valence and arousal, and the emotions that they are ratings of.

They come from a file that the user supplies. Nothing of it is kept in the ledger or in results but
what was computed with it: the licences of norms forbid passing them on. Knows nothing of vectors.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stores.errors import UsageError
from stores.normfiles import fold_word, read_ratings

Floats = NDArray[np.float64]
Rule = Literal["exact", "space for hyphen", "hyphen for space", "joined"]

RULES: Mapping[Rule, Callable[[str], str]] = {
    "exact": lambda name: name,
    "space for hyphen": lambda name: name.replace("-", " "),
    "hyphen for space": lambda name: name.replace(" ", "-"),
    "joined": lambda name: name.replace("-", "").replace(" ", ""),
}
"""How the name of an emotion is spelled to be found in norms, in this order. No stemming."""


@dataclass(frozen=True, slots=True)
class Norms:
    """The ratings of one file."""

    source: str
    """Name of the norms with the reference."""
    licence: str
    """What may be done with them, in a sentence."""
    path: Path
    sha256: str
    """Digest of the file's bytes."""
    valence: Mapping[str, float]
    """Word in lower case -> rating, on the scale of the source."""
    arousal: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """The ratings of e emotions: entry i of everything is that of `emotions[i]`."""

    source: str
    licence: str
    emotions: tuple[str, ...]
    words: tuple[str | None, ...]
    """The word of the norms that stands for the emotion; None where there is none."""
    rules: tuple[Rule | None, ...]
    """How it was found."""
    valence: Floats
    """(e,), NaN where missed."""
    arousal: Floats

    @property
    def misses(self) -> tuple[str, ...]:
        """The emotions without a word in the norms."""
        pairs = zip(self.emotions, self.words, strict=True)
        return tuple(emotion for emotion, word in pairs if word is None)

    def describe(self) -> tuple[str, ...]:
        """Lines for the terminal: source, licence, how many are matched, which are missed."""
        total = len(self.emotions)
        found = Counter(rule for rule in self.rules if rule)
        rules = ", ".join(f"{found[rule]} {rule}" for rule in RULES if found[rule])
        return (
            f"norms: {self.source}",
            f"licence: {self.licence}",
            f"matched: {total - len(self.misses)} of {total} emotions ({rules or 'none'})",
            *([f"missed: {', '.join(self.misses)}"] if self.misses else []),
        )


def load_norms(path: Path) -> Norms:
    """The norms in `path`: UTF-8, separated by tabs, commas or semicolons, one word a line.

    Recognised by what the file holds: NRC VAD (both releases), Warriner et al. (2013), or a plain
    table with the columns word, valence and arousal. Raises UsageError naming the file, the line
    and what is wrong.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; name the file of ratings in it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check the name") from None
    source, words = read_ratings(path, content)
    return Norms(
        source.name,
        source.licence,
        path,
        sha256(content).hexdigest(),
        {word: rating.valence for word, rating in words.items()},
        {word: rating.arousal for word, rating in words.items()},
    )


def match_norms(norms: Norms, emotions: Sequence[str]) -> Matched:
    """The ratings of these emotions; the first of `RULES` that finds a word counts."""
    found = [_match(norms, fold_word(emotion)) for emotion in emotions]
    words = tuple(word for word, _ in found)
    valence, arousal = (
        np.array([math.nan if word is None else ratings[word] for word in words], np.float64)
        for ratings in (norms.valence, norms.arousal)
    )
    rules = tuple(rule for _, rule in found)
    return Matched(norms.source, norms.licence, tuple(emotions), words, rules, valence, arousal)


def _match(norms: Norms, emotion: str) -> tuple[str | None, Rule | None]:
    for rule, spell in RULES.items():
        if (word := spell(emotion)) in norms.valence:
            return word, rule
    return None, None
