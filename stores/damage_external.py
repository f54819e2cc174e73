"""Compares documents with their digests, and passes over them with what each must have left.

What is found wrong in a chunk of a pass is withdrawn, so that the same command reads that chunk
again; a sample of which a text was changed is withdrawn with all that was read from it.
"""

from collections.abc import Callable, Iterator

from stores.damage import Finding
from stores.database import Connection, digest, transaction
from stores.projections import KEPT_SNIPPETS
from stores.workspace import Workspace

AGAIN = "run the same `project` command again"
PROJECT_AGAIN = "project the chunk again"

_CHUNK_FAULTS = {
    "documents are done, yet have no scores at a layer": """
        SELECT p.id, r.chunk FROM projections p JOIN json_each(p.settings, '$.layers') l
        JOIN projected r ON r.projection_id = p.id AND r.status = 'done'
        WHERE NOT EXISTS (SELECT 1 FROM document_scores x WHERE x.projection_id = p.id
                          AND x.layer = l.value AND x.document_id = r.document_id)""",
    "documents are done, yet their tokens were not summed up": """
        SELECT p.id, r.chunk FROM projections p JOIN json_each(p.settings, '$.layers') l
        JOIN projected r ON r.projection_id = p.id AND r.status = 'done'
        WHERE NOT EXISTS (SELECT 1 FROM token_summaries t WHERE t.projection_id = p.id
                          AND t.layer = l.value AND t.chunk = r.chunk)""",
    "scores are not one for each emotion": """
        SELECT p.id, r.chunk FROM projections p JOIN document_scores x ON x.projection_id = p.id
        JOIN projected r USING (projection_id, document_id)
        WHERE json_array_length(CASE WHEN json_valid(x.scores) THEN x.scores ELSE '[]' END)
            <> json_array_length(p.settings, '$.emotions')""",
    "a summary of tokens is torn": """
        SELECT p.id, t.chunk FROM projections p JOIN token_summaries t ON t.projection_id = p.id
        WHERE length(t.moments) <> 16 * json_array_length(p.settings, '$.emotions')
            OR length(t.quantiles) = 0
            OR length(t.quantiles) % (4 * json_array_length(p.settings, '$.emotions')) <> 0""",
    "a snippet is torn": """
        SELECT p.id, r.chunk FROM projections p JOIN snippets n ON n.projection_id = p.id
        JOIN projected r USING (projection_id, document_id)
        WHERE NOT (json_valid(n.tokens) AND json_valid(n.heat))
            OR json_array_length(CASE WHEN json_valid(n.tokens) THEN n.tokens ELSE '[]' END)
            <> json_array_length(CASE WHEN json_valid(n.heat) THEN n.heat ELSE '[]' END)""",
}
# Of every emotion there is a window of each document that is long enough, or the best so many.
_LOST_SNIPPETS = """
    SELECT id, sum(max(due - kept, 0)) AS lost FROM (
        SELECT p.id, (SELECT min(count(*), ?) FROM projected r WHERE r.projection_id = p.id
                      AND r.status = 'done' AND r.tokens - json_extract(p.settings, '$.start_token')
                      >= json_extract(p.settings, '$.snippet')) AS due,
            (SELECT count(*) FROM snippets n WHERE n.projection_id = p.id
             AND n.layer = l.value AND n.emotion = e.value) AS kept
        FROM projections p JOIN json_each(p.settings, '$.layers') l
        JOIN json_each(p.settings, '$.emotions') e WHERE p.finished_at IS NOT NULL)
    GROUP BY id HAVING lost ORDER BY id"""
_NOT_DONE = """projection_id = :pass AND document_id NOT IN (
    SELECT document_id FROM projected WHERE projection_id = :pass AND status = 'done')"""
_ORPHANS = {
    "document_scores": _NOT_DONE,
    "snippets": _NOT_DONE,
    "token_summaries": """projection_id = :pass AND chunk NOT IN (
        SELECT chunk FROM projected WHERE projection_id = :pass AND status = 'done')""",
}
_OF_PASSES = ("judgements", "snippets", "token_summaries", "document_scores", "projected")


def inspect_samples(conn: Connection) -> Iterator[Finding]:
    """Every document against its digest and its length; samples that are not complete."""
    query = """
        SELECT s.id, s.source, json_extract(s.settings, '$.characters') AS most, d.place,
               d.text, d.characters, d.text_sha
        FROM documents d JOIN samples s ON s.id = d.sample_id ORDER BY s.id, d.rank"""
    for sample_id, source, most, place, text, characters, text_sha in conn.execute(query):
        whole = len(text) == characters
        if (whole and digest(text) != text_sha) or (not whole and len(text) != most):
            mend = _mend(_forget_sample, sample_id)
            again = "withdraw the sample and all that was read from it; draw it again"
            yield Finding("document", f"{source} {place}", "its text was changed", again, mend)
    query = """SELECT source, count(*) FROM samples s JOIN documents d ON d.sample_id = s.id
               WHERE finished_at IS NULL GROUP BY s.id ORDER BY s.id"""
    for source, kept in conn.execute(query):
        problem = f"its drawing was not finished ({kept} documents so far)"
        yield Finding("sample", source, problem, AGAIN, fault=False)


def inspect_projections(conn: Connection) -> Iterator[Finding]:
    """Every pass: what it left of each chunk, what belongs to none, and what was not read."""
    for problem, query in _CHUNK_FAULTS.items():
        for projection_id, chunk in conn.execute(f"{query} GROUP BY 1, 2 ORDER BY 1, 2").fetchall():
            place = f"{_place(conn, projection_id)} chunk {chunk}"
            mend = _mend(_forget_chunk, projection_id, chunk)
            yield Finding("projection", place, problem, PROJECT_AGAIN, mend)
    for projection_id, lost in conn.execute(_LOST_SNIPPETS, (KEPT_SNIPPETS,)).fetchall():
        problem = f"{lost} snippets are lost"
        mend = _mend(_forget_pass, projection_id)
        again = "project all of it again: the next best ones were not kept"
        yield Finding("projection", _place(conn, projection_id), problem, again, mend)
    for row in conn.execute("SELECT id, finished_at FROM projections ORDER BY id").fetchall():
        yield from _inspect_pass(conn, *row)


def _inspect_pass(
    conn: Connection, projection_id: int, finished_at: str | None
) -> Iterator[Finding]:
    place, here = _place(conn, projection_id), {"pass": projection_id}
    orphans = sum(
        conn.execute(f"SELECT count(*) FROM {table} WHERE {which}", here).fetchone()[0]
        for table, which in _ORPHANS.items()
    )
    if orphans:
        problem = f"{orphans} rows belong to no document that is done"
        mend = _mend(_forget_orphans, projection_id)
        yield Finding("projection", place, problem, "remove them", mend)
    unread = _unread(conn, projection_id)
    begun = "SELECT DISTINCT chunk FROM projected WHERE projection_id = ?"
    done = {chunk for (chunk,) in conn.execute(begun, (projection_id,))}
    for chunk in sorted(set(unread) & done if finished_at is None else unread):
        problem = f"{unread[chunk]} documents were not read, yet it is called done"
        mend = _mend(_forget_chunk, projection_id, chunk)
        yield Finding("projection", f"{place} chunk {chunk}", problem, PROJECT_AGAIN, mend)
    if finished_at is None:
        problem = f"it was not finished ({sum(unread.values())} documents are left)"
        yield Finding("projection", place, problem, AGAIN, fault=False)


def _unread(conn: Connection, projection_id: int) -> dict[int, int]:
    """Chunk -> documents without a row in the pass."""
    query = """
        SELECT position / size AS chunk, count(*) FROM (
            SELECT d.id, row_number() OVER (ORDER BY d.rank, d.id) - 1 AS position,
                   json_extract(p.settings, '$.chunk_documents') AS size
            FROM documents d JOIN projections p USING (sample_id) WHERE p.id = :pass)
        WHERE id NOT IN (SELECT document_id FROM projected WHERE projection_id = :pass)
        GROUP BY 1 ORDER BY 1"""
    return dict(map(tuple, conn.execute(query, {"pass": projection_id})))


def _place(conn: Connection, projection_id: int) -> str:
    query = """SELECT p.reader, p.corpus, s.source FROM projections p
               JOIN samples s ON s.id = p.sample_id WHERE p.id = ?"""
    return "/".join((*conn.execute(query, (projection_id,)).fetchone(), f"pass {projection_id}"))


def _mend(forget: Callable[..., None], *arguments: int) -> Callable[[Connection, Workspace], None]:
    def mend(conn: Connection, _: Workspace) -> None:
        with transaction(conn):
            forget(conn, *arguments)

    return mend


def _forget_sample(conn: Connection, sample_id: int) -> None:
    passes = "SELECT id FROM projections WHERE sample_id = ?"
    for table in _OF_PASSES:
        conn.execute(f"DELETE FROM {table} WHERE projection_id IN ({passes})", (sample_id,))
    for table in ("projections", "documents"):
        conn.execute(f"DELETE FROM {table} WHERE sample_id = ?", (sample_id,))
    conn.execute("DELETE FROM samples WHERE id = ?", (sample_id,))


def _forget_chunk(conn: Connection, projection_id: int, chunk: int) -> None:
    here = (projection_id, chunk)
    read = "SELECT document_id FROM projected WHERE projection_id = ?1 AND chunk = ?2"
    for table in ("document_scores", "snippets"):
        which = f"projection_id = ?1 AND document_id IN ({read})"
        conn.execute(f"DELETE FROM {table} WHERE {which}", here)
    for table in ("token_summaries", "projected"):
        conn.execute(f"DELETE FROM {table} WHERE projection_id = ? AND chunk = ?", here)
    conn.execute("UPDATE projections SET finished_at = NULL WHERE id = ?", (projection_id,))


def _forget_pass(conn: Connection, projection_id: int) -> None:
    for table in _OF_PASSES:
        conn.execute(f"DELETE FROM {table} WHERE projection_id = ?", (projection_id,))
    conn.execute("UPDATE projections SET finished_at = NULL WHERE id = ?", (projection_id,))


def _forget_orphans(conn: Connection, projection_id: int) -> None:
    for table, which in _ORPHANS.items():
        conn.execute(f"DELETE FROM {table} WHERE {which}", {"pass": projection_id})
