"""Named places between two durable steps where a test can make the program die.

`EMOVEC_FAILPOINT=name:n` ends the process, as hard as a power cut does, the n-th time it reaches
that place. Without the variable nothing happens. Knows nothing of what happens around the places.
"""

import os
from collections import Counter

VARIABLE = "EMOVEC_FAILPOINT"
EXIT_CODE = 137

GENERATION = ("planned", "leased", "answered", "recorded", "settling", "settled")
"""After planning; after lease and intent are durable, before the call; after an answer arrived,
before it is durable; after the raw reply is durable, before it is parsed; between the texts of one
reply, inside their transaction; after the texts are durable."""

EXTRACTION = (
    "rows_planned",
    "chunk_started",
    "chunk_computed",
    "receipts_dropped",
    "bytes_written",
    "receipts_written",
)
"""After every text has its row; after the texts of a chunk are read, before the model sees them;
after the model, before its rows are handed to be written; after the old receipts of a chunk are
gone, before its files change; after its files are durable, before their receipts; after receipts
and statuses are durable."""

JUDGING = ("judging", "judged")
"""After answers arrived, before they are durable; after that."""

PROJECTION = ("pass_opened", "chunk_read", "chunk_projected", "scores_written", "chunk_kept")
"""After a pass has its row; after the documents of a chunk are cut and read, before the model sees
them; after the model, before the chunk's rows; between the rows of a chunk, inside their
transaction; after they are durable."""

ENCODING = ("encoding_opened", "codes_computed", "codes_kept")
"""After a pass under an SAE has its row; after the model, before a chunk's codes are durable; after
they are."""

TRAINING = ("buffer_trained", "checkpoint_written", "weights_written", "sae_kept")
"""After the last step of a buffer, before its checkpoint; after the checkpoint took its place;
after the finished SAE's files are durable, before they take theirs; after they did."""

PLACES = GENERATION + EXTRACTION + JUDGING + PROJECTION + ENCODING + TRAINING

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die here if the environment says so. Raises ValueError for a name that is not listed."""
    if name not in PLACES:
        raise ValueError(f"no failpoint {name!r}; known: {', '.join(PLACES)}")
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    place, _, times = wanted.partition(":")
    _reached[name] += 1
    if name == place and _reached[name] == int(times or 1):
        os._exit(EXIT_CODE)
