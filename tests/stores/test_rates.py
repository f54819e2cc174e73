"""A rate is found again for the same weights in the same place, the latest first."""

from stores.database import Connection
from stores.rates import ANALYSIS, KnownRate, known_rate, rate_metric
from stores.results import open_run, publish


def read(conn: Connection, revision: str, where: str, seconds: float) -> int:
    run = open_run(conn, "extract", {}, model="m", model_revision=revision)
    metric = rate_metric(tokens=600, seconds=seconds, layer=7, where=where)
    publish(conn, run, "m", "toy", ANALYSIS, [metric])
    return run


def test_the_last_run_with_the_same_weights_in_the_same_place_counts(conn: Connection) -> None:
    assert known_rate(conn, "sha256:a", "float32 on cpu") is None
    read(conn, "sha256:a", "float32 on cpu", 6.0)
    last = read(conn, "sha256:a", "float32 on cpu", 3.0)
    read(conn, "sha256:b", "float32 on cpu", 1.0)
    read(conn, "sha256:a", "bfloat16 on cpu", 1.0)
    assert known_rate(conn, "sha256:a", "float32 on cpu") == KnownRate(last, 200.0, 7, 600)
