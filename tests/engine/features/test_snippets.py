"""Laws of snippets: a window has the codes of the SAE, the text of its tokens, and the peak."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.features.snippets import WINDOW, FeatureSnippet, read_snippets
from engine.models import Model
from engine.tokens import TokenizedText, encode_chat, encode_raw
from tests.engine.features.saes import make_sae
from tests.engine.tiny import text_of

LAYER, START = 2, 5
FORMS: tuple[Literal["raw", "chat"], ...] = ("raw", "chat")
TEXTS = {
    7: text_of(60),
    8: text_of(45, start=3),
    11: f"  日本語 👍🏽 (A)\n\n{text_of(30, start=5)}",
    12: text_of(8, start=1),
}
WANTED = {3: [7, 8, 11], 9: [12, 7], 21: [8]}


@pytest.fixture(scope="module")
def sae() -> Any:
    return make_sae("standard", d_in=32, d_sae=64)


def read(model: Model, sae: Any, form: Literal["raw", "chat"] = "raw") -> list[FeatureSnippet]:
    return read_snippets(model, LAYER, sae, TEXTS, WANTED, format=form, start_token=START)


def tokens_of(model: Model, text_id: int, form: str) -> TokenizedText:
    return (encode_raw if form == "raw" else encode_chat)(model, TEXTS[text_id])


def plain_codes(model: Model, sae: Any, text_id: int, form: str) -> NDArray[np.float32]:
    """The SAE on what the library calls the layer's hidden state, at a text's content tokens."""
    tokenized = tokens_of(model, text_id, form)
    with torch.inference_mode():
        ids = torch.tensor([tokenized.ids])
        states = model.backbone(input_ids=ids, output_hidden_states=True).hidden_states
        codes = sae.encode(states[LAYER + 1][0, tokenized.content])
    found: NDArray[np.float32] = codes.numpy()
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_codes_of_a_window_are_those_of_the_sae_at_its_tokens(
    tiny: Model, sae: Any, form: Literal["raw", "chat"]
) -> None:
    found = read(tiny, sae, form)
    assert len(found) == sum(map(len, WANTED.values()))
    for each in found:
        own = plain_codes(tiny, sae, each.text_id, form)[:, each.feature]
        shown = own[each.first : each.first + len(each.codes)]
        np.testing.assert_allclose(each.codes, shown, rtol=1e-4, atol=1e-5)
        assert each.peak == max(each.codes)
        assert each.peak == pytest.approx(own[START:].max(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_pieces_of_a_window_are_the_text_of_its_tokens(
    tiny: Model, sae: Any, form: Literal["raw", "chat"]
) -> None:
    for each in read(tiny, sae, form):
        tokenized = tokens_of(tiny, each.text_id, form)
        own = tokenized.ids[tokenized.content]
        text, after = "".join(each.pieces), each.first + len(each.pieces)
        assert len(each.pieces) == len(each.codes)
        assert text in TEXTS[each.text_id]
        if TEXTS[each.text_id].isascii():  # no token divides a character
            before, until = (tiny.tokenizer.decode(list(own[:end])) for end in (each.first, after))
            assert f"{before}{text}" == until


@pytest.mark.parametrize("form", FORMS)
def test_a_window_lies_within_the_tokens_that_are_pooled(
    tiny: Model, sae: Any, form: Literal["raw", "chat"]
) -> None:
    for each in read(tiny, sae, form):
        content = tokens_of(tiny, each.text_id, form).content
        length = content.stop - content.start
        assert each.first >= START
        assert len(each.codes) == min(WINDOW, length - START)
        assert each.first + len(each.codes) <= length


def test_snippets_come_by_feature_as_asked_and_the_highest_peak_first(
    tiny: Model, sae: Any
) -> None:
    found = read(tiny, sae)
    assert list(dict.fromkeys(each.feature for each in found)) == list(WANTED)
    for feature, text_ids in WANTED.items():
        own = [each for each in found if each.feature == feature]
        assert {each.text_id for each in own} == set(text_ids)
        assert [each.peak for each in own] == sorted((each.peak for each in own), reverse=True)


def test_every_text_is_read_once(tiny: Model, sae: Any) -> None:
    passes: list[int] = []
    hook = tiny.blocks[LAYER].register_forward_hook(lambda *_: passes.append(1))
    try:
        read(tiny, sae)
    finally:
        hook.remove()
    assert len(passes) == len(TEXTS)


def test_a_text_without_pooled_tokens_is_refused(tiny: Model, sae: Any) -> None:
    with pytest.raises(ValueError, match="text 1 is not read: too_short"):
        read_snippets(tiny, LAYER, sae, {1: "so"}, {0: [1]}, format="raw", start_token=START)
