"""What ``import art_env`` and the wheel offer."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import art_env

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "stable_baselines3", "matplotlib", "scipy", "sklearn")
# What stays in the clone.
CLONE = {"agents", "benchmarks", "examples", "tests", "train", "evaluate"}


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", art_env.__all__)
def test_every_public_name_is_there(name):
    value = getattr(art_env, name)
    assert value is getattr(art_env, name)  # the same object again
    assert name == "__version__" or callable(value)


def test_public_names_are_the_objects_of_their_modules():
    from art_env.envs.env import ARTEnv
    from art_env.schedules.registry import make_schedule
    from art_env.schedules.schedule import Schedule

    assert art_env.ARTEnv is ARTEnv
    assert art_env.Schedule is Schedule
    assert art_env.make_schedule is make_schedule


def test_dir_shows_names_that_nobody_has_used_yet():
    shown = json.loads(fresh("import json, art_env; print(json.dumps(dir(art_env)))"))
    assert set(art_env.__all__) <= set(shown)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'art_env' has no attribute 'Schedul'"):
        _ = art_env.Schedul
    with pytest.raises(ImportError, match="cannot import name 'Schedul'"):
        from art_env import Schedul  # noqa: F401


def test_import_is_light_and_registers_the_environments():
    code = (
        "import sys, gymnasium, art_env\n"
        f"print([m for m in {HEAVY} if m in sys.modules], 'ART/Mixture1D-v1' in gymnasium.registry)"
    )
    assert fresh(code).strip() == "[] True"


def test_public_objects_do_not_need_diffusers():
    code = "import sys\nfrom art_env import *\nprint('diffusers' in sys.modules)"
    assert fresh(code).strip() == "False"


def test_wheel_has_the_environment_alone():
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["art_env"]
    assert (ROOT / "art_env" / "py.typed").is_file()
    assert list((ROOT / "art_env" / "models").glob("*.safetensors"))


def test_wheel_needs_nothing_of_the_clone():
    for path in (ROOT / "art_env").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not roots & CLONE, path


def test_version_is_that_of_the_project():
    version = project()["project"]["version"]
    assert art_env.__version__ == version
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
