"""Judges a forecast: what cannot fit, what may not, and what to do about it. Counts nothing."""

from dataclasses import asdict
from typing import Any

from engine.forecasting.forecast import BATCH, WAITING_WEIGHTS, WEIGHTS, Forecast
from engine.forecasting.rooms import Room, size
from engine.placement import SPARE
from engine.weights import NF4
from stores.errors import NoRoom

ROOMS = {"disk", "download", "card", "host"}


def refusal(forecast: Forecast) -> str | None:
    """The first thing that cannot fit, by how much, and what to do; None when all may fit.

    A batch that is too large for a card is no reason: the card says so, and the run goes on with
    less. A CPU's memory that runs out ends the process, so there it is one.
    """
    judges = (_refuse_disk, _refuse_download, _refuse_card, _refuse_host)
    return next((line for judge in judges if (line := judge(forecast))), None)


def require_fit(forecast: Forecast) -> None:
    """Raise NoRoom with the refusal, if there is one."""
    if line := refusal(forecast):
        raise NoRoom(line)


def cautions(forecast: Forecast) -> list[str]:
    """What the user should know although it is no reason to refuse."""
    room = forecast.card
    if room is None or not room.short or _refuse_card(forecast):
        return []
    fitting = _fitting_tokens(forecast, room)
    advice = f"about {fitting} do: --tokens-per-batch {fitting} saves the tries"
    return [
        f"a batch of {forecast.batch_tokens} tokens may not fit the card; "
        f"{advice if fitting else 'the weights leave too little for any'}"
    ]


def table(forecast: Forecast) -> list[tuple[str, str, str, str]]:
    """(thing, needed, there, where from), in the order to print."""
    rows = [
        (
            "texts to read",
            f"{forecast.texts:,}",
            "",
            f"chunks that lack a layer: {forecast.chunks}",
        ),
        ("tokens", f"about {forecast.tokens:,}", "", forecast.tokens_source),
        ("time", duration(forecast.seconds), "", forecast.rate_source),
    ]
    for room in forecast.rooms:
        rows.append((room.thing, size(room.needed), size(room.there), room.source))
        parts = [part for part in room.parts if part.bytes]
        rows += [(f"  {part.name}", size(part.bytes), "", part.source) for part in parts]
    rows.append(("written already", "", size(forecast.written_bytes), "receipts"))
    return rows


def document(forecast: Forecast) -> dict[str, Any]:
    """Everything as plain values: bytes, tokens, seconds."""
    rooms = {
        room.thing.replace(" ", "_"): {**asdict(room), "needed": room.needed, "short": room.short}
        for room in forecast.rooms
    }
    plain = {key: value for key, value in asdict(forecast).items() if key not in ROOMS}
    rate = forecast.tokens_per_second
    verdict = {"refusal": refusal(forecast), "cautions": cautions(forecast)}
    return {**plain, "tokens_per_second": rate, **rooms, **verdict}


def duration(seconds: float) -> str:
    """For people: '12 s', '34 min', '5.6 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _refuse_disk(forecast: Forecast) -> str | None:
    room = forecast.disk
    if not room.short:
        return None
    return (
        f"disk: {_shortage(room)}; make room, choose a --workspace on another disk, or fewer "
        f"--layers (now {len(forecast.layers)})"
    )


def _refuse_download(forecast: Forecast) -> str | None:
    room = forecast.download
    if room is None or not room.short:
        return None
    return f"download: {_shortage(room)}; make room, or set HF_HOME to a folder on another disk"


def _refuse_card(forecast: Forecast) -> str | None:
    """The rule of the loader: weights may fill a card but for a share that is left to batches."""
    room = forecast.card
    weights, fillable = (room.part(WEIGHTS), int(room.there * (1 - SPARE))) if room else (0, 0)
    if room is None or weights <= fillable:
        return None
    smaller = "" if _is_small(forecast) else "--quantize 4bit, "
    return (
        f"card memory: {size(weights)} of weights of model {forecast.model} in {forecast.dtype}, "
        f"{size(fillable)} may be filled ({room.source}), {size(weights - fillable)} too little; "
        f"use {smaller}another card or a smaller model"
    )


def _refuse_host(forecast: Forecast) -> str | None:
    room = forecast.host
    if not room.short:
        return None
    return f"host memory: {_shortage(room)}; {_advise_host(forecast, room)}"


def _advise_host(forecast: Forecast, room: Room) -> str:
    fitting = _fitting_tokens(forecast, room)
    if room.part(BATCH) and fitting:
        return f"use --tokens-per-batch {fitting}"
    if room.part(WAITING_WEIGHTS):
        return "use a smaller model, or leave out --offload and use --quantize 4bit"
    if room.part(WEIGHTS) < room.there:
        return f"use fewer --layers at a time (now {len(forecast.layers)})"
    return (
        "use a smaller model" if _is_small(forecast) else "use --quantize 4bit or a smaller model"
    )


def _shortage(room: Room) -> str:
    largest = max(room.parts, key=lambda part: part.bytes)
    return (
        f"{size(room.needed)} are needed ({largest.name}: {size(largest.bytes)}), "
        f"{size(room.there)} are there ({room.source}), {size(room.short)} too little"
    )


def _fitting_tokens(forecast: Forecast, room: Room) -> int:
    """Tokens of the largest batch for which the rest of `room` suffices; 0 when there is none."""
    batch = room.part(BATCH)
    left = room.there - (room.needed - batch)
    return max(left, 0) * forecast.batch_tokens // max(batch, 1)


def _is_small(forecast: Forecast) -> bool:
    return forecast.dtype.startswith(NF4)
