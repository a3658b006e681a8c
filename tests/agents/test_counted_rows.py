"""The summary of a run counts the rows that a hook in the network sees, here and in workers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from agents.distributed.workers import start_workers
from agents.training import train
from agents.training.report import write
from art_env.adapters import load
from art_env.adapters.counting import CountedDenoiser
from art_env.networks.unet import UNetConfig, UNetDenoiser
from art_env.problems.problem import _reference
from benchmarks.running import make_settings

ARGUMENTS: dict[str, Any] = {
    "guidance": 2.0,
    "class_label": 1,
    "num_steps": 5,
    "num_envs": 32,
    "num_noises": 16,
    "num_images": 64,
    "total_timesteps": 960,
    "progress": False,
}


class Tally:
    """Rows that pass the network in any process, by the purpose that the caller had then.

    Args:
        path: of a file to which every process appends what it passes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self._seen, self._purpose = path, Counter[str](), 0, "model_check"
        path.touch()

    def hook(self) -> Callable[[nn.Module, Any], None]:
        """What the network does before each pass."""
        path = str(self.path)

        def write_down(network: nn.Module, args: Any) -> None:
            with open(path, "a") as file:
                file.write(f"{len(args[0])}\n")

        return write_down

    def turn(self, purpose: str) -> None:
        """Count what has passed until now, and go on for another purpose."""
        passed = sum(map(int, self.path.read_text().split()))
        self.rows[self._purpose] += passed - self._seen
        self._seen, self._purpose = passed, purpose


@pytest.fixture
def tally(tmp_path, monkeypatch) -> Tally:
    """Of every network that is loaded in the test."""
    torch.set_num_threads(1)
    _reference.cache_clear()
    tally, of_file = Tally(tmp_path / "rows"), UNetDenoiser.load

    def hooked(*args: Any) -> UNetDenoiser:
        net = of_file(*args)
        net.register_forward_pre_hook(tally.hook())
        return net

    def turned(counter: CountedDenoiser, purpose: str) -> None:
        vars(counter)["purpose"] = purpose
        if not isinstance(counter.inner, CountedDenoiser):
            tally.turn(purpose)

    monkeypatch.setattr(load.UNetDenoiser, "load", hooked)
    purpose = property(lambda counter: vars(counter)["purpose"], turned)
    monkeypatch.setattr(CountedDenoiser, "purpose", purpose, raising=False)
    return tally


@pytest.fixture
def model(tmp_path) -> Path:
    """A network of images with two classes."""
    torch.manual_seed(0)
    net = UNetDenoiser(UNetConfig(resolution=4, widths=(4, 8), blocks=(0, 1), hidden=8, classes=2), 0.5)
    nn.init.normal_(net.net.head.weight, std=0.1)
    net.save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


SEEING: dict[str, Any] = {"features": ("log_velocity",)}


@pytest.mark.parametrize(
    ("algorithm", "workers", "options"),
    [
        ("search", None, {}),
        ("art", None, SEEING),
        pytest.param("search", 2, {"model_oracle": True}, marks=pytest.mark.slow),
        pytest.param("art", 2, SEEING, marks=pytest.mark.slow),
    ],
)
def test_rows_are_counted_by_purpose(algorithm, workers, options, model, tally, tmp_path) -> None:
    if workers:
        ray = pytest.importorskip("ray")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    settings = {**ARGUMENTS, **options, "model": str(model), "run_dir": tmp_path / "run", "workers": workers}
    try:
        result = train(make_settings(algorithm, **settings))
        write(result)
    finally:
        if workers:
            start_workers.cache_clear()
            ray.shutdown()
    tally.turn("end")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    total = summary["evaluations"].pop("total")
    assert summary["evaluations"] == +tally.rows
    assert total == tally.rows.total()
    assert summary["denoiser_evals"] == tally.rows["training"]
