"""Tiny checkpoints with random weights, saved as a user's would be and loaded by path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

tf: Any = transformers
PAD, BOS, EOS = 0, 1, 2
WINDOW = 16
Side = Literal["left", "right"]
SENTENCES = (
    "The letter lay on the table and nobody wanted to open it.",
    "She walked along the river until the lamps came on.",
    "He counted the coins twice, then put them back in the jar.",
    "Rain tapped on the window while the kettle began to sing.",
    "They sat in the old kitchen and said nothing for an hour.",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}Human: {{ m['content'] }}\n"
    "{% else %}Assistant: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def text_of(words: int, start: int = 0) -> str:
    """Plain words out of the sentences, as many as asked, another text for another start."""
    every = " ".join(SENTENCES).split()
    return " ".join(every[(start * 7 + i) % len(every)] for i in range(words))


def build_tokenizer(*, chat: bool = True, padding_side: Side = "right") -> PreTrainedTokenizerFast:
    """Byte-level BPE with pad, bos, eos = 0, 1, 2, and a post-processor that adds bos."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=CHAT_TEMPLATE if chat else None,
        padding_side=padding_side,
    )
    return tokenizer


SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    # So wide that every block changes the stream much: with less, tests would be blind.
    "initializer_range": 0.2,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
ALTERNATING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
GEMMA4 = SHAPE | ALTERNATING | {"global_head_dim": 16, "hidden_size_per_layer_input": 0}


def _llama(v: int) -> Any:
    return tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=v, **SHAPE))


def _mistral(v: int) -> Any:
    return tf.MistralForCausalLM(tf.MistralConfig(vocab_size=v, sliding_window=WINDOW, **SHAPE))


def _mistral3_wrapper(v: int) -> Any:
    """A wrapper that the library has no causal form of."""
    tower = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 8,
        "image_size": 16,
        "patch_size": 8,
    }
    text = tf.MistralConfig(vocab_size=v, sliding_window=None, **SHAPE)
    config = tf.Mistral3Config(text_config=text, vision_config=tower, image_token_index=v - 1)
    return tf.Mistral3ForConditionalGeneration(config)


def _qwen3(v: int) -> Any:
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(vocab_size=v, **SHAPE))


def _qwen3_moe(v: int) -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(vocab_size=v, **SHAPE, **experts))


def _gemma2(v: int) -> Any:
    caps = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0}
    config = tf.Gemma2Config(vocab_size=v, query_pre_attn_scalar=8, **SHAPE, **ALTERNATING, **caps)
    return tf.Gemma2ForCausalLM(config)


def _gemma3_text(v: int) -> Any:
    return tf.Gemma3TextConfig(vocab_size=v, query_pre_attn_scalar=8, **SHAPE, **ALTERNATING)


def _gemma3(v: int) -> Any:
    return tf.Gemma3ForCausalLM(_gemma3_text(v))


def _gemma3_wrapper(v: int) -> Any:
    tower = tf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    config = tf.Gemma3Config(
        text_config=_gemma3_text(v),
        vision_config=tower,
        mm_tokens_per_image=4,
        image_token_index=v - 1,
        boi_token_index=v - 2,
        eoi_token_index=v - 3,
    )
    return tf.Gemma3ForConditionalGeneration(config)


def _gemma4(v: int) -> Any:
    return tf.Gemma4ForCausalLM(tf.Gemma4TextConfig(vocab_size=v, **GEMMA4))


def _gemma4_wrapper(v: int) -> Any:
    tower = tf.Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        patch_size=8,
        position_embedding_size=64,
    )
    config = tf.Gemma4Config(
        text_config=tf.Gemma4TextConfig(vocab_size=v, **GEMMA4), vision_config=tower
    )
    return tf.Gemma4ForConditionalGeneration(config)


def _gemma4_shared(v: int) -> Any:
    """Per-layer embeddings; the last two blocks use the keys and values of the first two."""
    extra = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    shape = GEMMA4 | extra | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": v}
    return tf.Gemma4ForCausalLM(tf.Gemma4TextConfig(vocab_size=v, **shape))


def _gpt_oss(v: int) -> Any:
    """Attention sinks, sliding windows, experts."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    shape = SHAPE | ALTERNATING | experts | {"rope_parameters": ROPE}
    return tf.GptOssForCausalLM(tf.GptOssConfig(vocab_size=v, **shape))


def _llama4(v: int) -> Any:
    """Attention in chunks of 16 tokens in three blocks of four, experts."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 64}
    shape = SHAPE | experts | {"attention_chunk_size": WINDOW, "floor_scale": 32}
    return tf.Llama4ForCausalLM(tf.Llama4TextConfig(vocab_size=v, **shape))


def _apertus(v: int) -> Any:
    return tf.ApertusForCausalLM(tf.ApertusConfig(vocab_size=v, rope_parameters=ROPE, **SHAPE))


def _gpt2(v: int) -> Any:
    shape = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=v, **(SHAPE | shape)))


def _gpt_neox(v: int) -> Any:
    return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(vocab_size=v, **SHAPE))


def _olmo2(v: int) -> Any:
    return tf.Olmo2ForCausalLM(tf.Olmo2Config(vocab_size=v, **SHAPE))


def _phi3(v: int) -> Any:
    return tf.Phi3ForCausalLM(tf.Phi3Config(vocab_size=v, **SHAPE))


def _qwen3_5(v: int) -> Any:
    """Every other block carries a recurrent state instead of attention."""
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    widths = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = ["linear_attention", "full_attention"] * 2
    shape = SHAPE | heads | widths | {"layer_types": kinds}
    return tf.Qwen3_5ForCausalLM(tf.Qwen3_5TextConfig(vocab_size=v, **shape))


def _lfm2(v: int) -> Any:
    """Every other block is a short convolution over tokens."""
    kinds = ["conv", "full_attention"] * 2
    extra = {"layer_types": kinds, "block_multiple_of": 32}
    return tf.Lfm2ForCausalLM(tf.Lfm2Config(vocab_size=v, **SHAPE, **extra))


def _mamba(v: int) -> Any:
    """No attention at all."""
    shape = {"state_size": 8, "time_step_rank": 4, "conv_kernel": 4}
    return tf.MambaForCausalLM(tf.MambaConfig(vocab_size=v, **SHAPE, **shape))


NETWORKS: dict[str, Callable[[int], Any]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mistral3_wrapper": _mistral3_wrapper,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3_wrapper": _gemma3_wrapper,
    "gemma4": _gemma4,
    "gemma4_wrapper": _gemma4_wrapper,
    "gemma4_shared": _gemma4_shared,
    "gpt_oss": _gpt_oss,
    "llama4": _llama4,
    "apertus": _apertus,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "qwen3_5": _qwen3_5,
    "lfm2": _lfm2,
    "mamba": _mamba,
}
RECURRENT = ("qwen3_5", "lfm2", "mamba")
"""Blocks that carry a state from token to token."""
FAMILIES = tuple(family for family in NETWORKS if family not in RECURRENT)
"""Attention in every block."""
UNPACKABLE = ("gpt_oss", "llama4", *RECURRENT)
"""Texts end to end in one row disturb each other: a state runs on, or the library's code counts
columns where it should count positions."""


def save_checkpoint(
    folder: Path, family: str = "llama", *, chat: bool = True, padding_side: Side = "right"
) -> Path:
    """A checkpoint of one family: 4 blocks, 32 wide, a context of 256 tokens.

    Sliding windows are 16 tokens. The wrappers hold a vision tower of as many blocks, as wide.
    """
    tokenizer = build_tokenizer(chat=chat, padding_side=padding_side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[family](len(tokenizer))
        _disturb(network)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _disturb(network: Any) -> None:
    """Give norms, biases and scalars, all 0 or 1 at first, values of their own in every block."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.mul_(0.8 + 0.4 * torch.rand_like(buffer))
