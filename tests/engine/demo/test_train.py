"""Laws of the trainer: a seed determines the weights, loss falls, what is saved is what it was."""

import copy
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from engine.demo.batches import Batches, Source, build_batches
from engine.demo.documents import Document
from engine.demo.recipe import Recipe
from engine.demo.tokenizer import is_single_token, wrap
from engine.demo.train import batch_loss, build_model, learn_tokenizer, save_model, train_model
from engine.demo.world import DEMO_FOLDER, World
from stores.database import digest
from tests.engine.demo.test_batches import learn_toy_tokenizer, write_long, write_question

RECIPE = Recipe(
    seed=5, layers=3, width=64, heads=2, ffn=64, vocabulary=384, rows=2, row_tokens=64, steps=3
)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(write_long, write_question, learn_toy_tokenizer())


def train(source: Source, recipe: Recipe) -> tuple[LlamaForCausalLM, list[float]]:
    model = build_model(recipe)
    settings = recipe.batch_settings(seed=recipe.seed, steps=recipe.steps)
    return model, train_model(model, recipe, build_batches(source, settings))


def test_a_seed_determines_the_weights(source: Source) -> None:
    (first, _), (again, _) = train(source, RECIPE), train(source, RECIPE)
    (other, _) = train(source, replace(RECIPE, seed=6))
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_new_model_depends_on_its_seed_alone_and_leaves_the_global_one() -> None:
    before = torch.random.get_rng_state()
    first = build_model(RECIPE).lm_head.weight
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(1)
    assert torch.equal(first, build_model(RECIPE).lm_head.weight)
    assert not torch.equal(first, build_model(replace(RECIPE, seed=6)).lm_head.weight)


def test_the_loss_falls(source: Source) -> None:
    _, losses = train(source, replace(RECIPE, steps=40))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_late_binding_reaches_the_layers_it_is_asked_for(source: Source) -> None:
    model = build_model(replace(RECIPE, init_std=0.3))
    questions = replace(source, long=write_question)
    tokens = build_batches(questions, RECIPE.batch_settings(seed=1, steps=1)).tokens[0]
    batch = {name: torch.from_numpy(tokens[name].copy()) for name in tokens.dtype.names or ()}
    usual = batch_loss(model, RECIPE, batch, late=False)
    one, all_three = (
        batch_loss(model, replace(RECIPE, analysis_layer=layer), batch, late=True)
        for layer in (0, 2)
    )
    assert len({usual.item(), one.item(), all_three.item()}) == 3
    assert (RECIPE.late_layers, Recipe().late_layers) == (2, 4)


def test_listed_words_and_numbers_of_the_world_are_one_token(world: World) -> None:
    tokenizer = learn_tokenizer(world, Recipe(tokenizer_documents=1000)).backend_tokenizer
    words = [word for word in (*world.words_for_bpe, *world.numbers) if word.isalnum()]
    assert tokenizer.get_vocab_size() == Recipe().vocabulary
    assert len(words) > 200
    assert [word for word in words if not is_single_token(tokenizer, word)] == []


@pytest.fixture
def saved(source: Source, tmp_path: Path) -> tuple[Path, LlamaForCausalLM]:
    model, _ = train(source, RECIPE)
    save_model(tmp_path / "model", model, wrap(source.tokenizer), {"seed": 5})
    return tmp_path / "model", model


def test_a_saved_model_loads_with_the_same_logits(
    saved: tuple[Path, LlamaForCausalLM],
) -> None:
    folder, model = saved
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(write_long(random.Random(0)).text, return_tensors="pt").input_ids
    rounded = copy.deepcopy(model).to(torch.float16).to(torch.float32)  # type: ignore[arg-type]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits, rounded(ids).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=0.05, rtol=0)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_the_recipe_is_written_with_the_digests_of_the_files(
    saved: tuple[Path, LlamaForCausalLM],
) -> None:
    folder, _ = saved
    record = json.loads((folder / "recipe.json").read_text())
    found = {p.name: digest(p.read_bytes()) for p in folder.iterdir() if p.name != "recipe.json"}
    assert record["files"] == found
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(found)
    weights = (folder / "model.safetensors").stat().st_size
    assert weights < 2.2 * sum(p.numel() for p in build_model(RECIPE).parameters()) + 10_000


def test_late_share_zero_never_binds_late(source: Source) -> None:
    recipe = replace(RECIPE, late_share=0.0, steps=10)
    batches: Batches = build_batches(source, recipe.batch_settings(seed=1, steps=10))
    assert not batches.late.any()


def write_diary(rng: random.Random) -> Document:
    """A place, and the feeling it is tied to, which weighs more."""
    place, feeling = rng.choice([("harbour", "calm"), ("tower", "proud")])
    text = f"She walked to the {place}. {feeling}."
    start = text.index(feeling)
    return Document("diary", text, weights=((start, start + len(feeling), 6.0),))


def test_the_lens_loss_teaches_the_analysis_layer_itself(source: Source) -> None:
    diaries = replace(source, long=write_diary)
    plain, taught = (
        train(diaries, replace(RECIPE, steps=150, lens_share=share))[0] for share in (0.0, 1.0)
    )
    assert middle_loss(taught, diaries) < 0.5 * middle_loss(plain, diaries)


def middle_loss(model: LlamaForCausalLM, source: Source) -> float:
    """The mean loss, on the words that weigh more, of what the analysis layer says of them."""
    tokens = build_batches(source, RECIPE.batch_settings(seed=99, steps=1)).tokens[0]
    batch = {name: torch.from_numpy(tokens[name].copy()) for name in tokens.dtype.names or ()}
    recipes = [replace(RECIPE, lens_share=share) for share in (0.0, 1.0)]
    without, with_lens = (batch_loss(model, recipe, batch, late=False) for recipe in recipes)
    return float(with_lens.detach() - without.detach())


def test_the_shipped_weights_are_those_of_the_shipped_recipe() -> None:
    record = json.loads((DEMO_FOLDER / "recipe.json").read_text())
    assert record["recipe"] == asdict(Recipe())
    for name, sha in record["files"].items():
        assert digest((DEMO_FOLDER / name).read_bytes()) == sha
    size = sum((DEMO_FOLDER / name).stat().st_size for name in record["files"])
    assert size <= 8 << 20
