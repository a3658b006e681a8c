"""The packages of art_env: their public names, and who may import whom."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import art_env

# Floors from the ground up; a file imports from its own package and from lower floors alone.
FLOORS = (
    ("_util",),
    ("diffusion",),
    ("networks",),
    ("adapters",),
    ("problems",),
    ("schedules",),
    ("evaluation", "export"),
    ("envs",),
)
FLOOR = {package: i for i, packages in enumerate(FLOORS) for package in packages}


@pytest.mark.parametrize("package", FLOOR)
def test_public_names_are_there(package: str) -> None:
    module = importlib.import_module(f"art_env.{package}")
    names = getattr(module, "__all__", [])
    assert package == "_util" or names
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("package", FLOOR)
def test_imports_go_down(package: str) -> None:
    for path in (Path(art_env.__file__).parent / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [str(node.module)]
            for name in names:
                top, _, rest = name.partition(".")
                below = rest.partition(".")[0]
                assert top not in ("agents", "benchmarks", "train", "evaluate"), f"{path} imports {name}"
                if top == "art_env" and below in FLOOR and below != package:
                    assert FLOOR[below] < FLOOR[package], f"{path} imports {name}"


def test_adapters_leave_diffusers_alone() -> None:
    code = "import sys, art_env.adapters; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
