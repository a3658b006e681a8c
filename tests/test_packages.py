"""The packages of art_env: their public names, and who may import whom."""

from __future__ import annotations

import importlib
import subprocess
import sys
from graphlib import TopologicalSorter

import grimp
import pytest

# Floors from the ground up.
ART_ENV = (
    "_util",
    "diffusion",
    "networks",
    "adapters",
    "problems",
    "schedules",
    "evaluation export",
    "envs",
)
AGENTS = (
    "schedule_search tensor_file",
    "distributed",
    "art_rl baselines group_baseline rollout schedule_policy",
    "distill gradient_policy schedule_log step_grid training_state",
    "callbacks checkpoint",
    "training",
)
CLONE = ("art_env", "agents", "benchmarks")
PACKAGES = [name for floor in ART_ENV for name in floor.split()]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_there(package: str) -> None:
    module = importlib.import_module(f"art_env.{package}")
    names = getattr(module, "__all__", [])
    assert package == "_util" or names
    assert all(hasattr(module, name) for name in names)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom in the clone."""
    return grimp.build_graph("art_env", "agents", "benchmarks", cache_dir=None)


@pytest.mark.parametrize(("container", "floors"), [("art_env", ART_ENV), ("agents", AGENTS), (None, CLONE)])
def test_imports_go_down(graph: grimp.ImportGraph, container: str | None, floors: tuple[str, ...]) -> None:
    """A file imports from its own package and from lower floors alone; packages of one floor are independent."""
    layers = [grimp.Layer(*floor.split(), independent=True) for floor in reversed(floors)]
    containers = {container} if container else set()
    broken = graph.find_illegal_dependencies_for_layers(layers, containers=containers)
    assert not broken, "\n".join(f"{d.importer} imports {d.imported}" for d in broken)


def test_every_package_has_a_floor(graph: grimp.ImportGraph) -> None:
    for container, floors in (("art_env", ART_ENV), ("agents", AGENTS)):
        placed = {f"{container}.{name}" for floor in floors for name in floor.split()}
        assert graph.find_children(container) == placed


def test_no_circles(graph: grimp.ImportGraph) -> None:
    """Imports of files have an order; a circle has none."""
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(below).prepare()


def test_adapters_leave_diffusers_alone() -> None:
    code = "import sys, art_env.adapters; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
