"""Marks lead to the texts that have them, and to no others."""

import sqlite3

from stores.marks import add_marks, drop_marks, marked_texts

LARGEST = 2**63 - 1


def test_a_text_is_found_by_any_of_its_marks(conn: sqlite3.Connection) -> None:
    add_marks(conn, 1, [5, -LARGEST - 1])
    add_marks(conn, 2, [5, LARGEST])
    assert marked_texts(conn, [5]) == {1, 2}
    assert marked_texts(conn, [LARGEST, 77]) == {2}
    assert marked_texts(conn, [-LARGEST - 1]) == {1}
    assert marked_texts(conn, [77]) == marked_texts(conn, []) == set()


def test_adding_twice_changes_nothing_and_dropping_leaves_the_others(
    conn: sqlite3.Connection,
) -> None:
    for _ in range(2):
        add_marks(conn, 1, [5, 6])
    add_marks(conn, 2, [5])
    assert conn.execute("SELECT count(*) FROM marks").fetchone()[0] == 3
    drop_marks(conn, 1, [5, 6, 7])
    assert marked_texts(conn, [5, 6]) == {2}
