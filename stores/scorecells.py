"""How scores, summaries and snippets of tokens are spelled in the ledger's cells.

Knows nothing of what they are scores of.
"""

import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from stores.database import Connection, canonical_json, storable


def spell_floats(values: NDArray[np.float32]) -> str:
    """A JSON list of the shortest decimals that give the 32 bits back. ValueError for NaN."""
    if not np.isfinite(values).all():
        raise ValueError("a score that is not finite")
    return f"[{','.join([str(each) for each in values.astype(np.float32)])}]"


def read_floats(spelled: Iterable[str]) -> NDArray[np.float32]:
    """Lists of n numbers each as [lists, n], the same 32 bits that were spelled."""
    return np.array(json.loads(f"[{','.join(spelled)}]"), np.float32)


def spell_pieces(pieces: Sequence[str]) -> str:
    """Pieces of text as a JSON list."""
    return canonical_json([storable(piece) for piece in pieces])


def pack_summary(
    mean: NDArray[np.float64], scatter: NDArray[np.float64], quantiles: NDArray[np.float32]
) -> tuple[bytes, bytes]:
    """Means and scatters [2, e] as little-endian float64, quantiles [e, k] as float32."""
    moments = np.stack([mean, scatter]).astype("<f8")
    return moments.tobytes(), quantiles.astype("<f4").tobytes()


def unpack_summary(
    moments: bytes, quantiles: bytes
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """Means [e], scatters [e] and quantiles [e, k] of what `pack_summary` made."""
    mean, scatter = np.frombuffer(moments, "<f8").reshape(2, -1)
    return mean, scatter, np.frombuffer(quantiles, "<f4").reshape(len(mean), -1)


def forget_snippets(conn: Connection, projection_id: int, layer: int, kept: int) -> None:
    """Keep the best of each emotion; of equal ones those of the lower ranks."""
    here = (projection_id, layer)
    order = "PARTITION BY s.emotion ORDER BY s.score DESC, d.rank, d.id"
    conn.execute(
        f"""
        DELETE FROM snippets WHERE projection_id = ? AND layer = ?
        AND (emotion, document_id) IN (SELECT emotion, document_id FROM (
            SELECT s.emotion, s.document_id, row_number() OVER ({order}) AS place
            FROM snippets s JOIN documents d ON d.id = s.document_id
            WHERE s.projection_id = ? AND s.layer = ?) WHERE place > ?)""",
        (*here, *here, kept),
    )
