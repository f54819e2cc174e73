from stores.database import Connection
from stores.tabledocs import TABLE_DOCS


def test_every_table_view_and_column_of_the_ledger_is_documented(conn: Connection) -> None:
    query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE ?"
    names = [row["name"] for row in conn.execute(query, ("sqlite_%",))]
    columns = {
        name: [row["name"] for row in conn.execute(f"PRAGMA table_info({name})")] for name in names
    }
    assert {name: list(doc.columns) for name, doc in TABLE_DOCS.items()} == columns


def test_no_purpose_and_no_meaning_is_blank() -> None:
    for name, doc in TABLE_DOCS.items():
        assert doc.purpose.endswith("."), name
        assert all(doc.columns.values()), name
