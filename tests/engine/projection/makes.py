"""Tokenizers of every make, and a text that is hard on them."""

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.engine.spelling import (
    SPECIAL,
    build_bytes,
    build_marked_capitals,
    build_pieces,
    build_words,
)
from tests.engine.tiny import build_tokenizer, text_of


def build_byte_fallback(template: str | None = None) -> Any:
    """Pieces with the space before them; an unknown character is its bytes, as in Llama 2."""
    byte_tokens = [f"<0x{n:02X}>" for n in range(256)]
    pieces = [*"▁abcdeokr", "▁b", "▁bo", "ok", "▁book", "▁a", "▁r"]
    vocabulary = {piece: n for n, piece in enumerate([*SPECIAL, *byte_tokens, *pieces])}
    merges = [("▁", "b"), ("▁b", "o"), ("o", "k"), ("▁bo", "ok"), ("▁", "a"), ("▁", "r")]
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return _wrap(backend, template)


def build_unigram(template: str | None = None) -> Any:
    """The likeliest pieces of a text in a canonical form, as in T5. A cut may change them.

    "abcd" is "a", "bcd", but "abc" is one piece.
    """
    likely = {"<unk>": 0.0, "▁": -2.0, "a": -3.0, "b": -3.0, "c": -4.0}
    likely |= {"ab": -3.5, "abc": -2.0, "bcd": -2.5, "▁ab": -4.0}
    backend = Tokenizer(models.Unigram(list(likely.items()), 0, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return _wrap(backend, template)


def _wrap(backend: Tokenizer, template: str | None) -> Any:
    backend.add_special_tokens(list(SPECIAL))
    fast: Any = transformers.PreTrainedTokenizerFast
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return fast(tokenizer_object=backend, chat_template=template, **named)


DEMO = Path(__file__).parents[3] / "data" / "demo_model"
MAKES: dict[str, Any] = {
    "bytes": build_bytes(),
    "tiny": build_tokenizer(),
    "demo": transformers.AutoTokenizer.from_pretrained(DEMO),
    "pieces": build_pieces(),
    "pieces_over_spaces": build_pieces(split=False),
    "byte_fallback": build_byte_fallback(),
    "unigram": build_unigram(),
    "marked_capitals": build_marked_capitals(),
    "words": build_words(),
}
MIXED = "  Read a 👍🏽 book,\n\nor take a walk 日本語 to Be?  (A) ﬁve <eos> ㎏ abcd " + text_of(20)
