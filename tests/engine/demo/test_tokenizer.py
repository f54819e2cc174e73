"""Laws of the demo tokenizer: listed words stay whole, one start token, lossless round trips."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engine.demo.tokenizer import BOS_ID, EOS_ID, PAD_ID, is_single_token, train_tokenizer

WORDS = ("happy", "sad", "grief-stricken", "at ease", "16000", "7")
TEXTS = ["Human: Would you rather rest?\n\nAssistant: (A) She felt warm. He said: no!"] * 40
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, WORDS, size=360, repeats=100)


def test_listed_words_are_one_token_bare_and_after_a_space(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = [w for w in WORDS if is_single_token(tokenizer.backend_tokenizer, w)]
    assert whole == ["happy", "sad", "16000", "7"]


def test_words_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="happy"):
        train_tokenizer(TEXTS, WORDS, size=259 + 1)


def test_the_first_ids_are_the_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (PAD_ID, BOS_ID, EOS_ID) == (0, 1, 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "<bos>", "<eos>"]


def test_plain_text_gets_one_start_token_and_no_end(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("She felt warm.").input_ids
    assert ids[0] == BOS_ID
    assert ids.count(BOS_ID) == 1
    assert EOS_ID not in ids


def test_the_chat_template_starts_once_and_ends_each_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert prompt == "<bos>Human: Hello\n\nAssistant: Yes<eos>Human: Why?\n\nAssistant:"
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    assert ids == tokenizer.apply_chat_template(
        TURNS, add_generation_prompt=True, return_dict=False
    )
    assert ids.count(BOS_ID) == 1
    assert ids.count(EOS_ID) == 1


def test_a_training_document_begins_like_a_rendered_prompt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = tokenizer.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False)
    document = tokenizer("Human: Hello\n\nAssistant: (A) yes").input_ids
    assert document[: len(prompt)] == prompt
    assert tokenizer.convert_ids_to_tokens(document[len(prompt) :])[:2] == ["Ġ(", "A"]


def test_a_saved_tokenizer_loads_as_it_was(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS[0]).input_ids == tokenizer(TEXTS[0]).input_ids
    assert loaded.decode(loaded(TEXTS[0]).input_ids, skip_special_tokens=True) == TEXTS[0]
    assert loaded.padding_side == "right"
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
