"""What a loopback server is told to do wrong, and which prompts it does wrong by.

Knows nothing of sockets and dialects. Which fault hits a prompt follows from (seed, prompt) alone,
so that two servers with one script misbehave alike, and a run begun again meets the same faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

REFUSED = (
    "rate_limit",  # 429 without a hint of how long
    "rate_limit_delay",  # 429 that says to wait `delay_s`
    "minutes_limit",  # 429 that names a quota per minute
    "error_500",
    "unavailable",  # 503, overloaded
    "bad_gateway",  # 502 with a page of HTML
    "echo_key",  # 500 with a page that repeats the key of the request
)
SENT_BADLY = (
    "hang",  # no byte until the client leaves
    "disconnect",  # closed before any byte
    "broken_body",  # closed before the length that the header promises
    "truncated_json",  # a whole body whose JSON ends in the middle
    "slow_drip",  # the right answer, a little at a time, over `drip_s`
    "duplicate_delivery",  # the right answer twice in a row on one connection
)
SPOILT = (
    "empty_candidates",
    "empty_text",
    "token_limit",  # cut in the middle of the last text
    "blocked_answer",  # by a filter for safety; for half of the prompts, with a part of the text
    "recitation",
    "unknown_finish",
    "refusal_text",
    "junk_text",
)
TRANSIENT = (*REFUSED, *SENT_BADLY, *SPOILT)
"""Faults of the first `times` requests with a prompt, after which the prompt is answered."""
PERMANENT = ("blocked_prompt", "bad_request")
"""Faults of every request with a prompt."""
MODES = ("daily_quota", "unauthorised", "forbidden", "no_such_model", "disabled")
"""How a whole server refuses, once it has given `after` right answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How a loopback server behaves. Raises ValueError for a fault or mode that does not exist."""

    seed: int = 0
    model: str = "loopback"
    """What GET /v1/models lists; any other model is answered too."""
    latency_s: float = 0.0
    """How long every answer (200) takes; errors come at once."""
    room: int | None = None
    """More requests at once than this get a `rate_limit`; None: no limit."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Share of the prompts that each fault hits, by its name; together at most 1."""
    times: int = 1
    """How many requests with one prompt a transient fault hits before it heals."""
    delay_s: float = 0.2
    drip_s: float = 0.5
    thinking_tokens: int = 0
    """Tokens of thinking that every answer reports; 0: the answer does not mention them."""
    by_seed: bool = False
    """Answer the same prompt otherwise when its seed is another."""
    mode: str | None = None
    after: int = 0
    """How many right answers the server gives before its mode begins."""
    remember: bool = False
    """Count how often each prompt was received, to be read as `sightings`."""

    def __post_init__(self) -> None:
        known = (*TRANSIENT, *PERMANENT)
        if unknown := sorted(self.faults.keys() - set(known)):
            raise ValueError(f"unknown fault {unknown[0]!r}; known: {', '.join(known)}")
        shares = self.faults.values()
        if any(share < 0 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError("the shares of the faults must be 0 or more, together at most 1")
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; known: {', '.join(MODES)}")

    def fault(self, prompt: str) -> str | None:
        """Which fault hits this prompt."""
        point = self.draw(prompt, "fault")
        for name, share in self.faults.items():
            if point < share:
                return name
            point -= share
        return None

    def draw(self, prompt: str, what: str) -> float:
        """A number in [0, 1) that only the seed, the prompt and what it is for decide."""
        words = f"{self.seed}\n{what}\n{prompt}".encode()
        return int.from_bytes(blake2b(words, digest_size=6).digest()) / 2**48
