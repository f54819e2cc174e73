"""Keys and values of a block, kept and put in front of those of later tokens.

Stands in for the library's cache in one block and one launch. Knows nothing of prompts.
"""

from dataclasses import dataclass

from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Keys and values, each [rows, heads, tokens, width]."""


class KeysKnownError(Exception):
    """A block's keys are known, and nothing else was wanted. Caught where it is asked for."""


@dataclass(frozen=True, slots=True)
class Stems:
    """Keys and values of stems: `runs` times `groups` rows; `group` [n] says which is a row's."""

    pair: Pair
    groups: int
    group: Tensor

    def put_before(self, own: Tensor, which: int, runs: int) -> Tensor:
        """Keys (or values) [runs * n, heads, stem + tokens, width] of whole prompts."""
        kept = self.pair[which]
        stems = kept.view(-1, self.groups, *kept.shape[1:])
        if self.groups > 1:
            stems = stems.index_select(1, self.group.to(stems.device))
        stem = stems.shape[-2]
        rows, heads, tokens, width = own.shape
        # Heads within tokens, as projections leave them, so that whole tokens are copied.
        joined = own.new_empty(rows, stem + tokens, heads, width).transpose(1, 2)
        joined.view(runs, -1, *joined.shape[1:])[..., :stem, :] = stems
        joined[..., stem:, :] = own
        return joined


class Keys:
    """What a block asks for as its cache.

    Hands back `known` keys if there are, else the block's own behind their stems; keeps them.
    `seen` is the number of tokens before the states the block is given.
    """

    def __init__(
        self,
        seen: int,
        runs: int,
        *,
        stems: Stems | None = None,
        known: Pair | None = None,
        stop: bool = False,
    ) -> None:
        self.known = known
        self._seen, self._runs, self._stems, self._stop = seen, runs, stems, stop

    def update(self, keys: Tensor, values: Tensor, *_where: object, **_named: object) -> Pair:
        """Called by the block with its own keys and values; leaves it if they are all it is for."""
        if self.known is None:
            self.known = (self._join(keys, 0), self._join(values, 1))
        if self._stop:
            raise KeysKnownError
        return self.known

    def get_seq_length(self, *_where: object) -> int:
        """Asked by blocks that count positions themselves."""
        return self._seen

    def _join(self, own: Tensor, which: int) -> Tensor:
        return own if self._stems is None else self._stems.put_before(own, which, self._runs)
