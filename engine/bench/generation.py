"""Compares ways to write stories with the embedded model, side by side in one run.

The prompts, the protocol and the sampling are the demo's. Knows nothing of databases or terminals.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

import torch

from engine.backends.base import Reply, Request
from engine.backends.listed import Listed
from engine.backends.local import LocalBackend
from engine.demo.job import DEMO_MODEL, generation_settings
from engine.models import Model, load_model
from engine.packing import pad
from engine.requesting import PROMPTS
from engine.tokens import encode_prompt
from stores.planning import plan_stories
from stores.protocol import load_protocol
from stores.seeds import attempt_seed

Way = Callable[[Model, Sequence[Request], int], int]
"""Writes all requests, so many rows at once; returns how many tokens it wrote."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one way writes: medians over the repeats."""

    stories_per_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class GenerationBench:
    """Three ways to write the same stories. Ratios are of stories per second, within a repeat."""

    prompts: int
    workers: int
    repeats: int
    mode: str
    backend: Rate
    """The local backend."""
    alone: Rate
    """One prompt after another through `generate`."""
    padded: Rate
    """Batches of `workers` prompts in their order, each waiting for its slowest row."""
    times_alone: float
    times_padded: float

    columns: ClassVar[tuple[str, ...]] = ("way", "local backend is", "stories/s", "tokens/s")

    def rows(self) -> list[tuple[str, ...]]:
        """What a reader wants to see first, under `columns`."""
        ways = (
            (f"local backend ({self.mode}), {self.workers} rows", self.backend, 1.0),
            ("one prompt at a time", self.alone, self.times_alone),
            (f"padded batches of {self.workers}", self.padded, self.times_padded),
        )
        return [
            (way, f"{times:.1f} x", f"{rate.stories_per_s:.1f}", f"{rate.tokens_per_s:.0f}")
            for way, rate, times in ways
        ]


def measure_generation(
    *, prompts: int = 192, workers: int = 128, repeats: int = 3, alone: int = 16
) -> GenerationBench:
    """Let each way write, in turns, `repeats` times.

    One after another is the slow way: it writes `alone` of the stories, others at each repeat.
    """
    model = load_model(str(DEMO_MODEL), device="cpu", dtype="float32")
    requests = story_requests(prompts)
    write_with_backend(model, requests[:workers], workers)  # the first passes are slower
    rates: dict[str, list[Rate]] = {"backend": [], "alone": [], "padded": []}
    for repeat in range(repeats):
        first = repeat * alone % prompts
        few = (requests + requests)[first : first + alone]
        rates["backend"].append(_rate(write_with_backend, model, requests, workers))
        rates["alone"].append(_rate(write_padded, model, few, 1))
        rates["padded"].append(_rate(write_padded, model, requests, workers))
    return GenerationBench(
        prompts=prompts,
        workers=workers,
        repeats=repeats,
        mode=LocalBackend(model, workers=workers).mode,
        **{way: _median(found) for way, found in rates.items()},
        times_alone=_ratio(rates["backend"], rates["alone"]),
        times_padded=_ratio(rates["backend"], rates["padded"]),
    )


def story_requests(count: int) -> list[Request]:
    """Requests for the first stories that the demo plans, as it would ask for them."""
    protocol = load_protocol(DEMO_MODEL / "protocol")
    settings = generation_settings(protocol, "stories", len(protocol.topics))
    planned = plan_stories(
        emotions=settings.emotions,
        topics=settings.topics,
        per_topic=settings.per_topic,
        corpus=settings.corpus,
        seed=settings.seed,
    )
    prompt = protocol.prompts[PROMPTS["stories"]]
    return [
        Request(
            key=key,
            prompt=prompt.format(emotion=text.emotion, topic=text.topic, n=1),
            seed=attempt_seed(text.seed, 1),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
        for key, text in enumerate(planned[:count])
    ]


def write_with_backend(model: Model, requests: Sequence[Request], workers: int) -> int:
    """Through the local backend."""

    async def write() -> int:
        backend = LocalBackend(model, workers=workers)
        answers = [answer async for answer in backend.generate(Listed(requests))]
        return sum(a.output_tokens or 0 for a in answers if isinstance(a, Reply))

    return asyncio.run(write())


def write_padded(model: Model, requests: Sequence[Request], workers: int) -> int:
    """Through `generate`, `workers` prompts at once in the order given."""
    batches = [requests[i : i + workers] for i in range(0, len(requests), workers)]
    return sum(_write_batch(model, batch) for batch in batches)


def _write_batch(model: Model, batch: Sequence[Request]) -> int:
    prompts = [encode_prompt(model.tokenizer, request.prompt) for request in batch]
    ids, mask = (torch.from_numpy(part) for part in pad(prompts, model.pad_token, "left"))
    network: Any = model.model
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(batch[0].seed)
        written = network.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            top_p=batch[0].top_p,
            temperature=batch[0].temperature,
            max_new_tokens=batch[0].max_tokens,
            pad_token_id=model.pad_token,
        )
    return int((written[:, ids.shape[1] :] != model.pad_token).sum())


def _rate(way: Way, model: Model, requests: Sequence[Request], workers: int) -> Rate:
    start = time.perf_counter()
    tokens = way(model, requests, workers)
    seconds = time.perf_counter() - start
    return Rate(len(requests) / seconds, tokens / seconds)


def _median(rates: Sequence[Rate]) -> Rate:
    return Rate(
        median(rate.stories_per_s for rate in rates), median(rate.tokens_per_s for rate in rates)
    )


def _ratio(these: Sequence[Rate], those: Sequence[Rate]) -> float:
    pairs = zip(these, those, strict=True)
    return median(a.stories_per_s / b.stories_per_s for a, b in pairs)
