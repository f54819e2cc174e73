"""`generate` as a user meets it: keys, servers, quotas, costs, wrong values, a full disk."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from engine.bench.server import Script, Server, serve
from stores.database import open_database
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.test_cli import expect_error, run

SMALL = ("--emotions", "happy,sad", "--topics", 3, "--per-topic", 2)
KEY = "secret-key-4711-abcdefgh"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(Script()) as server:
        yield server


def openai(url: str) -> tuple[str, ...]:
    return ("--backend", "openai", "--model", "m", "--base-url", f"{url}/v1")


def generate(workspace: Path, *arguments: object) -> Result:
    return run("generate", "stories", *arguments, workspace=workspace)


def statuses(workspace: Path) -> dict[str, int]:
    with closing(open_database(Workspace(workspace).database, read_only=True)) as conn:
        query = "SELECT status, count(*) FROM stories GROUP BY status"
        return dict(conn.execute(query).fetchall())


@pytest.mark.parametrize("backend", ["gemini", "openai"])
def test_a_server_writes_what_is_planned_and_status_tells_what_it_took(
    backend: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    where = openai(server.url)
    if backend == "gemini":
        where = ("--backend", "gemini", "--base-url", server.url)
    done = generate(tmp_path, *SMALL, *where, "--price", 1, 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("12 stories written")
    assert "6 calls" in done.stdout
    assert "$0.0" in done.stdout
    shown = json.loads(run("status", "--json", workspace=tmp_path).stdout)
    (spent,) = shown["spending"]
    assert (spent["backend"], spent["replies"], spent["wrong_number"]) == (backend, 6, 0)
    assert spent["cost_usd"] == pytest.approx(
        (spent["prompt_tokens"] + 2 * spent["output_tokens"]) / 1e6
    )
    again = generate(tmp_path, *SMALL, *where)
    assert again.stdout.startswith("0 stories written")
    assert server.calls == 6


def test_what_was_refused_is_told_with_its_rate(tmp_path: Path) -> None:
    with serve(Script(faults={"refusal_text": 1.0})) as server:
        generate(tmp_path, *SMALL, *openai(server.url))
    shown = json.loads(run("status", "--json", workspace=tmp_path).stdout)
    (check,) = shown["checks"]
    assert (check["reason"], check["n"], check["judged"]) == ("refusal", 12, 24)
    assert check["rate"] == 0.5
    table = run("status", workspace=tmp_path).stdout
    assert "refusal" in table
    assert "50.00%" in table


def test_a_missing_key_is_one_sentence_and_plans_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    asked = generate(tmp_path, *SMALL, "--backend", "gemini")
    expect_error(asked, 1, "GEMINI_API_KEY", ".env")
    assert list(tmp_path.iterdir()) == []


def test_a_key_may_stand_in_a_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(f"GEMINI_API_KEY={KEY}\n")
    done = generate(tmp_path, *SMALL, "--backend", "gemini", "--base-url", server.url)
    assert done.exit_code == 0, done.output
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".env"]
    assert written
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_a_refused_key_stops_the_run_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with serve(Script(mode="unauthorised")) as server:
        asked = generate(tmp_path, *SMALL, "--backend", "gemini", "--base-url", server.url)
    assert asked.exit_code == 1
    assert "key" in asked.stderr.lower()
    assert KEY not in asked.output
    assert statuses(tmp_path) == {"pending": 12}


def test_credentials_in_an_address_are_kept_nowhere(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("//", f"//user:{KEY}@")
    assert generate(tmp_path, *SMALL, *openai(url)).exit_code == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    shown = run("sql", "SELECT settings FROM runs", workspace=tmp_path).stdout
    assert server.url.removeprefix("http://") in shown


def test_an_address_that_is_none_plans_nothing(tmp_path: Path) -> None:
    expect_error(generate(tmp_path, *SMALL, *openai("localhost:8000")), 1, "localhost:8000")
    with closing(open_database(Workspace(tmp_path).database, read_only=True)) as conn:
        assert conn.execute("SELECT count(*) FROM stories").fetchone()[0] == 0


def test_a_used_up_quota_stops_cleanly_with_the_command_that_goes_on(tmp_path: Path) -> None:
    script = Script(mode="daily_quota", after=3)
    with serve(script) as server:
        asked = generate(tmp_path, *SMALL, *openai(server.url), "--workers", 1)
    assert asked.exit_code == 1
    assert "quota" in asked.stderr
    assert "go on then with: " in asked.stderr
    assert statuses(tmp_path) == {"done": 6, "pending": 6}
    with closing(open_database(Workspace(tmp_path).database, read_only=True)) as conn:
        assert [row[0] for row in conn.execute("SELECT outcome FROM runs")] == ["stopped"]
        attempts = conn.execute("SELECT DISTINCT attempts FROM stories WHERE status = 'pending'")
        assert [row[0] for row in attempts] == [0]
    with serve(Script()) as server:
        assert generate(tmp_path, *SMALL, *openai(server.url)).exit_code == 0
    assert statuses(tmp_path) == {"done": 12}


def test_a_cost_limit_ends_the_run_cleanly(server: Server, tmp_path: Path) -> None:
    price = ("--price", 100, 200)
    asked = generate(tmp_path, *SMALL, *openai(server.url), *price, "--max-cost", 0.5)
    assert asked.exit_code == 0, asked.output
    assert "--max-cost 0.5" in asked.stderr
    found = statuses(tmp_path)
    assert found["done"] > 0
    assert found["pending"] > 0
    shown = json.loads(run("status", "--json", workspace=tmp_path).stdout)
    assert 0 < shown["spending"][0]["cost_usd"] <= 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--emotions", "happy,joyfull"), ("joyfull", "joyful")),
        (("--emotions", ","), ("emotion",)),
        (("--workers", "0"), ("--workers", "0")),
        (("--per-call", "0"), ("--per-call",)),
        (("--topics", "0"), ("--topics",)),
        (("--per-topic", "-1"), ("--per-topic",)),
        (("--max-attempts", "0"), ("--max-attempts",)),
        (("--limit", "-1"), ("--limit",)),
        (("--timeout", "0"), ("--timeout",)),
        (("--max-cost", "-1", "--price", "1", "1"), ("--max-cost", "-1")),
        (("--max-cost", "1"), ("--max-cost", "--price")),
        (("--price", "-1", "1"), ("--price",)),
        (("--price", "1", "1", "--max-cost", "nan"), ("--max-cost",)),
        (("--temperature", "nan"), ("--temperature",)),
        (("--temperature", "-1"), ("--temperature",)),
        (("--top-p", "0"), ("--top-p",)),
    ],
    ids=" ".join,
)
def test_a_value_that_makes_no_sense_is_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    place = ("--backend", "openai", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    expect_error(generate(tmp_path, *place, *arguments), 1, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["topics.txt", "emotions.tsv", "prompts/story.txt"])
def test_an_empty_protocol_file_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "protocol"
    shutil.copytree(ROOT / "data" / "protocol", folder)
    (folder / name).write_text("")
    asked = generate(tmp_path, *openai("http://127.0.0.1:9"), "--protocol", folder)
    expect_error(asked, 1, name)
    assert not Workspace(tmp_path).database.exists()


def test_a_ledger_of_a_newer_version_is_left_alone(server: Server, tmp_path: Path) -> None:
    with closing(open_database(Workspace(tmp_path).database)) as conn:
        conn.execute("UPDATE _sqlite_migrations SET name = 'm999_later' WHERE id = 1")
    asked = generate(tmp_path, *SMALL, *openai(server.url))
    expect_error(asked, 1, "newer version", "m999_later")
    assert server.calls == 0


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    generate(tmp_path / "first", *SMALL, *openai(server.url))  # everything is imported now
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # the file modes do not bind root
    try:
        asked = generate(folder, *SMALL, *openai(server.url))
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)
    expect_error(asked, 1, str(folder), "write")


def child(workspace: Path, url: str, *arguments: str) -> list[str]:
    what = ("--emotions", "happy,sad,calm,proud", "--topics", "10", "--per-topic", "2")
    place = ("--workspace", str(workspace), "generate", "stories")
    return [sys.executable, "cli.py", *place, *what, *openai(url), *arguments]


def test_a_full_disk_stops_the_run_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    database = Workspace(tmp_path).database
    open_database(database).close()
    room = database.stat().st_size + 150_000  # for texts: the tables are there

    def allow_little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    full = subprocess.run(
        child(tmp_path, server.url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=allow_little,
    )
    assert full.returncode == 1, full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert "emovec.db" in line
    assert "space" in line
    before = statuses(tmp_path)
    assert 0 < before["done"] < 80
    done = subprocess.run(child(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
    assert done.returncode == 0
    assert statuses(tmp_path) == {"done": 80}
    with closing(open_database(Workspace(tmp_path).database, read_only=True)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_commits_what_is_there_and_resumes(number: signal.Signals, tmp_path: Path) -> None:
    with serve(Script(latency_s=0.3)) as server:
        running = subprocess.Popen(
            child(tmp_path, server.url, "--workers", "2"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while server.answered < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
        began = time.monotonic()
        running.send_signal(number)
        _, told = running.communicate(timeout=20)
        assert time.monotonic() - began < 10
        assert running.returncode == 130, told
        assert "the same command goes on" in told
        found = statuses(tmp_path)
        assert found.keys() == {"done", "pending"}
        assert found["done"] >= 12
    with serve(Script()) as server:
        subprocess.run(child(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
    assert statuses(tmp_path) == {"done": 80}


def test_another_generator_is_not_mixed_in_unasked(server: Server, tmp_path: Path) -> None:
    limited = generate(tmp_path, *SMALL, *openai(server.url), "--limit", 4)
    assert limited.exit_code == 0
    other = (*SMALL, "--backend", "openai", "--model", "n", "--base-url", f"{server.url}/v1")
    expect_error(generate(tmp_path, *other), 1, "'main'", "m", "--mix-generators")
    assert generate(tmp_path, *other, "--mix-generators").exit_code == 0
    with closing(open_database(Workspace(tmp_path).database, read_only=True)) as conn:
        found = conn.execute("SELECT generator, count(*) FROM stories GROUP BY 1").fetchall()
    assert dict(found) == {"m": 4, "n": 8}


def test_neutral_dialogues_come_from_a_server_too(server: Server, tmp_path: Path) -> None:
    asked = run(
        *("generate", "neutral", "--topics", 3, "--per-topic", 2, *openai(server.url)),
        workspace=tmp_path,
    )
    assert asked.exit_code == 0, asked.output
    assert asked.stdout.startswith("6 dialogues written")


def test_stories_travel_through_files(server: Server, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    generate(here, *SMALL, *openai(server.url))
    for name in ("stories.jsonl", "stories.csv"):
        told = run("export", "stories", tmp_path / name, workspace=here)
        assert (told.exit_code, told.stdout) == (0, "")
        expect_error(run("export", "stories", tmp_path / name, workspace=here), 2, name, "--force")
    taken = run("import", "stories", tmp_path / "stories.jsonl", workspace=there)
    assert taken.stdout.startswith("12 stories taken, 0 there already")
    again = run("import", "stories", tmp_path / "stories.csv", workspace=there)
    assert again.stdout.startswith("0 stories taken, 12 there already")
    texts = [
        run("sql", "SELECT text FROM stories ORDER BY text", "--csv", workspace=w).stdout
        for w in (here, there)
    ]
    assert texts[0] == texts[1]


def test_a_corrupt_line_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    line = json.dumps({"emotion": "happy", "topic": "rain", "text": "It rained.", "generator": "m"})
    (tmp_path / "stories.jsonl").write_text("\n".join([line] * 6 + ['{"emotion": "hap']) + "\n")
    asked = run("import", "stories", tmp_path / "stories.jsonl", workspace=tmp_path)
    expect_error(asked, 1, "stories.jsonl", "line 7")
    with closing(open_database(Workspace(tmp_path).database, read_only=True)) as conn:
        tables = ("stories", "replies", "calls", "corpora")
        counts = [conn.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables]
    assert counts == [0, 0, 0, 0]


def test_a_stricter_filter_is_applied_to_what_was_paid_for(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "protocol"
    shutil.copytree(ROOT / "data" / "protocol", folder)
    generate(tmp_path, *SMALL, *openai(server.url), "--protocol", folder)
    with closing(open_database(Workspace(tmp_path).database, read_only=True)) as conn:
        texts = [row[0] for row in conn.execute("SELECT text FROM stories WHERE emotion = 'happy'")]
    word = max(texts[0].strip(".").split(), key=len).strip(',."')
    hit = sum(word in text for text in texts)
    lines = (folder / "leaks.tsv").read_text().splitlines()
    lines = [
        f"{x.rstrip()}" if not x.startswith("happy\t") else x.replace("\town", f", {word}\town")
        for x in lines
    ]
    (folder / "leaks.tsv").write_text("\n".join(lines) + "\n")
    told = run("reparse", "--protocol", folder, workspace=tmp_path)
    assert told.exit_code == 0, told.output
    assert f"leak {hit}" in told.stdout
    assert "--withdraw" in told.stderr
    assert statuses(tmp_path) == {"done": 12}
    assert run("reparse", "--protocol", folder, "--withdraw", workspace=tmp_path).exit_code == 0
    assert statuses(tmp_path) == {"done": 12 - hit, "pending": hit}
    calls = server.calls
    with serve(Script(by_seed=True)) as other:
        generate(tmp_path, *SMALL, *openai(other.url), "--protocol", folder)
        assert (server.calls, other.calls > 0) == (calls, True)
    assert statuses(tmp_path)["done"] >= 12 - hit
