"""Names: of models, whether two of them mean the same one, base and instruct told apart; of SAEs.

A model's name is its last part, `google/gemma-2-2b` and `gemma-2-2b` are one: whose copy it is says
nothing, and weights of the same name are taken to be the same. Knows no list of models but the few
that are written in two ways.
"""

import re

from stores.errors import UsageError
from stores.workspace import require_slug

LONGEST = 100
"""Characters of an SAE's name: more stand before and behind it in the names of files."""
INSTRUCT = {"it", "instruct", "chat"}
BASE = {"pt", "base"}
# As TransformerLens calls them, whose names many SAEs repeat, and as their makers do.
ALSO = {"gpt2-small": "gpt2", "mistral-7b": "mistral-7b-v0.1"}
# Where a name without an ending is the one that was trained to answer.
ANSWERS = re.compile(r"qwen-3")


def require_name(name: str) -> str:
    """`name` if an SAE can be called so; else UsageError.

    Without a dot, by which the files of one analysis are told from those of another.
    """
    if "." in require_slug(name, "--name") or len(name) > LONGEST:
        raise UsageError(
            f"--name {name}: an SAE is called without a dot, in {LONGEST} characters at most"
        )
    return name


def same_model(one: str, other: str) -> bool:
    """Whether both names mean one model of one kind."""
    return _family(one) == _family(other) and kind_of(one) == kind_of(other)


def kind_of(name: str) -> str:
    """`instruct` or `base`, by the ending of its name (none: base, but for Qwen3 and later)."""
    parts = set(_parts(name))
    if parts & INSTRUCT:
        return "instruct"
    answers = not parts & BASE and ANSWERS.match("-".join(_parts(name)))
    return "instruct" if answers else "base"


def _family(name: str) -> list[str]:
    return [part for part in _parts(name) if part not in INSTRUCT | BASE]


def _parts(name: str) -> list[str]:
    """`meta-llama/Meta-Llama-3.1-8B-Instruct` is llama, 3.1, 8b, instruct; so is llama3.1-8b-it."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    words = re.split(r"[-_\s]+", ALSO.get(last, last))
    first, *rest = [word for word in words if word and word != "meta"] or [""]
    split = re.fullmatch(r"([a-z]+)(\d[\d.]*)", first)
    return [*split.groups(), *rest] if split else [first, *rest]
