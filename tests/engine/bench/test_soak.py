"""A whole plan, in small: planned once, written once, cheaply, without growing."""

from pathlib import Path

from engine.bench.soak import measure_soak


def test_a_plan_is_written_within_its_bounds(tmp_path: Path) -> None:
    found = measure_soak(tmp_path, topics=2, per_topic=12, workers=64, dialect="openai")
    assert (found.stories, found.done) == (171 * 2 * 12, 171 * 2 * 12)
    assert (found.calls, found.server_calls, found.replan_added) == (342, 342, 0)
    assert found.rejections == {}
    # bounds with room for a busy machine; the figures of an idle one stand in the README
    assert found.cpu_ms_per_story < 2.0
    assert found.most_open_files < 64 + 64
    assert found.memory_growth_mib < 64
    assert ("stories written / planned", "4104 / 4104") in found.rows()
