"""The generation bench asks as the demo does, and compares ways that write the same stories."""

from engine.bench.generation import measure_generation, story_requests
from engine.demo.job import DEMO_MODEL, generation_settings
from stores.protocol import load_protocol


def test_requests_are_those_of_the_demo() -> None:
    protocol = load_protocol(DEMO_MODEL / "protocol")
    settings = generation_settings(protocol, "stories", 3)
    requests = story_requests(180)
    assert [each.key for each in requests] == list(range(180))
    assert len({each.seed for each in requests}) == 180
    assert f"about {protocol.topics[0]}. The feeling is {protocol.names[170]}." in (
        requests[170].prompt
    )
    assert protocol.topics[1] in requests[171].prompt
    assert {(each.max_tokens, each.top_p, each.temperature) for each in requests} == {
        (settings.max_tokens, settings.top_p, settings.temperature)
    }


def test_every_way_is_measured_in_one_run() -> None:
    found = measure_generation(prompts=4, workers=4, repeats=1, alone=1)
    assert (found.prompts, found.workers, found.repeats) == (4, 4, 1)
    assert found.mode == "continuous"
    rates = (found.backend, found.alone, found.padded)
    assert all(rate.tokens_per_s > rate.stories_per_s > 0 for rate in rates)
    assert found.times_alone == found.backend.stories_per_s / found.alone.stories_per_s
    assert found.times_padded == found.backend.stories_per_s / found.padded.stories_per_s
