"""Tokenizers of many makes, each small, built here and nowhere saved."""

from collections.abc import Sequence
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<|start|>", "<|end|>")
SIGNS = [chr(n) for n in range(32, 127)] + ["\n", "▁", "é", "’"]
WORDS = ("Would you prefer to", "How would you feel about", "read a book", "take a walk", "or")
JOINED = ("(A) read a book or (B) take a walk?", "home.", "(A", "(B")
"""Texts whose signs stick to their words, in a vocabulary that is not split at signs."""


def build_bytes(template: str | None = None, **changes: Any) -> Any:
    """Byte-level BPE with words and signs apart, as GPT's and Llama 3's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    return _wrap(backend, template, changes)


def build_pieces(
    template: str | None = None,
    texts: Sequence[str] = WORDS,
    *,
    scheme: str = "first",
    split: bool = True,
    **changes: Any,
) -> Any:
    """Pieces that carry the space before them, as SentencePiece's; signs stick where `texts` do.

    Without `split` a piece may run over spaces, as Gemma's may.
    """
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=SIGNS, show_progress=False
    )
    backend.train_from_iterator([*texts] * 5, trainer)
    return _wrap(backend, template, changes)


def build_marked_capitals(template: str | None = None, **changes: Any) -> Any:
    """Capitals are written as a mark and a small letter: two tokens."""
    tokenizer = build_bytes(template, **changes)
    marks = [normalizers.Replace(x.upper(), "^" + x) for x in "ab"]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(marks)
    return tokenizer


def build_words(template: str | None = None, **changes: Any) -> Any:
    """A list of whole words; all else is unknown."""
    known = ["read", "a", "book", "take", "walk", "(", ")", "?", ":", "Human", "Assistant"]
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *known])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return _wrap(backend, template, changes)


def _wrap(backend: Tokenizer, template: str | None, changes: dict[str, Any]) -> Any:
    backend.add_special_tokens(list(SPECIAL))
    fast: Any = transformers.PreTrainedTokenizerFast
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return fast(tokenizer_object=backend, chat_template=template, **(named | changes))
