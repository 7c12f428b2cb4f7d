"""The rooms of docs/architecture.md, read off the imports: a room imports only the rooms it is allowed to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "sonet"

ROOMS: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "job": {"errors"},
    "kernels": set(),
    "solvers": {"types", "kernels"},
    "data": {"types"},
    "attacks": {"types", "errors"},
    "bounds": {"types", "solvers"},
    "blocks": {"types", "kernels", "solvers", "bounds"},
    "models": {"types", "errors", "solvers", "bounds", "blocks"},
    "training": {"types", "errors", "job", "solvers", "blocks", "models", "data", "attacks"},
    "report": {"types"},
    "evaluation": {"types", "errors", "job", "solvers", "data", "attacks", "blocks", "models", "report"},
    "certificate": {
        "types",
        "errors",
        "solvers",
        "bounds",
        "blocks",
        "models",
        "data",
        "attacks",
        "evaluation",
        "report",
    },
    "audit": {"types", "errors", "solvers", "blocks", "models", "data", "training", "attacks", "report"},
    "publishing": {"types", "errors", "models", "data", "training", "report"},
}
ROOMS["experiments"] = set(ROOMS)
ROOMS["cli"] = set(ROOMS)
ROOMS["__main__"] = {"cli"}


def room(file: Path) -> str:
    inside = file.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Every module of ours that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
            if node.module == "sonet":
                names |= {f"sonet.{alias.name}" for alias in node.names}
    return {name for name in names if name == "sonet" or name.startswith("sonet.")}


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_it_may(file: Path) -> None:
    here = room(file)
    assert here in ROOMS, f"{here} is a new room: give it a line in ROOMS and in docs/architecture.md"
    # `from sonet import __version__` is the package itself, no room.
    rooms = {name.split(".")[1] for name in imported(file) if "." in name} - {"__version__", here}
    assert rooms <= ROOMS[here], f"{here} may not import {sorted(rooms - ROOMS[here])}"


def test_the_picture_names_every_room() -> None:
    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text()
    assert not [name for name in ROOMS if f"`{name}" not in text]


def test_files_stay_readable() -> None:
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_there_is_no_drawer_for_everything() -> None:
    assert not [file for file in FILES if file.stem in {"utils", "util", "misc", "helpers", "common"}]


def test_no_pickle_is_loaded() -> None:
    for file in FILES:
        source = file.read_text()
        assert "import pickle" not in source, file
        assert "torch.load" not in source, file
        assert "allow_pickle=True" not in source, file
