"""The tokenizer of the demo model: a small byte-level BPE with one start token and a chat template.

Knows nothing of grammars or models: it is given texts, and words that must be one token each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2

# The start token is part of the template: encode a rendered prompt with add_special_tokens=False.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'Human: ' + message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'Assistant: ' + message['content'] + eos_token -}}
{%- else -%}
{{- raise_exception('The demo model knows the roles user and assistant only.') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""


def train_tokenizer(
    texts: Iterable[str], words: Sequence[str], *, size: int = 2688, repeats: int = 2000
) -> PreTrainedTokenizerFast:
    """Learn `size` entries from `texts`, with each of `words` added `repeats` times.

    Every word is added bare and after a space, so that both forms become one token; a word with a
    space or a hyphen falls into its parts. Raises ValueError naming the words that did not fit.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    forms = [form for word in words for form in (word, " " + word)]
    tokenizer.train_from_iterator([*texts, *forms * repeats], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)]
    )
    split = [word for word in words if word.isalnum() and not is_single_token(tokenizer, word)]
    if split:
        raise ValueError(f"not one token each in a vocabulary of {size}: {', '.join(split)}")
    return wrap(tokenizer)


def is_single_token(tokenizer: Tokenizer, word: str) -> bool:
    """Whether `word` is one token both bare and after a space."""
    forms = (word, " " + word)
    return all(len(tokenizer.encode(form, add_special_tokens=False).ids) == 1 for form in forms)


def wrap(tokenizer: Tokenizer, context: int = 512) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers saves and loads it, with padding on the right."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        padding_side="right",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
