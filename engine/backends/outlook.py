"""What a user is told about servers: a few words while they are asked, one line when it is over.

Knows their health and nothing of requests.
"""

import math
from collections.abc import Sequence

from engine.backends.health import Server
from stores.errors import BackendError, QuotaUsedUp


def describe(servers: Sequence[Server], now: float) -> str:
    """What to know of these servers right now; "" when all is well."""
    up = [server for server in servers if server.up]
    words = []
    if len(up) < len(servers):
        some = f"{len(up)} of {len(servers)} servers answer"
        words.append(some if len(servers) > 1 else "the server does not answer")
    awake = [server for server in up if server.rests_until <= now]
    if awake and any(server.pace.held_back for server in up):
        calls = sum(int(server.pace.window) for server in awake)
        words.append(f"{calls} call{'s' * (calls != 1)} at once")
    elif up and not awake:
        first = min(up, key=lambda server: server.rests_until)
        wish = " as the server asks" if first.asked_to_wait else ""
        words.append(f"waiting {math.ceil(first.rests_until - now)} s{wish}")
    return ", ".join(words)


def closed_error(servers: Sequence[Server]) -> BackendError:
    """Every server has refused for good; QuotaUsedUp if time alone opens one of them again."""
    if any(server.closed and server.closed.quota for server in servers):
        return QuotaUsedUp(
            f"{_reasons(servers)}; run the same command again when the quota has reset"
        )
    return BackendError(
        f"{_reasons(servers)}; check the key, the model and the account, then run the same "
        "command again"
    )


def down_error(servers: Sequence[Server], seconds: float) -> BackendError:
    """No server has been up for so long."""
    return BackendError(
        f"{_reasons(servers)}; no answer for {seconds:.0f} s: check the address and the server, "
        "then run the same command again"
    )


def refused_error(server: Server, refused: int, reason: str) -> BackendError:
    """Nothing but refusals, and so many of them that the requests cannot be at fault."""
    return BackendError(
        f"{server.endpoint.name}: refused all of {refused} requests: {reason}; check the model "
        "and the settings, then run the same command again"
    )


def _reasons(servers: Sequence[Server]) -> str:
    return "; ".join(f"{server.endpoint.name}: {server.reason}" for server in servers)
