"""Finds the text decoder of a network, and the decoder blocks in it, by class.

Never by the names or numbers in module names, and never by counting them: a vision tower may have
as many blocks. Knows nothing of weights, devices or files.
"""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from stores.errors import ModelError


def find_decoder(network: PreTrainedModel) -> nn.Module:
    """The text decoder without its unembedding, below every wrapper around it."""
    text = type(network.config.get_text_config())
    outer: Any = None
    found: Any = network
    while found is not outer:
        outer, found = found, _inside(found, text)
    return cast("nn.Module", found)


def _inside(outer: Any, text: type) -> Any:
    """What `outer` wraps: what it names its decoder, else the one network of text that it holds."""
    named = outer.get_decoder()
    if named is not outer and isinstance(named, PreTrainedModel):
        return named
    networks = [child for child in outer.children() if isinstance(child, PreTrainedModel)]
    held = [child for child in networks if type(child.config) is text]
    return held[0] if len(held) == 1 else outer


def find_blocks(network: PreTrainedModel, n_layers: int) -> tuple[nn.Module, ...]:
    """The decoder blocks: the one list of `n_layers` of them in the text decoder.

    Raises ModelError when there is none, or more than one that may be meant.
    """
    decoder = find_decoder(network)
    own, deeper = (
        [list(m) for m in modules if isinstance(m, nn.ModuleList) and len(m) == n_layers]
        for modules in (decoder.children(), decoder.modules())
    )
    # Code from elsewhere may lack the class that the library gives its own blocks.
    for found in (_of_blocks(own), own, _of_blocks(deeper)):
        if len(found) == 1:
            return tuple(found[0])
        if found:
            break
    raise ModelError(
        f"model {network.name_or_path}: {len(found)} lists of {n_layers} decoder blocks found "
        f"in {type(network).__name__}, expected 1; this architecture is not supported"
    )


def _of_blocks(lists: list[list[nn.Module]]) -> list[list[nn.Module]]:
    return [each for each in lists if all(isinstance(m, GradientCheckpointingLayer) for m in each)]
