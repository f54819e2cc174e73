"""Tiny checkpoints with random weights, saved as a user's would be and loaded by path."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

PAD, BOS, EOS = 0, 1, 2
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


def build_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
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
    )
    return tokenizer


def save_checkpoint(folder: Path, family: str = "llama", *, chat: bool = True) -> Path:
    """A checkpoint of one family: 4 blocks, 32 wide, a context of 256 tokens."""
    tokenizer = build_tokenizer(chat=chat)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _network(family, len(tokenizer))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _network(family: str, vocabulary: int) -> Any:
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=32,
                n_layer=4,
                n_head=4,
                n_positions=256,
                initializer_range=0.2,
                bos_token_id=BOS,
                eos_token_id=EOS,
                pad_token_id=PAD,
            )
        )
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape))
    if family == "gemma3":
        return Gemma3ForCausalLM(Gemma3TextConfig(**shape, sliding_window=16))
    return LlamaForCausalLM(LlamaConfig(**shape))
