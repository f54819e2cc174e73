"""Compares passes under SAEs with what each must have left of every text.

What is found wrong is withdrawn, so that the same command encodes just those texts again. Codes of
texts that were withdrawn or read again since are no damage: nothing uses them.
"""

from collections.abc import Iterator
from functools import partial

from stores.damage import Finding
from stores.database import Connection, transaction
from stores.encodings import BANKS, Encoding, codes_fault, count_missing, every_encoding
from stores.workspace import Workspace

AGAIN = "run the same `sae compare` command again"
ENCODE_AGAIN = "encode them again"

_LONE = f"""codes WHERE encoding_id = :pass AND (kind, text_id) IN (
    SELECT kind, text_id FROM codes WHERE encoding_id = :pass
    GROUP BY 1, 2 HAVING count(*) <> {len(BANKS)})"""
_UNUSED = """codes WHERE encoding_id = :pass AND NOT EXISTS (
    SELECT 1 FROM activations a JOIN encodings e USING (reader, corpus)
    WHERE e.id = encoding_id AND a.kind = codes.kind AND a.text_id = codes.text_id
        AND a.text_sha = codes.text_sha)"""
_TEXT = "codes WHERE encoding_id = :pass AND kind = :kind AND text_id = :text"


def inspect_encodings(conn: Connection) -> Iterator[Finding]:
    """Every pass: codes that are torn or lack their other bank, and texts without any."""
    for encoding in every_encoding(conn):
        place = "/".join((encoding.reader, encoding.corpus, encoding.name, f"pass {encoding.id}"))
        yield from _inspect_codes(conn, encoding, place)
        for rows, problem, repair, fault in (
            (_LONE, "lack those of the other bank", ENCODE_AGAIN, True),
            (_UNUSED, "are of texts that were withdrawn or read again since", "remove them", False),
        ):
            counted = conn.execute(f"SELECT count(*) FROM {rows}", {"pass": encoding.id})
            if n := counted.fetchone()[0]:
                mend = partial(_withdraw, rows=rows, which={"pass": encoding.id})
                yield Finding("codes", place, f"{n} rows {problem}", repair, mend, fault)
        if missing := count_missing(conn, encoding):
            problem = f"{missing} texts have no codes"
            yield Finding("encoding", place, problem, AGAIN, fault=False)
        elif not encoding.finished:
            yield Finding("encoding", place, "it was not finished", AGAIN, fault=False)


def _inspect_codes(conn: Connection, encoding: Encoding, place: str) -> Iterator[Finding]:
    """The BLOBs of the texts that are done."""
    query = """SELECT kind, bank, text_id, features, means FROM codes
               WHERE encoding_id = ? AND status = 'done' ORDER BY kind, text_id, bank"""
    for kind, bank, text_id, features, means in conn.execute(query, (encoding.id,)):
        if fault := codes_fault(features, means, encoding.features):
            which = {"pass": encoding.id, "kind": kind, "text": text_id}
            mend = partial(_withdraw, rows=_TEXT, which=which)
            at = f"{place} {kind} {text_id} {bank}"
            yield Finding("codes", at, fault, ENCODE_AGAIN, mend)


def _withdraw(conn: Connection, _: Workspace, rows: str, which: dict[str, int | str]) -> None:
    with transaction(conn):
        conn.execute(f"DELETE FROM {rows}", which)
        if rows != _UNUSED:
            conn.execute("UPDATE encodings SET finished_at = NULL WHERE id = :pass", which)
