"""The extraction bench compares ways that read the same tokens and give the same numbers."""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from engine.bench import extraction, floor, rivals
from engine.bench.contest import Entry, distance, take_turns
from engine.bench.drawing import draw_model
from engine.bench.extraction import draw_directions, draw_texts, measure_extraction
from engine.bench.floor import Floor, Products, needed_flops, passed_products
from engine.bench.rivals import Absent, Means, Read, Task, read_plainly
from engine.bench.shapes import SHAPES, Shape
from engine.packing import Batching
from engine.projection import chunks
from engine.projection.summaries import summarise_tokens
from stores.errors import UsageError
from stores.projections import TokenSummary

CPU = torch.device("cpu")
TOY = SHAPES["toy"]
SMALL_GEMMA: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
}
LARGE = SHAPES["gemma-4-31b"]
GEMMA = replace(LARGE, name="toy gemma", sizes={**LARGE.sizes, **SMALL_GEMMA}, layers="0-4")


@pytest.fixture(autouse=True)
def _one_quick_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "PEAK_SIDE", {"cpu": 64})
    monkeypatch.setattr(extraction, "RIVAL_SIZES", (2, 4))
    monkeypatch.setattr(extraction, "DEFAULT_TOKENS", {"cpu": 512})


def absent(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def find(name: str) -> object:
        return None if name in packages else find_spec(name)

    monkeypatch.setattr(rivals, "find_spec", find)


@pytest.mark.filterwarnings("ignore")  # TransformerLens' own
@pytest.mark.parametrize("shape", [TOY, GEMMA], ids=lambda shape: shape.name)
def test_all_ways_give_the_same_numbers(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, shape.name, shape)
    bench = measure_extraction(shape=shape.name, texts=8, repeats=1)
    run = [row for row in bench.ways if row.tokens_per_s]
    assert {"plain loop", "TransformerLens", "matrix products alone"} <= {row.way for row in run}
    assert [row.way for row in bench.ways if row.way.startswith("ours")] == [
        "ours (padded, as chosen)",
        "ours, packed",
        "ours, alone",
        "ours, the last layer alone",
        "ours, projected on 171 directions",
    ]
    compared = [row for row in run if row.way != "matrix products alone"]
    assert all(row.difference is not None and row.difference < 1e-5 for row in compared)
    assert all(row.times for row in run)
    assert bench.reference == "plain loop"


def test_ratios_are_of_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "transformer_lens", "nnsight")
    bench = measure_extraction(shape="toy", texts=6, repeats=1)
    tokens = sum(len(text.ids) for text in draw_texts(6, 1024, 0))
    assert (bench.texts, bench.tokens, bench.layers) == (6, tokens, (0, 1, 2, 3))
    ours = bench.ways[0].tokens_per_s
    assert ours
    rates = {row.way: (row.times, row.tokens_per_s) for row in bench.ways if row.tokens_per_s}
    assert rates["plain loop"][1]
    for times, tokens_per_s in rates.values():
        assert times == pytest.approx(ours / (tokens_per_s or 0))
    assert bench.floor_share == rates["matrix products alone"][0]
    one_layer = rates["ours, the last layer alone"][1]
    assert bench.layers_cost == pytest.approx((one_layer or 0) / ours - 1)
    projected = rates["ours, projected on 171 directions"][1]
    assert bench.projected_share == pytest.approx((projected or 0) / ours)
    assert ("of the matrix products alone", f"{bench.floor_share:.0%}") in bench.facts()


def test_a_ratio_is_the_median_over_rounds_each_with_its_own() -> None:
    ours = Entry("ours", None, seconds=[1.0, 2.0, 4.0])
    slow = Entry("slow", None, seconds=[3.0, 4.0, 40.0])
    assert slow.times(ours) == 3.0
    assert Entry("absent", None).times(ours) is None


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "transformer_lens", "nnsight")
    bench = measure_extraction(shape="toy", texts=4, repeats=1)
    rows = {row.way: row for row in bench.ways}
    assert rows["nnsight"].note == "not installed: pip install nnsight==0.8.1"
    assert rows["TransformerLens"].note == "not installed: pip install transformer-lens"
    assert rows["nnsight"].times is rows["nnsight"].tokens_per_s is None


@pytest.mark.parametrize("rival", [rivals.transformer_lens, rivals.nnsight])
def test_a_rival_leaves_the_model_as_it_was(rival: Any, tmp_path: Path) -> None:
    model = draw_model(TOY, tmp_path)
    task = Task(model, draw_texts(2, TOY.configuration().vocab_size, 0), (0, 1))
    before = [set(vars(module)) for module in model.model.modules()]
    read = rival(task)
    if isinstance(read, Absent):
        pytest.skip(read.reason)
    read(task, 2)
    assert [set(vars(module)) for module in model.model.modules()] == before


def test_a_way_with_wrong_numbers_gets_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def next_layer(task: Task, size: int) -> Means:
        return read_plainly(replace(task, layers=tuple(n + 1 for n in task.layers)), size)

    monkeypatch.setattr(extraction, "transformer_lens", lambda _task: next_layer)
    absent(monkeypatch, "nnsight")
    rows = {row.way: row for row in measure_extraction(shape="toy", texts=4, repeats=1).ways}
    wrong = rows["TransformerLens"]
    assert wrong.times is None
    assert wrong.tokens_per_s is not None
    assert wrong.difference is not None and wrong.difference > 0.01
    assert wrong.note.startswith("wrong numbers")
    assert rows["plain loop"].times


def test_there_is_no_ratio_at_all_where_ours_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(_batching: str) -> Any:
        return lambda task, _tokens: read_plainly(task) * 1.001

    absent(monkeypatch, "transformer_lens", "nnsight")
    monkeypatch.setattr(extraction, "read_with_extraction", shifted)
    bench = measure_extraction(shape="toy", texts=4, repeats=1)
    assert [row.times for row in bench.ways] == [None] * len(bench.ways)
    assert (bench.floor_share, bench.layers_cost) == (None, None)


def test_a_projection_with_wrong_numbers_gets_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(batching: Batching, directions: NDArray[np.float64]) -> Read:
        return rivals.read_with_projection(batching, directions[::-1])

    absent(monkeypatch, "transformer_lens", "nnsight")
    monkeypatch.setattr(extraction, "read_with_projection", turned)
    bench = measure_extraction(shape="toy", texts=4, repeats=1)
    rows = {row.way: row for row in bench.ways}
    assert rows["ours, projected on 171 directions"].note.startswith("wrong numbers")
    assert bench.projected_share is None
    assert ("projected on 171 directions, of ours", "-") in bench.facts()


def test_a_projection_is_measured_in_chunks_of_its_own_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes: list[int] = []

    def noted(scores: NDArray[np.float32]) -> TokenSummary:
        sizes.append(scores.shape[1])
        return summarise_tokens(scores)

    monkeypatch.setattr(chunks, "summarise_tokens", noted)
    task = Task(draw_model(TOY, tmp_path), draw_texts(135, 1024, 0), (0, 1, 2, 3))
    read = rivals.read_with_projection("padded", draw_directions(5, task.model.d_model, 0))
    assert read(task, 512).shape == (135, 4, 5)
    pooled = [len(segment.ids[segment.pooled]) for segment in task.segments]
    assert sizes == [sum(pooled[:128])] * 4 + [sum(pooled[128:])] * 4


def test_a_rival_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_task: Task) -> Absent:
        raise ValueError("unknown architecture\nand much more")

    monkeypatch.setattr(extraction, "transformer_lens", refuse)
    absent(monkeypatch, "nnsight")
    rows = {row.way: row for row in measure_extraction(shape="toy", texts=4, repeats=1).ways}
    assert rows["TransformerLens"].note == "does not take this model: unknown architecture"


def test_a_way_without_memory_is_out_and_the_others_go_on() -> None:
    def too_much() -> None:
        raise torch.OutOfMemoryError("no room")

    large, small = Entry("large", too_much), Entry("small", lambda: np.zeros(1, np.float32))
    take_turns([large, small], 2, CPU)
    assert (large.work, large.seconds, large.note) == (None, [], "out of memory")
    assert len(small.seconds) == 2


def test_numbers_that_are_not_finite_are_no_match() -> None:
    right = np.ones((2, 3), np.float32)
    assert not distance(np.full((2, 3), np.nan, np.float32), right) <= 1.0


@pytest.mark.parametrize("shape", [TOY, GEMMA], ids=lambda shape: shape.name)
def test_the_floor_is_exactly_the_products_of_the_passed_blocks(
    shape: Shape, tmp_path: Path
) -> None:
    model = draw_model(shape, tmp_path)
    with FlopCounterMode(display=False) as ran:
        Floor(model, 2, 3 * 50).run("torch", [(3, 50)])
    model.model.set_attn_implementation("eager")  # its products are counted, the fused ones not
    with FlopCounterMode(display=False) as passed, torch.inference_mode():
        model.backbone(input_ids=torch.full((3, 50), 3), use_cache=False)
    counts = passed.get_flop_counts()
    root = type(model.backbone).__name__
    blocks = [sum(counts[f"{root}.layers.{layer}"].values()) for layer in range(3)]
    assert [each.flops(3, 50) for each in passed_products(model, 2)] == blocks
    linear = [counts[f"{root}.layers.{layer}"][torch.ops.aten.mm] for layer in range(3)]
    assert ran.get_flop_counts()["Global"][torch.ops.aten.mm] == sum(linear)


def test_what_texts_need_counts_no_padding_and_no_later_token() -> None:
    products = Products(linear=((4, 8), (8, 4)), heads=2, width=3)
    # 2 x 64 weights for each of 5 tokens; 4 x 2 x 3 for each of 1 + (1 + 2 + 3 + 4) pairs.
    assert needed_flops([products, products], [1, 4]) == 2 * (2 * 64 * 5 + 24 * 11)


@pytest.mark.parametrize("shape", [replace(TOY, saved=False), GEMMA], ids=lambda s: s.name)
def test_a_drawn_network_differs_from_a_built_one_in_random_weights_alone(
    shape: Shape, tmp_path: Path
) -> None:
    drawn = draw_model(shape, tmp_path).model
    made: Any = type(drawn)
    with torch.random.fork_rng():  # one small matrix alone strays by more than a tenth
        torch.manual_seed(0)
        networks = [made._from_config(shape.configuration(), dtype=torch.float32) for _ in range(8)]
    built = networks[0]
    assert drawn.state_dict().keys() == built.state_dict().keys()
    for (name, one), (_, other) in zip(drawn.named_buffers(), built.named_buffers(), strict=True):
        assert torch.equal(one, other), name
    pairs = zip(drawn.named_parameters(), built.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other) == (other.std() == 0), name
        spreads = [dict(network.named_parameters())[name].std().item() for network in networks]
        assert one.std().item() == pytest.approx(np.mean(spreads), rel=0.1), name


def test_the_same_seed_draws_the_same_model(tmp_path: Path) -> None:
    draw = partial(draw_model, replace(TOY, saved=False), tmp_path)
    one, same, other = draw(seed=1).model, draw(seed=1).model, draw(seed=2).model
    weights = [next(network.parameters()) for network in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("shape", [replace(TOY, saved=False), GEMMA], ids=lambda s: s.name)
def test_blocks_drawn_in_four_bits_hold_all_their_matrices_so(shape: Shape, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = draw_model(shape, tmp_path, quantize="4bit")
    matrices = [p for block in model.blocks for p in block.parameters() if p.dim() == 2]
    assert {p.dtype for p in matrices} == {torch.uint8}
    assert model.model.get_input_embeddings().weight.dtype == torch.float32
    task = Task(model, draw_texts(3, 512, 0), (0, 1))
    assert np.isfinite(read_plainly(task)).all()


@pytest.mark.parametrize(
    ("name", "billions"), [("small", 0.083), ("llama-3.1-8b", 8.03), ("gemma-4-31b", 30.7)]
)
def test_a_shape_has_as_many_parameters_as_it_should(name: str, billions: float) -> None:
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    with torch.device("meta"):
        network = library.from_config(SHAPES[name].configuration())
    found = sum(each.numel() for each in network.parameters())
    assert found / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": "huge"}, "shape 'huge': unknown; use one of toy, small"),
        ({"shape": "toy", "layers": "all"}, "sees the last block, 5, only after"),
        ({"shape": "toy", "memory_limit_gb": 24}, "only a card's memory can be limited"),
        ({"shape": "toy", "dtype": "int3"}, "int3"),
        ({"shape": "toy", "device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        measure_extraction(**options)
