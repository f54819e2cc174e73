"""Pooled activations equal a plain loop over single texts, however they are batched and padded."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.capture import capture
from engine.models import Model, hooked
from engine.packing import pad
from engine.tokens import encode_raw
from tests.engine.tiny import text_of

TEXTS = tuple(text_of(words, start=words) for words in (60, 9, 33, 21))
START = 4
# float32 sums in another order; relative to the norm of the row they estimate
TOLERANCE = 1e-5


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    norms = np.linalg.norm(expected, axis=-1, keepdims=True)
    return bool((np.abs(found - expected) <= TOLERANCE * norms).all())


def pool(
    model: Model, texts: tuple[str, ...], layers: tuple[int, ...], side: str = "right"
) -> NDArray[np.float32]:
    encoded = [encode_raw(model, text) for text in texts]
    rows = [text.ids for text in encoded]
    ids, mask = pad(rows, model.pad_token, "left" if side == "left" else "right")
    weights = mask.astype(np.float32)
    for row, text in zip(weights, encoded, strict=True):
        tokens = np.flatnonzero(row)
        row[tokens[: text.content.start + START]] = 0
    with capture(model, layers) as pooling:
        means = pooling.pool(*(torch.from_numpy(array) for array in (ids, mask, weights)))
    found: NDArray[np.float32] = means.numpy()
    return found


def plain_loop(model: Model, layers: tuple[int, ...]) -> NDArray[np.float32]:
    """One text at a time, the whole model, every state kept: the definition, slowly."""
    rows = []
    for text in TEXTS:
        encoded = encode_raw(model, text)
        with torch.inference_mode():
            run = model.model(torch.tensor([encoded.ids]), output_hidden_states=True)
        content = slice(encoded.content.start + START, None)
        rows.append([run.hidden_states[layer + 1][0, content].mean(dim=0) for layer in layers])
    return torch.stack([torch.stack(row) for row in rows]).numpy()


def test_pooled_means_equal_a_plain_loop(tiny_family: Model) -> None:
    assert close(pool(tiny_family, TEXTS, (0, 1, 2)), plain_loop(tiny_family, (0, 1, 2)))


def test_the_last_layer_is_the_output_of_its_block(tiny_family: Model) -> None:
    outputs: dict[int, torch.Tensor] = {}
    encoded = encode_raw(tiny_family, TEXTS[0])
    with torch.inference_mode(), hooked(tiny_family, (3,), outputs.__setitem__):
        tiny_family.model(torch.tensor([encoded.ids]))
    expected = outputs[3][:, encoded.content.start + START :].mean(dim=1, keepdim=True)
    assert close(pool(tiny_family, TEXTS[:1], (3,)), expected.numpy())


def test_a_batch_of_one_equals_a_batch_of_many(tiny_family: Model) -> None:
    alone = np.concatenate([pool(tiny_family, (text,), (1, 3)) for text in TEXTS])
    assert close(pool(tiny_family, TEXTS, (1, 3)), alone)


def test_padding_at_the_left_equals_padding_at_the_right(tiny_family: Model) -> None:
    left, right = (pool(tiny_family, TEXTS, (1, 3), side) for side in ("left", "right"))
    assert close(left, right)


def test_the_same_batch_gives_the_same_bits(tiny: Model) -> None:
    assert np.array_equal(pool(tiny, TEXTS, (1, 3)), pool(tiny, TEXTS, (1, 3)))


def test_a_layer_does_not_depend_on_the_others_asked_for(tiny: Model) -> None:
    assert np.array_equal(pool(tiny, TEXTS, (1,))[:, 0], pool(tiny, TEXTS, (0, 1, 3))[:, 1])


def test_pooling_is_float32_whatever_the_model_computes_in(tiny: Model) -> None:
    assert pool(tiny, TEXTS, (0,)).dtype == np.float32


def test_no_block_after_the_last_wanted_one_is_run(tiny: Model) -> None:
    ran: list[int] = []
    with hooked(tiny, (0, 1, 2, 3), lambda layer, _states: ran.append(layer)):
        pool(tiny, TEXTS, (1,))
    assert max(ran) == 1


def test_the_model_works_as_before_after_leaving_early(tiny: Model) -> None:
    ids = torch.tensor([[1, 5, 6]])
    with torch.inference_mode():
        before = tiny.model(ids).logits
        pool(tiny, TEXTS, (0,))
        assert torch.equal(tiny.model(ids).logits, before)


def test_no_hook_is_left_after_an_error(tiny: Model) -> None:
    before = [len(block._forward_hooks) for block in tiny.blocks]
    with pytest.raises(RuntimeError, match="stop"), capture(tiny, (0, 2)):
        raise RuntimeError("stop")
    assert [len(block._forward_hooks) for block in tiny.blocks] == before


def test_a_row_without_weight_is_nan_and_leaves_the_others_alone(tiny: Model) -> None:
    ids, mask = (torch.from_numpy(array) for array in pad([[1, 5, 6], [1, 7]], 0, "right"))
    weights = mask.float()
    weights[1] = 0
    with capture(tiny, (2,)) as pooling:
        found = pooling.pool(ids, mask, weights)
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1]).all()


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (4,), (-1,)])
def test_layers_must_be_ascending_blocks(tiny: Model, layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not ascending blocks"), capture(tiny, layers):
        pass
