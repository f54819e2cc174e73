"""The data sets of the hub on the loopback: sound ones, closed ones and broken ones."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from engine.sources.hub import SHARDS
from tests.engine.sources.hubs import Repository

PILE, CHATS = "someone/pile", "someone/chats"
GRANTED, OTHER = "hf_granted", "hf_other"
N_SHARDS, N_LINES = SHARDS + 2, 3_200


def lines(shard: int, count: int = N_LINES) -> bytes:
    rows = (
        {"text": f"text {number} of {shard}", "meta": {"set": f"part {number % 3}"}}
        for number in range(count)
    )
    return zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def chats(shard: int, count: int = 40) -> bytes:
    turns = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n} of {shard}."}]
        for n in range(count)
    ]
    file = io.BytesIO()
    table = {"conversation": turns, "language": ["English"] * count, "turn": [1] * count}
    pq.write_table(pa.table(table), file, row_group_size=10)
    return file.getvalue()


def shard(number: int) -> str:
    return f"train/{number:02}.jsonl.zst"


def configured(*names: str) -> bytes:
    cards = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl.zst\n" for name in names)
    return f"---\nconfigs:\n{cards}---\n".encode()


def repositories() -> dict[str, Repository]:
    return {
        PILE: Repository({shard(number): lines(number) for number in range(N_SHARDS)}),
        CHATS: Repository(
            {f"data/train-{number}-of-3.parquet": chats(number) for number in range(3)},
            gated=True,
            granted=frozenset({GRANTED}),
        ),
        "someone/splits": Repository({"a.jsonl.zst": lines(0, 5), "test.jsonl.zst": lines(1, 5)}),
        "someone/empty": Repository({"train.jsonl.zst": zstandard.compress(b"")}),
        "someone/weights": Repository({"README.md": b"# weights", "model.bin": b"1"}),
        "someone/torn": Repository({"train.jsonl.zst": lines(0)[:-200]}),
        "someone/damaged": Repository({shard(0): lines(0, 99), shard(1): b"no archive"}),
        "someone/two": Repository(
            {
                "README.md": configured("this", "that"),
                "this/a.jsonl.zst": lines(0, 5),
                "that/a.jsonl.zst": lines(1, 5),
            }
        ),
    }
