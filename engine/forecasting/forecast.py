"""What an extraction will take, before a weight is read: disk, memory and time.

Only what is still to be done counts. Texts have to be planned; a forecast itself writes nothing.
Knows nothing of whether that is too much, or of printing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.budget import open_budget
from engine.extraction import ExtractionSettings
from engine.forecasting.backlog import Backlog, TokenGuess, find_backlog, guess_tokens
from engine.forecasting.download import download_room
from engine.forecasting.machine import Card, Machine, device_name, inspect_machine, multiplying_rate
from engine.forecasting.rooms import Part, Room
from engine.forecasting.sketch import Effort, Sketch, rehearse, sketch_model
from engine.loading import LazyModel
from engine.placement import SPARE, choose_device
from engine.weights import DTYPES, NF4
from stores.chunks import QUEUE
from stores.database import Connection
from stores.rates import known_rate
from stores.workspace import Workspace

SLACK = 1.25
"""What an allocator takes for a byte of a batch: rounding, gaps, workspace of the kernels."""
LIBRARIES = 256 << 20
"""Assumed bytes that kernels and libraries take on a card."""
SHARE = 0.5
"""Assumed share of the rate of plain matrix products at which texts are read."""
RECEIPT_BYTES, ROW_BYTES, TOKEN_BYTES = 250, 120, 40
"""In the ledger, for a receipt and for what a row gains; in memory, for a token of a list."""
WEIGHTS, BATCH, WAITING_WEIGHTS = "weights", "batch", "weights that wait here"
"""Parts that decide what to advise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is left to do, what that takes and what is there; bytes, tokens and seconds."""

    model: str
    dtype: str
    layers: tuple[int, ...]
    texts: int
    chunks: int
    files: int
    tokens: int
    tokens_source: str
    tokens_per_batch: int
    """The budget of one batch; a corpus of less than that makes smaller ones."""
    batch_tokens: int
    """The largest batch to come, of which `rooms` speak."""
    written_bytes: int
    """Chunk files that are there already and count."""
    disk: Room
    download: Room | None
    host: Room
    card: Room | None
    seconds: float
    """Of reading; the model's loading is left out."""
    rate_source: str

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Disk, the hub's cache if weights are missing, card memory on a card, host memory."""
        return tuple(room for room in (self.disk, self.download, self.card, self.host) if room)

    @property
    def tokens_per_second(self) -> float:
        """What `seconds` come to."""
        return self.tokens / self.seconds if self.seconds else 0.0


def forecast(
    conn: Connection,
    workspace: Workspace,
    settings: ExtractionSettings,
    model: LazyModel,
    *,
    machine: Machine | None = None,
) -> Forecast:
    """Work out what reading the planned texts still takes; no weight is read, nothing is written.

    Raises NotReady when nothing was ever planned, ModelError when the model cannot be described.
    """
    machine = machine or inspect_machine(workspace.root)
    checkpoint, dtype, device = model.checkpoint, model.compute_dtype, choose_device(model.device)
    sketch = sketch_model(checkpoint, dtype, trust_remote_code=model.trust_remote_code)
    backlog = find_backlog(conn, workspace, settings, checkpoint.d_model)
    guess = guess_tokens(conn, backlog, sketch.model, settings)
    budget = open_budget(
        conn,
        settings.tokens_per_batch,
        model=f"{checkpoint.name} {dtype}",
        device=f"cuda:{_index(device)}" if device.type == "cuda" else str(device),
    )
    batch = max(min(budget.tokens, guess.largest_chunk), 1)
    effort = rehearse(sketch, settings.layers, batch, max(guess.longest, 1))
    memory = _Memory(sketch, effort, _buffers(backlog, settings, guess, checkpoint.d_model))
    cards = _cards_for(device, machine, named=model.device != "auto")
    host, card = memory.rooms(machine, cards, offload=model.offload)
    rate, rate_source = _find_rate(conn, model, effort, settings.layers[-1])
    return Forecast(
        model=checkpoint.name,
        dtype=dtype,
        layers=settings.layers,
        texts=backlog.texts,
        chunks=len(backlog.chunks),
        files=backlog.files,
        tokens=guess.tokens,
        tokens_source=guess.source,
        tokens_per_batch=budget.tokens,
        batch_tokens=effort.tokens,
        written_bytes=backlog.written_bytes,
        disk=_disk(backlog, machine),
        download=download_room(checkpoint, sketch.parameters),
        host=host,
        card=card,
        seconds=guess.work / rate,
        rate_source=rate_source,
    )


def reading_place(dtype: str, device: torch.device) -> str:
    """Compute type and device as one name: what a rate of reading was measured with."""
    return f"{dtype} on {device_name(device)}"


def _disk(backlog: Backlog, machine: Machine) -> Room:
    ledger = backlog.files * RECEIPT_BYTES + backlog.texts * ROW_BYTES
    parts = (
        Part("chunk files", backlog.write_bytes, f"{backlog.files} files that are missing"),
        Part("files they replace", -backlog.replaced_bytes, "their size"),
        Part("ledger", ledger, f"assumed: {RECEIPT_BYTES} B a file, {ROW_BYTES} B a text"),
    )
    return Room("disk", machine.disk, "free where the workspace is", parts)


def _buffers(
    backlog: Backlog, settings: ExtractionSettings, guess: TokenGuess, d_model: int
) -> tuple[Part, ...]:
    layers = max((len(plan.layers_missing) for _, plan in backlog.chunks), default=0)
    chunk = backlog.chunk_rows * (d_model + 1) * layers * 4
    at_once = QUEUE + 2
    return (
        Part("chunks on their way", at_once * chunk, f"{at_once} of {layers} layers, float32"),
        Part("tokens of a chunk", guess.largest_chunk * TOKEN_BYTES, f"assumed: {TOKEN_BYTES} B"),
    )


def _cards_for(device: torch.device, machine: Machine, *, named: bool) -> tuple[Card, ...]:
    if device.type != "cuda":
        return ()
    if not named:
        return machine.cards
    return tuple(card for card in machine.cards if card.index == _index(device))


def _index(device: torch.device) -> int:
    return device.index or 0


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is held where."""

    sketch: Sketch
    effort: Effort
    buffers: tuple[Part, ...]

    def rooms(
        self, machine: Machine, cards: Sequence[Card], *, offload: bool
    ) -> tuple[Room, Room | None]:
        """(host, card or None)."""
        host, source = machine.memory, machine.memory_source
        if not cards:
            held = (self._weights(self.sketch.weight_bytes), self._batch())
            return Room("host memory", host, source, (*held, *self.buffers)), None
        free = self._free(cards)
        fits = int(free * (1 - SPARE)) if offload else self.sketch.weight_bytes
        there = min(self.sketch.weight_bytes, fits)
        parts = (self._loading(), *self.buffers)
        if waiting := self.sketch.weight_bytes - there:
            parts = (Part(WAITING_WEIGHTS, waiting, "--offload: what no card holds"), *parts)
        libraries = Part("libraries", LIBRARIES, "assumed, beside the context that is there")
        held = (self._weights(there), self._batch())
        names = ", ".join(f"{card.name} {card.index}" for card in cards)
        return (
            Room("host memory", host, source, parts),
            Room("card memory", free, f"free on {names}", (*held, libraries)),
        )

    def _free(self, cards: Sequence[Card]) -> int:
        """Of the first card that holds all weights, else of all cards together."""
        enough = self.sketch.weight_bytes / (1 - SPARE)
        return next((c.free for c in cards if c.free >= enough), sum(c.free for c in cards))

    def _weights(self, held: int) -> Part:
        return Part(WEIGHTS, held, f"the configuration, in {self.sketch.model.dtype}")

    def _batch(self) -> Part:
        how = "assumed for" if self.effort.assumed else "a pass without weights of"
        source = f"{how} {self.effort.tokens} tokens, x {SLACK}"
        return Part(BATCH, round(self.effort.peak_bytes * SLACK), source)

    def _loading(self) -> Part:
        return Part("loading", self.sketch.largest_bytes, "assumed: the largest tensor at a time")


def _find_rate(
    conn: Connection, model: LazyModel, effort: Effort, deepest: int
) -> tuple[float, str]:
    """(tokens a second up to layer `deepest`, where that comes from)."""
    device, dtype = choose_device(model.device), model.compute_dtype
    where = reading_place(dtype, device)
    if known := known_rate(conn, model.checkpoint.weights_sha, where):
        scaled = known.per_second * (known.layer + 1) / (deepest + 1)
        return scaled, f"run {known.run_id}: {known.tokens} tokens up to layer {known.layer}"
    products = multiplying_rate(device, DTYPES[dtype.removeprefix(NF4)])
    source = (
        f"no earlier run to go by: {products / 1e9:.0f} GFLOP/s of matrix products measured, "
        f"{SHARE:.0%} of it assumed"
    )
    return products * SHARE * effort.tokens / max(effort.flops, 1), source
