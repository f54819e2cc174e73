"""The house's rules, enforced on the source: directions of import, ceilings, `print`, names."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("stores", "engine", "analyses", "cli")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 50
# The one room that cannot be divided: it may be long, but a command stays on one screen.
MAX_CLI_LINES, MAX_COMMAND_LINES = 1800, 45
BANNED_NAMES = {"process", "handle", "manage", "data", "info"}
BANNED_PREFIXES = ("get_", "do_", "process_", "handle_", "manage_")
# What a library asks of a class that takes the place of one of its own.
FOREIGN_NAMES = {"get_seq_length"}
BANNED_FILES = {"utils", "helpers", "common", "misc"}
HEAVY = {"torch", "transformers", "sae_lens"}
TOP_LEVEL = {"engine", "stores", "analyses", "data", "results", "tests"}

STDLIB = set(sys.stdlib_module_names)
ENGINE = {"stores", "engine", "torch", "transformers", "tokenizers", "safetensors", "numpy"}
MAY_IMPORT = {
    # safetensors and gguf: vectors are exchanged in these formats; neither knows torch.
    "stores": STDLIB
    | {"stores", "numpy", "zarr", "google_crc32c", "sqlite_utils", "safetensors", "gguf"},
    "engine": STDLIB
    | ENGINE
    | {"google", "openai", "httpx2", "dotenv", "sae_lens", "huggingface_hub", "jinja2"}
    | {"steering_vectors"}
    # texts of others: the hub's own loader, and the file formats that such texts come in
    | {"datasets", "pyarrow", "zstandard"},
    "analyses/methods": STDLIB | {"numpy", "scipy", "sklearn"},
    "analyses/figures": STDLIB | {"matplotlib", "numpy"},
    "analyses": STDLIB | {"analyses", "stores", "engine", "numpy", "matplotlib"},
}
# Rooms that may import their own modules and nothing else of ours.
ALONE = ("analyses/methods", "analyses/figures")
# What the standard library offers but only one room may use.
ONLY_IN = {"sqlite3": ("stores/", "tests/")}


def sources() -> list[Path]:
    folders = [p for name in ("stores", "engine", "analyses") for p in (ROOT / name).rglob("*.py")]
    return sorted([*folders, ROOT / "cli.py"])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(name: str) -> str | None:
    for room in ("analyses/methods", "analyses/figures", "analyses", "engine", "stores"):
        if name == room or name.startswith(room + "/"):
            return room
    return None


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level, node.lineno
            elif node.module:
                yield node.module, node.lineno


def forbidden_imports(name: str, tree: ast.Module) -> list[str]:
    """Every import in the file `name` that the table of directions does not allow."""
    room = room_of(name)
    found = []
    for module, line in imports(tree):
        top = module.split(".")[0]
        allowed = room is None or top in MAY_IMPORT[room]
        own_room = room in ALONE and module.startswith(room.replace("/", "."))
        elsewhere = top in ONLY_IN and not name.startswith(ONLY_IN[top])
        if module.startswith(".") or elsewhere or not (allowed or own_room):
            found.append(f"{name}:{line} imports {module}")
    return found


def top_level_imports(tree: ast.Module) -> set[str]:
    """Packages imported when the module itself is imported (not inside a function)."""
    nodes = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    return {module.split(".")[0] for node in nodes for module, _ in imports(node)}


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_point_downward(path: Path) -> None:
    assert forbidden_imports(relative(path), parse(path)) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("stores/texts.py", "import engine.models"),
        ("stores/texts.py", "import torch"),
        ("stores/texts.py", "from click import echo"),
        ("engine/capture.py", "from analyses import base"),
        ("engine/capture.py", "import matplotlib"),
        ("engine/capture.py", "import sqlite3"),
        ("engine/capture.py", "from . import packing"),
        ("analyses/methods/geometry.py", "from stores import results"),
        ("analyses/methods/geometry.py", "import torch"),
        ("analyses/figures/points.py", "from stores.results import Metric"),
        ("analyses/geometry.py", "import torch"),
    ],
)
def test_a_forbidden_import_is_found(name: str, line: str) -> None:
    assert len(forbidden_imports(name, ast.parse(line))) == 1


def test_cli_and_analyses_import_heavy_packages_only_inside_functions() -> None:
    light = [ROOT / "cli.py", *(ROOT / "analyses").rglob("*.py"), *(ROOT / "stores").rglob("*.py")]
    found = {relative(p): top_level_imports(parse(p)) & HEAVY for p in light}
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_files_and_functions_stay_below_their_ceilings(path: Path) -> None:
    lines, function_lines = MAX_FILE_LINES, MAX_FUNCTION_LINES
    if path.name == "cli.py":
        lines, function_lines = MAX_CLI_LINES, MAX_COMMAND_LINES
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, kinds)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > function_lines]
    assert path.read_text(encoding="utf-8").count("\n") <= lines
    assert long == []


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [n for n in ast.walk(parse(path)) if isinstance(n, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert path.name == "cli.py" or prints == []


def identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_names_use_the_house_words(path: Path) -> None:
    banned = [
        f"{name} (line {line})"
        for name, line in identifiers(parse(path))
        if name not in FOREIGN_NAMES and (name in BANNED_NAMES or name.startswith(BANNED_PREFIXES))
    ]
    assert banned == []
    assert path.stem not in BANNED_FILES


def test_no_top_level_folder_beside_the_rooms() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))}
    assert folders == TOP_LEVEL
