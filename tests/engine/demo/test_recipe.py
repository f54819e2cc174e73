"""Laws of the recipe: every number is an option, and a written recipe can be read back."""

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from engine.demo.recipe import Recipe, add_recipe_arguments, read_recipe


def parse(*arguments: str) -> Recipe:
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return read_recipe(parser.parse_args(arguments))


def test_every_number_has_an_option_of_its_type() -> None:
    for field in fields(Recipe):
        changed = parse("--" + field.name.replace("_", "-"), str(field.default))
        assert changed == Recipe()
        assert type(getattr(changed, field.name)) is type(field.default)


def test_options_win_over_settings_and_settings_over_defaults() -> None:
    recipe = parse("--settings", '{"steps": 7, "muon_lr": 0.1}', "--steps", "9")
    assert (recipe.steps, recipe.muon_lr, recipe.width) == (9, 0.1, 128)


def test_a_model_record_is_read_as_settings(tmp_path: Path) -> None:
    written = tmp_path / "recipe.json"
    written.write_text(json.dumps({"recipe": asdict(Recipe(seed=4)), "tokens": 1}))
    assert parse("--settings", str(written)) == Recipe(seed=4)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="depth"):
        parse("--settings", '{"depth": 7}')


def test_rates_warm_up_stay_and_fall_to_zero() -> None:
    recipe = Recipe(steps=1000, warmup=10, decay_from=0.5)
    rates = [recipe.learning_rate(step) for step in (0, 9, 500, 750, 999)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.002])


@pytest.mark.parametrize("wrong", ["--ffn 344", "--analysis-layer 6", "--heads 3"])
def test_shapes_that_cannot_be_built_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"layer|multiples"):
        parse(*wrong.split())
