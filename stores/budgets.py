"""How many tokens fit a device at once, as a stage found out when its memory ran short.

Knows nothing of what the tokens are for; a model and a device are names here.
"""

from stores.database import Connection, now_text, transaction


def remembered_budget(conn: Connection, stage: str, model: str, device: str) -> int | None:
    """The tokens that a stage last settled for; None when its memory never ran short."""
    query = "SELECT tokens FROM budgets WHERE stage = ? AND model = ? AND device = ?"
    row = conn.execute(query, (stage, model, device)).fetchone()
    return None if row is None else int(row["tokens"])


def remember_budget(
    conn: Connection,
    stage: str,
    model: str,
    device: str,
    tokens: int,
    *,
    now: float | None = None,
) -> None:
    """Keep `tokens` for the next run of the same stage, model and device.

    Raises ValueError for less than one token.
    """
    if tokens < 1:
        raise ValueError(f"budget of {tokens} tokens: at least one is needed")
    with transaction(conn):
        conn.execute(
            """INSERT INTO budgets (stage, model, device, tokens, updated_at)
               VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (stage, model, device)
               DO UPDATE SET tokens = excluded.tokens, updated_at = excluded.updated_at""",
            (stage, model, device, tokens, now_text(now)),
        )
