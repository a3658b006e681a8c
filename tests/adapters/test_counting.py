"""``CountedDenoiser`` against a counter inside the network, to the row."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from agents.schedule_search.objective import Objective
from agents.training import ArtSettings, SearchSettings, report, train, training
from art_env.adapters import CallableDenoiser, FlowDenoiser, GuidedDenoiser
from art_env.adapters.counting import CountedDenoiser, counting
from art_env.diffusion import GaussianDenoiser, curvature
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import Evaluator
from art_env.networks.unet import UNetDenoiser
from art_env.problems.custom import custom_problem
from art_env.problems.library import make_problem
from art_env.problems.problem import _reference
from art_env.schedules.registry import UNIVERSAL, make_schedule
from art_env.schedules.schedule import Schedule
from art_env.schedules.transfer import EVALUATIONS

diffusers = pytest.importorskip("diffusers")
SMALL = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Few held-out noises, and exact trajectories that no other test has integrated."""
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "Evaluator", partial(Evaluator, num_noises=8))
    _reference.cache_clear()


class Inside:
    """A counter of rows inside a network."""

    def __init__(self) -> None:
        self.rows = 0

    def of(self, monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module]) -> None:
        """Count what all networks of a class are given."""
        forward = kind.forward

        def counted(network: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.rows += len(x)
            return forward(network, x, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", counted)

    def of_argument(self, monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module]) -> None:
        """The same, of diffusers' networks, which get the sample by name and are inspected for that name."""
        call = nn.Module.__call__

        def counted(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if isinstance(network, kind):
                self.rows += len(kwargs["sample"])
            return call(network, *args, **kwargs)

        monkeypatch.setattr(nn.Module, "__call__", counted)


def test_counts_calls_and_rows():
    denoiser = CountedDenoiser(GaussianDenoiser(shape=(2,)))
    assert (denoiser.shape, denoiser.sigma_data, denoiser.nfe, denoiser.evals) == ((2,), 1.0, 0, 0)
    x = torch.ones(5, 2, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, 1.0), x / 2)
    with counting(denoiser, "training"):
        denoiser(x[:3], torch.ones(3))
        with counting(denoiser, "references"):
            denoiser(x[:1], 1.0)
        denoiser(x[:2], 1.0)
    assert (denoiser.nfe, denoiser.evals) == (4, 11)
    assert denoiser.rows == {"other": 5, "training": 5, "references": 1}
    denoiser.reset()
    assert (denoiser.nfe, denoiser.evals, denoiser.rows) == (0, 0, Counter())
    with counting(GaussianDenoiser(), "training"):  # nobody counts
        pass


def test_guided_models_cost_two():
    inner = GaussianDenoiser()
    inner.nfe_per_call = 2
    denoiser = CountedDenoiser(inner)
    denoiser(torch.ones(5, 1, dtype=torch.float64), 1.0)
    assert (denoiser.nfe, denoiser.evals) == (2, 10)


def test_everything_else_is_the_models_own():
    inner = GaussianDenoiser()
    inner.relative = lambda off, x: 2 * off
    denoiser = CountedDenoiser(inner)
    assert denoiser.relative is inner.relative
    with pytest.raises(AttributeError):
        _ = denoiser.nothing_of_the_kind
    assert denoiser == inner == CountedDenoiser(inner) == CountedDenoiser(denoiser)
    assert hash(denoiser) == hash(inner)
    assert denoiser != CountedDenoiser(GaussianDenoiser())
    assert copy.deepcopy(denoiser).sigma_data == denoiser.sigma_data


def test_exact_trajectories_are_integrated_once_for_a_model_and_its_counter():
    problem = make_problem("mixture-1d")
    known = problem.reference(4, 123, 5)
    counted = replace(problem, denoiser=CountedDenoiser(problem.denoiser))
    assert counted.reference(4, 123, 5) is known
    assert counted.denoiser.evals == 0


class NoForwardMode(torch.autograd.Function):
    """A layer that knows no tangents."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 0.5

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 0.5


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.filterwarnings("ignore:.*has no derivative in forward mode")
def test_differences_in_place_of_derivatives_are_counted(guided):
    seen = []

    def fn(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(len(x))
        return NoForwardMode.apply(x)

    class Conditional(CallableDenoiser):
        has_condition = True

    denoiser: Any = Conditional(fn, (2,))
    if guided:
        denoiser = GuidedDenoiser(denoiser, FlowDenoiser(fn, (2,)), 2.0)
    counted = CountedDenoiser(denoiser)
    x = torch.ones(3, 2, dtype=torch.float64)
    # A plain pass, and three for the differences; the first time forward mode is tried too, and fails in the first
    # network. Guidance makes two of each.
    for calls in (9, 17) if guided else (5, 9):
        curvature(counted, x, 1.0)
        assert (len(seen), counted.evals) == (calls, sum(seen))


def test_a_callable():
    inside = Inside()

    def fn(x: Tensor, sigma: Tensor) -> Tensor:
        inside.rows += len(x)
        return x / (1 + sigma.reshape(-1, *([1] * (x.ndim - 1))) ** 2)

    counted = CountedDenoiser(CallableDenoiser(fn, (2,)))
    problem = custom_problem(counted, num_noises=16, num_knots=9)
    problem.reference()
    assert counted.rows == {"references": inside.rows} == {"references": 16 * 33}
    for name in ("dp", "gits", "edm_tuned", "universal_clock", "adapted", "oracle"):
        make_schedule(name, problem, 3, "learned_2m" if name in UNIVERSAL else "heun")
        assert counted.evals == inside.rows
    objective = Objective(Dynamics(problem=problem, num_steps=3))
    before = inside.rows
    objective(np.zeros((4, 3, 1)), np.arange(8))
    assert objective.evaluations == inside.rows - before == 4 * 8 * 5
    evaluator = Evaluator(problem, "heun", num_noises=8, seeds=(0,), metrics=())
    evaluator.rows(Schedule([80.0, 1.0, 0.0]))
    evaluator.reference_error()
    assert counted.evals == inside.rows


@pytest.mark.parametrize("problem", ["digits-small", pytest.param("digits-class", marks=pytest.mark.slow)])
def test_a_training_on_digits(problem, monkeypatch, tmp_path):
    inside = Inside()
    inside.of(monkeypatch, UNetDenoiser)
    settings = ArtSettings(
        problem=problem,
        num_steps=(2,),
        total_timesteps=64,
        num_envs=16,
        num_noises=16,
        num_images=300,
        run_dir=tmp_path / "run",
        progress=False,
        oracle=False,
        features=("log_velocity",),
    )
    summary = finished(settings)
    told = summary["evaluations"]
    assert told["total"] == inside.rows
    assert summary["denoiser_evals"] == told["training"]
    assert told.keys() == {
        *("references", "training", "log", "distillation", "table", "pictures", "total"),
    }
    each = 2 if problem == "digits-class" else 1
    assert told["training"] >= 64 * each


def finished(settings: Any) -> dict[str, Any]:
    """The summary of a training."""
    result = train(settings)
    assert f"{result.evaluations['table']:,} table" in report.report(result)
    report.write(result)
    summary: dict[str, Any] = json.loads(result.run.summary.read_text())
    assert summary["evaluations"]["total"] == sum(summary["evaluations"].values()) / 2
    return summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A flow model with a prompt, and prompts beside it."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **SMALL,
    )
    path = tmp_path_factory.mktemp("flow") / "pipeline"
    unet.save_pretrained(path / "unet")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(path / "scheduler")
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    prompts = {"prompt_embeds": torch.ones(3, 12), "negative_prompt_embeds": torch.zeros(3, 12)}
    save_file(prompts, path / "prompts.safetensors")
    return path


@pytest.mark.parametrize(
    ("effort", "guidance"),
    [("full", 2.0), *(pytest.param(*v, marks=pytest.mark.slow) for v in [("quick", 2.0), ("full", None)])],
)
def test_a_model_in_a_folder(folder, guidance, effort, monkeypatch, tmp_path):
    inside = Inside()
    inside.of_argument(monkeypatch, diffusers.UNet2DConditionModel)
    settings = SearchSettings(
        model=str(folder),
        guidance=guidance,
        prompt_embeds=folder / "prompts.safetensors",
        num_steps=(2,),
        effort=effort,
        total_timesteps=256,
        num_envs=32,
        num_noises=4,
        run_dir=tmp_path / "run",
        progress=False,
    )
    summary = finished(settings)
    told, each = summary["evaluations"], 2 if guidance else 1
    assert told["total"] == inside.rows
    assert told["model_check"] == 2 * each
    schedule = Schedule.load(tmp_path / "run" / "schedule.json")
    if effort == "full":
        assert summary["denoiser_evals"] == told["training"] > 0
    else:
        assert 0 < summary["denoiser_evals"] == schedule.meta["evaluations"] <= EVALUATIONS
    assert schedule.space == "flow"
    assert schedule.sigma_max == pytest.approx(999.0)
