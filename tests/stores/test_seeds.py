from hashlib import sha256

from stores.seeds import attempt_seed, text_seed

STORY = ("gemma", 7, "stories", "calm", "rain", 2)


def test_seeds_are_the_same_on_every_machine() -> None:
    story = b'["gemma",7,"stories","calm","rain",2]'
    assert text_seed(*STORY) == int(sha256(story).hexdigest()[:16], 16) // 2 == 5108452387218067472
    assert attempt_seed(3, 1) == int(sha256(b"[3,1]").hexdigest()[:16], 16) // 2


def test_everything_that_a_text_is_changes_its_seed() -> None:
    others = [
        ("gemma2", 7, "stories", "calm", "rain", 2),
        ("gemma", 8, "stories", "calm", "rain", 2),
        ("gemma", 7, "dialogues", "calm", "rain", 2),
        ("gemma", 7, "stories", "angry", "rain", 2),
        ("gemma", 7, "stories", "calm", "snow", 2),
        ("gemma", 7, "stories", "calm", "rain", 3),
        ("gemma", 7, "stories", "cal", "mrain", 2),
    ]
    assert len({text_seed(*key) for key in [STORY, *others]}) == len(others) + 1


def test_every_attempt_has_its_own_seed() -> None:
    assert len({attempt_seed(seed, attempt) for seed in range(20) for attempt in range(20)}) == 400


def test_seeds_fit_sqlite_and_torch() -> None:
    seeds = [attempt_seed(n, 1) for n in range(1000)]
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63
