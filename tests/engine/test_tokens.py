"""One beginning-of-sequence token at most, and content is the text itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.models import Model, load_model
from engine.tokens import (
    TokenizedText,
    encode_chat,
    encode_prompt,
    encode_raw,
    encode_rendered,
    find_controls,
    render_prompt,
)
from stores.errors import ModelError
from tests.engine.tiny import BOS, EOS, PAD, build_tokenizer, save_checkpoint, text_of


def with_tokenizer(model: Model, **changes: Any) -> Model:
    tokenizer = build_tokenizer()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return replace(model, tokenizer=tokenizer)


def decode(model: Model, encoded: TokenizedText, part: slice) -> str:
    return str(model.tokenizer.decode(list(encoded.ids[part])))


def test_raw_text_has_one_bos_which_is_not_content(tiny: Model) -> None:
    encoded = encode_raw(tiny, "The letter lay on the table.")
    assert encoded.ids.count(BOS) == 1
    assert encoded.content == slice(1, len(encoded.ids))
    assert decode(tiny, encoded, encoded.content) == "The letter lay on the table."


def test_a_tokenizer_without_bos_gets_none(tiny: Model) -> None:
    encoded = encode_raw(with_tokenizer(tiny, bos_token=None), "The letter")
    assert BOS not in encoded.ids
    assert encoded.content == slice(0, len(encoded.ids))


def test_control_tokens_spelled_out_in_a_text_are_ordinary_characters(tiny: Model) -> None:
    encoded = encode_raw(tiny, "<bos>The letter<eos>")
    assert encoded.ids.count(BOS) == 1
    assert EOS not in encoded.ids
    assert decode(tiny, encoded, encoded.content) == "<bos>The letter<eos>"


def test_chat_content_is_the_text_and_nothing_of_the_template(tiny: Model) -> None:
    text = text_of(30)
    encoded = encode_chat(tiny, f"  {text}\n")
    content = decode(tiny, encoded, encoded.content)
    assert encoded.ids.count(BOS) == 1
    assert content.strip() == text
    assert decode(tiny, encoded, slice(encoded.content.start)).strip() == "<bos>Human:"


def test_a_template_that_rewrites_the_text_leaves_no_content(tiny: Model) -> None:
    model = with_tokenizer(tiny, chat_template="{{ messages[0]['content'] | upper }}")
    assert encode_chat(model, "quiet").content == slice(0, 0)


def test_without_a_template_there_is_no_chat_format(tiny: Model) -> None:
    with pytest.raises(ModelError, match="no chat template; extract with --raw"):
        encode_chat(with_tokenizer(tiny, chat_template=None), "The letter")


def test_a_prompt_has_one_bos_with_and_without_a_template(tiny: Model) -> None:
    for model in (tiny, with_tokenizer(tiny, chat_template=None)):
        ids = encode_prompt(model.tokenizer, "Write a story.", prefill=" (")
        assert ids[0] == BOS
        assert ids.count(BOS) == 1


def test_a_base_model_gets_the_plain_prompt(tmp_path: Path) -> None:
    base = load_model(str(save_checkpoint(tmp_path, chat=False)), device="cpu")
    assert render_prompt(base.tokenizer, "Once", prefill=" upon") == "Once upon"


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
def test_thinking_is_switched_off(tiny: Model, switch: str) -> None:
    template = f"{{{{ 'plain' if {switch} is false else 'thinking' }}}}"
    model = with_tokenizer(tiny, chat_template=template)
    assert render_prompt(model.tokenizer, "Write.", prefill=" A:") == "plain A:"


def test_a_date_that_the_template_takes_is_the_same_every_day(tiny: Model) -> None:
    template = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    model = with_tokenizer(tiny, chat_template=template)
    assert render_prompt(model.tokenizer, "Hi?") == "26 Jul 2024"


def test_every_token_of_a_rendered_text_tells_its_characters(tiny: Model) -> None:
    for rendered, template in (("<bos>The letter lay", True), ("The letter lay", False)):
        encoded = encode_rendered(tiny, rendered, template=template)
        assert encoded.text == "<bos>The letter lay"
        assert encoded.ids[0] == BOS
        assert encoded.offsets[0] == (0, len("<bos>"))
        said = [encoded.text[a:b] for a, b in encoded.offsets]
        assert said == [tiny.tokenizer.decode([token]) for token in encoded.ids]


def test_a_second_bos_is_refused(tiny: Model) -> None:
    with pytest.raises(ModelError, match="'<bos>' is not the first alone in '<bos><bos>The'"):
        encode_rendered(tiny, "<bos><bos>The", template=True)


def test_control_tokens_are_those_added_as_such() -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.add_tokens(["<word>", "   "])
    controls = find_controls(tokenizer)
    assert controls.ids == {PAD, BOS, EOS}
    assert set(controls.markers) == {"<pad>", "<bos>", "<eos>", "<unk>", "<word>"}


def test_a_rendered_prompt_ends_where_the_answer_starts(tiny: Model) -> None:
    assert render_prompt(tiny.tokenizer, "Hi?") == "<bos>Human: Hi?\nAssistant:"
