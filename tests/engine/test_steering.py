"""What is added reaches the tokens it is meant for, and no others, in every kind of pass."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.models import Model, hooked, load_model
from engine.steering import Where, last_reaching_layer, steered
from engine.tokens import encode_raw
from stores.errors import ModelError
from tests.engine.tiny import FAMILIES, RECURRENT, save_checkpoint, text_of

EVERY = (*FAMILIES, *RECURRENT)
LAYERS = (0, 1, 2, 3)
SPAN = slice(4, 7)
# float32 sums in another order, through four blocks of wild weights.
TOLERANCE = 1e-4
STEPS = 5
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """One model of each family and type, loaded once."""

    @cache
    def read(family: str = "llama", dtype: str = "float32") -> Model:
        folder = save_checkpoint(tmp_path_factory.mktemp(family), family)
        return load_model(str(folder), device="cpu", dtype=dtype)

    return read


def ids_of(model: Model, words: int = 12, start: int = 0) -> list[int]:
    return list(encode_raw(model, text_of(words, start)).ids)


def random_vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(*spans: slice) -> Where:
    """One row's spans."""
    return Where(spans=[spans])


def run(model: Model, rows: Sequence[Sequence[int]], **inputs: Any) -> tuple[list[Tensor], Tensor]:
    """resid_post [b, t, d] of every layer, and logits [b, t, v]; a hook after those in force."""
    states: dict[int, Tensor] = {}
    with torch.inference_mode(), hooked(model, LAYERS, states.__setitem__):
        network: Any = model.model
        logits = network(input_ids=torch.tensor(rows), use_cache=False, **inputs).logits
    return [states[layer] for layer in LAYERS], logits


def hooks_of(model: Model) -> int:
    modules = [model.backbone, *model.blocks]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def side_by_side(rows: Sequence[Sequence[int]], side: str) -> dict[str, Any]:
    """Padded ids, their mask, and positions that do not count the padding."""
    width = max(map(len, rows))
    gaps = [[0] * (width - len(row)) for row in rows]
    left = side == "left"
    pairs = list(zip(rows, gaps, strict=True))
    mask = torch.tensor([g + [1] * len(r) if left else [1] * len(r) + g for r, g in pairs])
    return {
        "rows": [[*g, *r] if left else [*r, *g] for r, g in pairs],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }


@pytest.mark.parametrize("family", EVERY)
def test_strength_0_changes_no_bit(load: Load, family: str) -> None:
    model = load(family)
    ids = ids_of(model)
    plain = run(model, [ids])
    with steered(model, dict.fromkeys(LAYERS, torch.zeros(model.d_model)), Where()):
        still = run(model, [ids])
    assert all(map(torch.equal, [*plain[0], plain[1]], [*still[0], still[1]]))


@pytest.mark.parametrize("family", EVERY)
def test_a_span_gets_the_vector_and_no_token_before_it_changes(load: Load, family: str) -> None:
    model = load(family)
    ids, vector = ids_of(model), random_vectors(model.d_model)
    plain, before = run(model, [ids])
    with steered(model, {0: vector}, at(SPAN)):
        moved, after = run(model, [ids])
    expected = plain[0].clone()
    expected[:, SPAN] += vector
    assert torch.equal(moved[0], expected)
    # Experts sum their tokens in another order where other tokens have moved to them.
    for found, kept in zip([*moved, after], [*plain, before], strict=True):
        assert torch.allclose(found[:, :4], kept[:, :4], atol=TOLERANCE)
    assert not torch.allclose(after[:, -1], before[:, -1], atol=0.01)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_what_is_added_and_taken_away_again_leaves_the_model_as_it_was(
    load: Load, family: str
) -> None:
    model = load(family)
    ids, vector = ids_of(model), random_vectors(model.d_model)
    plain = run(model, [ids])[1]
    with steered(model, {1: vector}, at(SPAN)), steered(model, {1: -vector}, at(SPAN)):
        returned = run(model, [ids])[1]
    assert torch.allclose(returned, plain, atol=TOLERANCE)


def test_each_layer_gets_its_own_vector(tiny: Model) -> None:
    ids, vectors = ids_of(tiny), random_vectors(2, tiny.d_model)
    with steered(tiny, {1: vectors[0], 2: vectors[1]}, at(SPAN)):
        both = run(tiny, [ids])[1]
    with steered(tiny, {1: vectors[0]}, at(SPAN)), steered(tiny, {2: vectors[1]}, at(SPAN)):
        nested = run(tiny, [ids])[1]
    with steered(tiny, {1: vectors[1], 2: vectors[0]}, at(SPAN)):
        swapped = run(tiny, [ids])[1]
    assert torch.equal(both, nested)
    assert not torch.allclose(both, swapped, atol=0.1)


def test_several_spans_of_a_row_are_steered_and_what_is_between_is_not(tiny: Model) -> None:
    ids, vector = ids_of(tiny), random_vectors(tiny.d_model)
    plain = run(tiny, [ids])[0][2]
    with steered(tiny, {2: vector}, at(slice(1, 3), slice(5, 6))):
        moved = run(tiny, [ids])[0][2]
    changed = (moved != plain).any(dim=-1)[0].nonzero()[:, 0]
    assert changed.tolist() == [1, 2, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_vectors_equals_one_after_the_other(load: Load, family: str) -> None:
    model = load(family)
    ids, vectors = ids_of(model), random_vectors(4, model.d_model)
    vectors[0] = 0
    with steered(model, {1: vectors, 2: vectors.flip(0)}, Where(spans=[[SPAN]] * 4)):
        together = run(model, [ids] * 4)[1]
    for i in range(4):
        with steered(model, {1: vectors[i], 2: vectors[3 - i]}, at(SPAN)):
            assert torch.allclose(run(model, [ids])[1][0], together[i], atol=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3", "gemma4_shared"])
def test_a_padded_row_is_steered_where_it_is_alone(load: Load, family: str, side: str) -> None:
    model = load(family)
    rows = [ids_of(model, words, start=words) for words in (14, 7, 5)]
    spans = [[slice(2, 5)], [slice(0, 1), slice(6, 8)], []]
    padded, vectors = side_by_side(rows, side), random_vectors(3, model.d_model)
    mask = padded["attention_mask"]
    cases = [
        (Where(spans=spans, mask=mask), [Where(spans=[each]) for each in spans]),
        (Where(mask=mask), [Where()] * 3),
        (Where(start=3, mask=mask), [Where(start=3)] * 3),
    ]
    for together, alone in cases:
        with steered(model, {1: vectors, 3: vectors}, together):
            found = run(model, **padded)[1]
        for i, row in enumerate(rows):
            with steered(model, {1: vectors[i], 3: vectors[i]}, alone[i]):
                expected = run(model, [row])[1][0]
            assert torch.allclose(found[i][mask[i].bool()], expected, atol=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_keeps_its_bits(tiny: Model, side: str) -> None:
    rows = [ids_of(tiny, words, start=words) for words in (14, 7)]
    padded, vector = side_by_side(rows, side), random_vectors(tiny.d_model)
    mask = padded["attention_mask"]
    plain = run(tiny, **padded)[0][1]
    ends = [[slice(0, len(row))] for row in rows]
    for where in (Where(mask=mask), Where(spans=ends, mask=mask)):
        with steered(tiny, {1: vector}, where):
            moved = run(tiny, **padded)[0][1]
        assert torch.equal((moved != plain).any(dim=-1), mask.bool())


def write(model: Model, rows: Sequence[Sequence[int]], cached: bool, **inputs: Any) -> Any:
    """`STEPS` greedy tokens, none of them an end, with the logits that chose them [b, STEPS, v]."""
    network: Any = model.model
    written = network.generate(
        torch.tensor(rows),
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        use_cache=cached,
        output_logits=True,
        return_dict_in_generate=True,
        **inputs,
    )
    return written.sequences, torch.stack(written.logits, dim=1)


WHERES: dict[str, Callable[[int], Where]] = {
    "span": lambda _prompt: at(SPAN),
    "all": lambda _prompt: Where(),
    "from a token of the prompt": lambda _prompt: Where(start=6),
    "from the third decoded token": lambda prompt: Where(start=prompt + 2),
}


@pytest.mark.parametrize("kind", WHERES)
@pytest.mark.parametrize("family", [f for f in EVERY if f != "mamba"])
def test_generating_with_a_cache_is_steered_as_one_pass_over_all(
    load: Load, family: str, kind: str
) -> None:
    model = load(family)
    ids = ids_of(model)
    where, added = WHERES[kind](len(ids)), {1: random_vectors(model.d_model)}
    added |= {3: random_vectors(model.d_model, seed=1)}
    with steered(model, added, where):
        tokens, logits = write(model, [ids], cached=True, attention_mask=torch.ones(1, len(ids)))
        whole = run(model, tokens.tolist())[1][:, len(ids) - 1 : -1]
        again, uncached = write(model, [ids], cached=False)
    assert torch.allclose(logits, whole, atol=TOLERANCE)
    assert torch.equal(tokens, again)
    assert torch.allclose(logits, uncached, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma4_shared"])
def test_rows_padded_on_the_left_are_written_as_alone(load: Load, family: str) -> None:
    model = load(family)
    rows = [ids_of(model, words, start=words) for words in (9, 6, 4)]
    padded, vectors = side_by_side(rows, "left"), random_vectors(3, model.d_model)
    mask = padded["attention_mask"]
    for start in (0, 3, 12):
        with steered(model, {0: vectors, 3: vectors}, Where(start=start, mask=mask)):
            found = write(model, padded["rows"], cached=True, attention_mask=mask)[1]
        for i, row in enumerate(rows):
            with steered(model, {0: vectors[i], 3: vectors[i]}, Where(start=start)):
                alone = write(model, [row], True, attention_mask=torch.ones(1, len(row)))[1]
            assert torch.allclose(found[i], alone[0], atol=TOLERANCE)


def test_a_span_adds_nothing_to_decoded_tokens_and_all_adds_to_each(tiny: Model) -> None:
    """A spy before and one after: the widths of what was read, and how many tokens changed."""
    ids, vector = ids_of(tiny), random_vectors(tiny.d_model)
    found = {}
    for name, where in {"span": at(SPAN), "all": Where(), "late": Where(start=13)}.items():
        before: list[Tensor] = []
        after: list[Tensor] = []
        with (
            hooked(tiny, (2,), lambda _layer, states: before.append(states)),  # noqa: B023
            steered(tiny, {2: vector}, where),
            hooked(tiny, (2,), lambda _layer, states: after.append(states)),  # noqa: B023
        ):
            write(tiny, [ids], cached=True, attention_mask=torch.ones(1, len(ids)))
        pairs = zip(before, after, strict=True)
        found[name] = [int((b != a).any(-1).sum()) for b, a in pairs]
        assert [each.shape[1] for each in before] == [len(ids), 1, 1, 1, 1]
    assert found["span"] == [3, 0, 0, 0, 0]
    assert found["all"] == [len(ids), 1, 1, 1, 1]
    assert found["late"] == [max(len(ids) - 13, 0), *[int(len(ids) + i >= 13) for i in range(4)]]


def test_a_recurrent_model_without_a_count_of_tokens_writes_only_without_a_cache(
    load: Load,
) -> None:
    model = load("mamba")
    ids, vector = ids_of(model), random_vectors(model.d_model)
    with steered(model, {1: vector}, Where()):
        with pytest.raises(ModelError, match="use_cache=False"):
            write(model, [ids], cached=True)
        tokens, logits = write(model, [ids], cached=False)
        whole = run(model, tokens.tolist())[1][:, len(ids) - 1 : -1]
    assert torch.allclose(logits, whole, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_sum_is_made_in_float32_and_rounded_once(load: Load, dtype: str) -> None:
    model = load("llama", dtype)
    ids, vector = ids_of(model), random_vectors(model.d_model)
    plain = run(model, [ids])[0][1]
    with steered(model, {1: vector}, Where()):
        moved = run(model, [ids])[0][1]
    assert torch.equal(moved, (plain.float() + vector).to(plain.dtype))
    assert not torch.equal(moved, plain + vector.to(plain.dtype))


def test_what_a_block_returns_beside_its_stream_is_kept(tiny: Model) -> None:
    ids, vector = ids_of(tiny), random_vectors(tiny.d_model)
    seen: list[tuple[Tensor, str]] = []

    def unwrap(_block: nn.Module, _given: Any, output: tuple[Tensor, str]) -> Tensor:
        seen.append(output)
        return output[0]

    plain = run(tiny, [ids])[0][1]
    wrapping = tiny.blocks[1].register_forward_hook(lambda _block, _given, came: (came, "more"))
    with steered(tiny, {1: vector}, at(SPAN)):
        unwrapping = tiny.blocks[1].register_forward_hook(unwrap)
        run(tiny, [ids])
        unwrapping.remove()
    wrapping.remove()
    expected = plain.clone()
    expected[:, SPAN] += vector
    assert seen[0][1] == "more"
    assert torch.equal(seen[0][0], expected)


def test_nothing_is_left_behind_whatever_happens(tiny: Model) -> None:
    ids, vector = ids_of(tiny), random_vectors(tiny.d_model)
    hooks, plain = hooks_of(tiny), run(tiny, [ids])[1]
    with pytest.raises(RuntimeError, match="power"), steered(tiny, {1: vector}, Where()):
        run(tiny, [ids])
        raise RuntimeError("power cut")
    with pytest.raises(ValueError, match="layer 4"), steered(tiny, {1: vector, 4: vector}, Where()):
        pass
    assert hooks_of(tiny) == hooks
    assert torch.equal(run(tiny, [ids])[1], plain)


@pytest.mark.parametrize("family", EVERY)
def test_beyond_the_last_reaching_layer_a_token_keeps_its_addition_to_itself(
    load: Load, family: str
) -> None:
    model = load(family)
    ids, vector = ids_of(model), random_vectors(model.d_model)
    last, before = last_reaching_layer(model), run(model, [ids])[1][:, -1]
    reached = []
    for layer in (last, last + 1):
        with steered(model, {layer: vector}, at(SPAN)):
            reached.append(float((run(model, [ids])[1][:, -1] - before).abs().max()))
    assert reached[0] > 100 * TOLERANCE
    assert reached[1] < TOLERANCE


@pytest.mark.parametrize(
    ("added", "where", "complaint"),
    [
        ({-1: (32,)}, {}, "layer -1"),
        ({1: (31,)}, {}, r"a vector \(31,\)"),
        ({1: (1, 1, 32)}, {}, r"expected \[32\] or \[b, 32\]"),
        ({1: (3, 32)}, {}, "3 vectors for a batch of 2 rows"),
        ({1: (32,)}, {"spans": [[SPAN]]}, "spans of 1 rows for a batch of 2"),
        ({1: (32,)}, {"spans": [[], [slice(5, 99)]]}, "reaches beyond the row's"),
        ({1: (32,)}, {"spans": [[], [slice(5, None)]]}, "two ends"),
        ({1: (32,)}, {"spans": [[], [slice(-3, -1)]]}, "not a span"),
        ({1: (32,)}, {"spans": [[], [slice(3, 3)]]}, "not a span"),
        ({1: (32,)}, {"spans": [[], [slice(1, 5, 2)]]}, "no step"),
        ({1: (32,)}, {"start": -1}, "start -1"),
        ({1: (32,)}, {"spans": [[], []], "start": 1}, "not together"),
        ({1: (32,)}, {"mask": torch.ones(1, 9)}, "a mask"),
        ({1: (32,)}, {"mask": torch.ones(2, 99)}, "a mask"),
        ({1: (32,)}, {"spans": [[], [SPAN]], "mask": torch.ones(2, 6)}, "beyond the row's 6"),
    ],
)
def test_what_does_not_fit_the_batch_is_refused(
    tiny: Model, added: dict[int, tuple[int, ...]], where: dict[str, Any], complaint: str
) -> None:
    ids, hooks = ids_of(tiny), hooks_of(tiny)
    vectors = {layer: torch.ones(shape) for layer, shape in added.items()}
    with pytest.raises(ValueError, match=complaint), steered(tiny, vectors, Where(**where)):
        run(tiny, [ids, ids])
    assert hooks_of(tiny) == hooks


def test_a_vector_that_is_not_finite_is_refused_by_its_layer(tiny: Model) -> None:
    broken = torch.full((tiny.d_model,), torch.nan)
    with pytest.raises(ValueError, match="layer 2"), steered(tiny, {2: broken}, Where()):
        pass
