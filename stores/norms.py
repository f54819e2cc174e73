"""Human ratings of words by valence and arousal, read from a file that the user supplies.

Recognised are the NRC VAD lexicon (both releases), the norms of Warriner et al. (2013) and a plain
CSV. Nothing of them is kept in the ledger or in results but what was computed with them: their
licences forbid passing them on. Knows nothing of vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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


def load_norms(path: Path) -> Norms:
    """The norms in `path`. Raises UsageError naming the file, the line and what is wrong."""
    raise NotImplementedError
