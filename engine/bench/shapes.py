"""Shapes of models to draw random weights for, each with where its sizes are from.

Knows nothing of weights or speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import Gemma4TextConfig, LlamaConfig, PreTrainedConfig

from engine.models import parse_layers
from stores.errors import UsageError

PAD, BOS, EOS = 0, 1, 2
FIRST_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """An architecture and its sizes."""

    name: str
    family: type[PreTrainedConfig]
    sizes: Mapping[str, Any] = field(repr=False)
    source: str
    """Where the sizes are from."""
    layers: str
    """Those read where none are asked for, as `parse_layers` takes them."""
    saved: bool
    """Small enough to be written as a checkpoint and loaded as a user's is."""

    def configuration(self) -> PreTrainedConfig:
        """The configuration a checkpoint of this shape would bring."""
        family: Any = self.family
        made: PreTrainedConfig = family(
            **self.sizes, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, dtype="bfloat16"
        )
        return made

    def wanted(self, asked: str | None) -> tuple[int, ...]:
        """The layers asked for, or the shape's own. Raises UsageError.

        The last block is refused: `output_hidden_states`, which the plain loop reads, shows it
        only after the final norm.
        """
        n_layers = self.configuration().num_hidden_layers
        layers = parse_layers(asked or self.layers, n_layers)
        if layers[-1] == n_layers - 1:
            raise UsageError(
                f"layers {asked}: the plain loop sees the last block, {layers[-1]}, only after "
                f"the final norm; choose layers up to {layers[-1] - 1}"
            )
        return layers


def find_shape(name: str) -> Shape:
    """Raises UsageError for a name that is not in SHAPES."""
    if name not in SHAPES:
        raise UsageError(f"shape {name!r}: unknown; use one of {', '.join(SHAPES)}")
    return SHAPES[name]


_LISTED = (
    Shape(
        name="toy",
        family=LlamaConfig,
        sizes={
            "vocab_size": 1024,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
        },
        source="made up, for tests",
        layers="0-3",
        saved=True,
    ),
    Shape(
        name="small",
        family=LlamaConfig,
        sizes={
            "vocab_size": 32_000,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 16,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
        },
        source="made up: a Llama of 83 million parameters for machines without a card",
        layers="0-10",
        saved=True,
    ),
    Shape(
        name="llama-3.1-8b",
        family=LlamaConfig,
        sizes={
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        source="config.json of meta-llama/Llama-3.1-8B",
        layers="every:3",
        saved=False,
    ),
    Shape(
        name="gemma-4-31b",
        family=Gemma4TextConfig,
        sizes={
            "vocab_size": 262_144,
            "hidden_size": 5376,
            "intermediate_size": 21_504,
            "num_hidden_layers": 60,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "global_head_dim": 512,
            "num_global_key_value_heads": 4,
            "attention_k_eq_v": True,
            "sliding_window": 1024,
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 262_144,
        },
        # With these sizes the text model has the 30.7 billion parameters that are published.
        source="text_config of google/gemma-4-31B as published: 60 blocks, five sliding to one "
        "global, 16 (global 4) key-value heads, keys as values in global blocks",
        layers="every:3",
        saved=False,
    ),
)
SHAPES = {shape.name: shape for shape in _LISTED}
