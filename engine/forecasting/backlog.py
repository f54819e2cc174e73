"""What an extraction still has to read and to write, and about how many tokens that is.

Knows nothing of devices, memory or time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.extraction import ExtractionSettings
from engine.models import Model
from engine.readings import TextReader
from stores.database import Connection
from stores.receipts import chunk_length
from stores.rows import ChunkPlan, pending_chunks, read_texts
from stores.sizes import chunk_file_bytes, file_bytes, receipt_bytes, text_lengths
from stores.texts import Kind
from stores.workspace import Workspace

SAMPLE = 200
"""As many texts at most are tokenised for the guess."""

TextKey = tuple[Kind, int]


@dataclass(frozen=True, slots=True)
class Backlog:
    """The chunks that lack a wanted layer, with the characters of each one's texts."""

    chunks: tuple[tuple[Kind, ChunkPlan], ...]
    lengths: dict[TextKey, int]
    chunk_rows: int
    write_bytes: int
    """Of the chunk files that will be written."""
    replaced_bytes: int
    """Of files that stand where they will go."""
    written_bytes: int
    """Of the chunk files that are there and count."""

    @property
    def texts(self) -> int:
        """Rows of the waiting chunks: a chunk is read whole."""
        return sum(len(plan.rows) for _, plan in self.chunks)

    @property
    def files(self) -> int:
        """Chunk files that will be written."""
        return sum(len(plan.layers_missing) for _, plan in self.chunks)

    def characters(self, kind: Kind, plan: ChunkPlan) -> int:
        """Of all texts of one chunk."""
        return sum(self.lengths.get((kind, row.text_id), 0) for row in plan.rows)


@dataclass(frozen=True, slots=True)
class TokenGuess:
    """Tokens that will be read, from the lengths of the texts and a sample of them."""

    tokens: int
    work: float
    """The same tokens, each counted for the share of the wanted depth that its chunk needs."""
    longest: int
    """Of one text."""
    largest_chunk: int
    source: str


def find_backlog(
    conn: Connection, workspace: Workspace, settings: ExtractionSettings, d_model: int
) -> Backlog:
    """Look at what is planned and what is there. Raises NotReady when nothing was ever planned."""
    chunks: list[tuple[Kind, ChunkPlan]] = []
    lengths: dict[TextKey, int] = {}
    to_write = replaced = written = longest_chunk = 0
    for kind in settings.kinds:
        here = (settings.reader, settings.corpus, kind)
        rows, plans = chunk_length(conn, *here), pending_chunks(conn, *here, settings.layers)
        ids = [row.text_id for plan in plans for row in plan.rows]
        lengths |= {(kind, i): n for i, n in text_lengths(conn, kind, ids).items()}
        chunks += [(kind, plan) for plan in plans]
        to_write += sum(len(p.layers_missing) for p in plans) * chunk_file_bytes(rows, d_model)
        replaced += sum(file_bytes(workspace, *here, p.chunk, p.layers_missing) for p in plans)
        written += receipt_bytes(conn, *here)
        longest_chunk = max(longest_chunk, rows)
    return Backlog(tuple(chunks), lengths, longest_chunk, to_write, replaced, written)


def guess_tokens(
    conn: Connection, backlog: Backlog, model: Model, settings: ExtractionSettings
) -> TokenGuess:
    """Tokenise a sample, evenly spread over the lengths, and scale it up by characters.

    Texts that are too short, too long or unreadable count as no tokens: they are not read.
    """
    chosen = _spread(backlog.lengths)
    reader = TextReader(model, settings.format, settings.start_token)
    characters = tokens = every = 0
    for text in _texts(conn, chosen):
        reading = reader.read(text)
        characters += len(text)
        every += len(reading.segment.ids)
        tokens += 0 if reading.fault else len(reading.segment.ids)
    rate, plain_rate = (count / max(characters, 1) for count in (tokens, every))
    of_chunks = [rate * backlog.characters(*chunk) for chunk in backlog.chunks]
    depths = [
        (plan.layers_missing[-1] + 1) / (settings.layers[-1] + 1) for _, plan in backlog.chunks
    ]
    longest = round(max(backlog.lengths.values(), default=0) * plain_rate)
    return TokenGuess(
        tokens=round(sum(of_chunks)),
        work=sum(count * depth for count, depth in zip(of_chunks, depths, strict=True)),
        longest=min(longest, model.context or longest),
        largest_chunk=round(max(of_chunks, default=0)),
        source=f"{rate:.3f} tokens a character in {len(chosen)} texts",
    )


def _spread(lengths: dict[TextKey, int]) -> list[TextKey]:
    """At most SAMPLE texts, from the shortest to the longest at even distances."""
    ordered = sorted(lengths, key=lambda key: (lengths[key], key))
    n = min(SAMPLE, len(ordered))
    return [ordered[(2 * i + 1) * len(ordered) // (2 * n)] for i in range(n)]


def _texts(conn: Connection, keys: Sequence[TextKey]) -> Iterator[str]:
    for kind in sorted({kind for kind, _ in keys}):
        yield from read_texts(conn, kind, [i for of, i in keys if of == kind]).values()
