"""Every code block of the README and of docs/ runs, and every command is one that its program understands."""

from __future__ import annotations

import argparse
import functools
import inspect
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from export.programs import SD, k_module, unet
from markdown_pages import PAGES, ROOT, Command, blocks, commands
from packaging.requirements import Requirement

import evaluate
import train
from art_env._util import cli
from art_env.export.__main__ import main as export
from art_env.problems.library import make_problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

diffusers = pytest.importorskip("diffusers")

# What a page may show besides code.
TEXT = ("text", "bibtex")
# Commands that are neither run nor parsed, and why.
ELSEWHERE = {
    "python3 -m venv .venv": "part of .ci/run",
    ". .venv/bin/activate": "part of .ci/run",
    "pytest": "part of .ci/run",
    "mkdocs build": "part of .ci/run",
    "mkdocs serve": "serves until it is stopped",
    "tensorboard --logdir runs": "serves until it is stopped",
    "pip install torch==VERSION --index-url https://download.pytorch.org/whl/cpu": "the reader puts the version in",
}
SMALL = tuple(
    "--num-envs 32 --total-timesteps 320 --num-noises 64 --num-images 64 --no-oracle".split()  # noqa: SIM905
)
# Commands of the pages that are quick, or are with these options, and are run.
QUICK: dict[str, tuple[str, ...]] = {
    "python train.py --model path/to/pipeline --num-steps 5": SMALL,
    "python train.py --solver heun --model path/to/pipeline --num-steps 5 --run-dir runs/HEUN": SMALL,
    "python train.py --effort none --model path/to/pipeline --num-steps 5": ("--num-images", "64"),
    "python train.py --effort quick --model path/to/pipeline --num-steps 5": ("--num-images", "64"),
    "python train.py --problem mixture-1d --solver heun --features log_velocity log_curvature rms turn "
    "--run-dir runs/POLICY": SMALL,
    "python -m art_env.export runs/HEUN/schedule.json --to comfyui": (),
}
# The commands whose run folders the code blocks read.
TRAINED, HEUN, POLICY = (text for text in QUICK if "--effort" not in text and "train.py" in text)
ALL = [command for page in PAGES for command in commands(page)]


class Pipeline(diffusers.DDPMPipeline):
    """The loop of diffusers' pipelines that take noise levels, without the text encoder that all of them have."""

    @torch.no_grad()
    def __call__(self, prompt: str | None = None, **steps: Any) -> diffusers.ImagePipelineOutput:
        self.scheduler.set_timesteps(device="cpu", **steps)
        x = torch.randn(2, 1, 8, 8) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            noise = self.unet(self.scheduler.scale_model_input(x, t), t).sample
            x = self.scheduler.step(noise, t, x).prev_sample
        assert torch.isfinite(x).all()
        return diffusers.ImagePipelineOutput(images=x)


def _pipeline() -> Pipeline:
    return Pipeline(unet=unet(), scheduler=diffusers.DDPMScheduler(**SD, clip_sample=False))


def _run(text: str, *options: str) -> None:
    """Run a command of the pages in this process, with more options."""
    words = (*text.split(), *options)
    main: Callable[[], int]
    main, first = (export, 3) if words[1] == "-m" else (train.main, 2)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [words[1], *words[first:]])
        assert main() == 0
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who has a model and has trained on it."""
    folder = tmp_path_factory.mktemp("reader")
    own = _pipeline()
    diffusers.DDPMPipeline(own.unet, own.scheduler).save_pretrained(folder / "path/to/pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run(TRAINED, *QUICK[TRAINED], "--run-dir", "runs/NAME", "--no-progress")
        _run(HEUN, *QUICK[HEUN], "--no-progress")
        _run(POLICY, *QUICK[POLICY], "--no-progress")
    return folder


@pytest.fixture
def in_folder(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader)


@pytest.fixture
def beside_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that commands name, which nothing reads."""
    for name in ("runs/NAME", "runs/POLICY", "RUN"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "agent.safetensors").touch()
    monkeypatch.chdir(tmp_path)


def _own() -> dict[str, Any]:
    """What a reader brings: a pipeline with its prompt, and a network with its noise."""
    torch.manual_seed(0)
    model = make_problem("digits").denoiser
    return {
        "__name__": "__main__",
        "pipe": _pipeline(),
        "prompt": "a digit",
        "model": model,
        "x": 14.6 * torch.randn(4, *model.shape),
    }


def _k_diffusion() -> types.ModuleType:
    package = types.ModuleType("k_diffusion")
    package.sampling = k_module("sampling")  # type: ignore[attr-defined]
    return package


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("python", "bash", *TEXT), f"{block}: {block.language!r}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=lambda p: p.name
)
def test_python_blocks_run(page: Path, in_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = _own()
    if "k_diffusion" in page.read_text("utf-8"):
        namespace["k_diffusion"] = _k_diffusion()
        monkeypatch.setitem(sys.modules, "k_diffusion", namespace["k_diffusion"])
    for block in blocks(page):
        if block.language == "python":
            # Empty lines, so that an error names the line of the page.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


@pytest.mark.parametrize("text", [text for text in QUICK if text not in (TRAINED, HEUN, POLICY)])
def test_quick_commands_run(text: str, in_folder: None) -> None:
    options = () if "-m" in text else ("--no-progress",)
    _run(text, *QUICK[text], *options)


def test_quick_commands_are_on_a_page() -> None:
    assert not set(QUICK) - {" ".join(command.words) for command in ALL}


@pytest.mark.parametrize("command", ALL, ids=str)
def test_commands_are_understood(
    command: Command, beside_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *rest = command.words
    if " ".join(command.words) in ELSEWHERE:
        return
    if program == "pip":
        _check_install(rest)
        return
    assert program == "python", f"{command}: no test knows this program"
    if rest[0] == "train.py":
        train.parse(rest[1:])
    elif rest[0] == "evaluate.py":
        cli.parse(evaluate.Settings, rest[1:], None)
    else:
        path, options = (_module(rest[1]), rest[2:]) if rest[0] == "-m" else (ROOT / rest[0], rest[1:])
        _parse(path, options, monkeypatch)


def _check_install(words: list[str]) -> None:
    """``pip install -c constraints.txt -e ".[EXTRA,EXTRA]" PACKAGE``: the file and the extras are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["install"])
    parser.add_argument("-c", type=ROOT.joinpath, required=False)
    parser.add_argument("-e", type=lambda own: Requirement(own.replace(".", "art-rl", 1)))
    parser.add_argument("packages", type=Requirement, nargs="*")
    given = parser.parse_intermixed_args(words)
    assert given.c is None or given.c.is_file()
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert given.e is None or given.e.extras <= known.keys()


def _module(name: str) -> Path:
    """The file that ``python -m NAME`` runs."""
    path = ROOT.joinpath(*name.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


class _Parsed(Exception):
    """The program has understood its options and would begin."""


def _parse(path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program until it has read its options."""
    if "tyro.cli(" not in path.read_text("utf-8"):
        assert not options, f"{path} reads no options"
        return
    real = tyro.cli

    def parse(kind: Any, **kwargs: Any) -> None:
        if inspect.isfunction(kind):  # which tyro would call
            kind = functools.wraps(kind)(lambda **_: None)
        real(kind, **kwargs)
        raise _Parsed

    monkeypatch.setattr(tyro, "cli", parse)
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    monkeypatch.syspath_prepend(str(path.parent))
    try:
        with pytest.raises(_Parsed):
            runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:  # an example of another library
        pytest.skip(f"{path.name} needs {error.name}")


@pytest.mark.parametrize("words", ["train.py --problem mixture-1d --step 5", "-m benchmarks.report --chek"])
def test_a_wrong_option_is_found(words: str, beside_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(ALL[0].code, ("python", *words.split()))
    with pytest.raises(SystemExit):
        test_commands_are_understood(command, beside_files, monkeypatch)


def test_an_install_of_what_is_not_there_is_found() -> None:
    _check_install(["install", "-c", "constraints.txt", "-e", ".[test]", "package[extra]"])
    _check_install(["install", "-e", "."])
    for words in (["-c", "gone.txt", "-e", "."], ["-e", ".[tset]"]):
        with pytest.raises(AssertionError):
            _check_install(["install", *words])
