"""kill -9 anywhere in a draw: drawn again, it is row for row what it would have been."""

import os
import random
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from stores.database import open_database
from stores.workspace import Workspace
from tests.conftest import StartChild, line_of

KILLS = int(os.environ.get("EMOVEC_TEST_DRAW_KILLS", "10"))
NEVER = 0

# Every draw is a process of its own, forked after the slow imports. It counts its steps, documents
# found and rows written (those within transactions), and dies at the one it is told.
ENGINE = """
import os, signal, sys, threading
from contextlib import closing
from pathlib import Path
import stores.samples
from engine.sources import sampling
from stores.database import open_database
from stores.workspace import Workspace
from tests.engine.sources.given import Given

sampling.BATCH_DOCUMENTS = 16
steps, last, spell = 0, 0, stores.samples.storable

def step(*_):
    global steps
    steps += 1
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)

def spell_and_step(text):
    step()
    return spell(text)

stores.samples.storable = spell_and_step
# every fourth text is a copy of an earlier one
texts = [f"document {n - n // 8 if n % 4 == 3 else n}" for n in range(800)]
source = Given(texts, sys.argv[1] == "True", before=step)

for line in sys.stdin:
    folder, limit = line.rsplit(" ", 1)
    child = os.fork()
    if child == 0:
        last = int(limit)
        with closing(open_database(Workspace(Path(folder)).database)) as conn:
            sampling.draw_sample(
                conn, source, size=400, seed=0, progress=lambda *_: None, stop=threading.Event()
            )
        Path(folder, "steps").write_text(str(steps))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

Row = tuple[object, ...]


def draw(engine: "subprocess.Popen[str]", folder: Path, limit: int) -> bool:
    """Let a draw run, for so many steps; whether it got to its end."""
    assert engine.stdin is not None
    engine.stdin.write(f"{folder} {limit}\n")
    engine.stdin.flush()
    code = int(line_of(engine))
    assert code in (0, -9)
    return code == 0


def rows(folder: Path) -> list[Row]:
    """All that the ledger says of samples and documents, but which run it was and when."""
    with closing(open_database(Workspace(folder).database)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        samples = "SELECT id, source, digest, settings, seen, skipped FROM samples"
        found = [*conn.execute(samples), *conn.execute("SELECT * FROM documents ORDER BY id")]
    return [tuple(row) for row in found]


@pytest.mark.parametrize("whole", [True, False])
def test_killed_draws_leave_the_same_rows_as_an_undisturbed_one(
    whole: bool, tmp_path: Path, start_child: StartChild
) -> None:
    engine, rng = start_child(ENGINE, whole), random.Random(0)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert draw(engine, calm, NEVER)
    expected, steps = rows(calm), int((calm / "steps").read_text())
    assert len(expected) == 401
    halfway = 0
    for _ in range(KILLS):
        assert not draw(engine, killed, rng.randint(1, steps))
        halfway += len(rows(killed)) > 1
    assert halfway > KILLS // 2
    assert draw(engine, killed, NEVER)
    assert rows(killed) == expected
