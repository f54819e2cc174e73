"""A backend's answer as the row that keeps it, with what it cost.

Knows nothing of what was asked for or how the answer is read.
"""

from engine.backends.base import Backend, Reply, Request
from stores.database import digest
from stores.prices import Price
from stores.replies import AskedFor, ReplyRow


def reply_row(
    answer: Reply,
    request: Request,
    backend: Backend,
    *,
    run_id: int | None,
    corpus: str,
    kind: AskedFor,
    price: Price | None,
    asked: int = 1,
) -> ReplyRow:
    """Everything that came back for `request`, before anything parses it."""
    return ReplyRow(
        run_id=run_id,
        corpus=corpus,
        kind=kind,
        prompt_sha=digest(request.prompt),
        backend=backend.name,
        model=backend.model,
        seed=request.seed,
        raw=answer.text,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        thinking_tokens=answer.thinking_tokens,
        cost_usd=_cost(answer, price),
        latency_s=answer.latency_s,
        provider_reason=answer.provider_reason,
        response_id=answer.response_id,
        model_version=answer.model_version,
        endpoint=answer.endpoint,
        asked=asked,
    )


def _cost(answer: Reply, price: Price | None) -> float | None:
    """US dollars; None where the price is not known or the tokens were not told."""
    if price is None or answer.prompt_tokens is None or answer.output_tokens is None:
        return None
    return price.cost(answer.prompt_tokens, answer.output_tokens, answer.thinking_tokens or 0)
