"""Laws of a script: seed and prompt alone decide what goes wrong, in the shares given."""

import pytest

from engine.bench.script import PERMANENT, TRANSIENT, Script
from tests.engine.bench.raw import prompt

FAULTS = {"error_500": 0.05, "token_limit": 0.1, "hang": 0.02, "blocked_prompt": 0.03}


def test_each_fault_hits_its_share_of_the_prompts() -> None:
    script = Script(seed=3, faults=FAULTS)
    found = [script.fault(prompt(i)) for i in range(2000)]
    # Four standard deviations of a share of 2,000 draws, at most 0.027.
    for name, share in FAULTS.items():
        spread = 4 * (share * (1 - share) / 2000) ** 0.5
        assert found.count(name) / 2000 == pytest.approx(share, abs=spread)
    assert found.count(None) / 2000 == pytest.approx(0.8, abs=0.04)


def test_two_equal_scripts_choose_alike_and_another_seed_chooses_otherwise() -> None:
    prompts = [prompt(i) for i in range(500)]
    first, second, other = (
        [Script(seed=seed, faults=FAULTS).fault(words) for words in prompts] for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_a_share_of_one_hits_every_prompt() -> None:
    script = Script(faults={"hang": 1.0})
    assert {script.fault(prompt(i)) for i in range(200)} == {"hang"}


def test_no_fault_is_both_transient_and_permanent() -> None:
    assert len({*TRANSIENT, *PERMANENT}) == len(TRANSIENT) + len(PERMANENT) == 23


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"faults": {"no_such_fault": 0.1}}, "no_such_fault"),
        ({"faults": {"hang": 0.7, "error_500": 0.4}}, "at most 1"),
        ({"faults": {"hang": -0.1}}, "0 or more"),
        ({"mode": "no_such_mode"}, "no_such_mode"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Script(**settings)  # type: ignore[arg-type]
