"""Conditions that travel with the sample: guidance by class, and inpainting."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import assert_float32_close

from art_env.adapters.conditional import InpaintingDenoiser, LabelledDenoiser
from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import SOLVERS, GaussianDenoiser, curvature, sample
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules import edm
from art_env.schedules.registry import make_schedule

torch.set_num_threads(1)


class ByClass:
    """Data of class c is the point c / 10; the null class is the origin."""

    shape, sigma_data = (1, 2, 2), 0.5

    def __call__(self, x, sigma, labels=None):
        c = torch.zeros(len(x)) if labels is None else labels.double() / 10
        return c.to(x).reshape(-1, 1, 1, 1).expand_as(x)


def _labelled(n):
    noise = torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n, dtype=torch.float64) % 10
    return torch.cat([80 * noise, labels.reshape(-1, 1, 1, 1).expand(n, 1, 2, 2)], 1), labels


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_guidance_and_its_evaluations(guidance):
    denoiser = LabelledDenoiser(ByClass(), guidance)
    assert denoiser.shape == (2, 2, 2)
    checked = CountedDenoiser(denoiser)
    x, labels = _labelled(12)
    out = checked(x, torch.linspace(1, 2, 12, dtype=torch.float64))
    assert torch.equal(out[:, 1:], x[:, 1:])
    torch.testing.assert_close(out[:, 0, 0, 0], guidance * labels / 10)
    assert checked.nfe == (1 if guidance == 1 else 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_condition_does_not_move(solver):
    x, labels = _labelled(12)
    ends = sample(LabelledDenoiser(ByClass(), 2.0), x, edm(6, 0.002, 80.0).sigmas, solver, seed=0)
    assert torch.equal(ends[:, 1:], x[:, 1:])
    torch.testing.assert_close(ends[:, 0, 1, 1], 2 * labels / 10, rtol=0, atol=1e-9)


def test_known_pixels_follow_their_straight_line():
    whole = GaussianDenoiser()
    whole.shape = (1, 2, 2)
    known = torch.tensor([[True, False], [True, False]])
    denoiser = InpaintingDenoiser(whole, known)
    x = torch.randn(5, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given = x[:, 1].clone()
    ends = sample(denoiser, torch.cat([9 * x[:, :1], x[:, 1:]], 1), [9.0, 3.0, 1.0, 0.1, 0.0], "heun")
    torch.testing.assert_close(ends[:, 0][:, known], given[:, known], rtol=0, atol=1e-12)
    free = sample(whole, 9 * x[:, :1], [9.0, 3.0, 1.0, 0.1, 0.0], "heun")
    torch.testing.assert_close(ends[:, 0][:, ~known], free[:, 0][:, ~known])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelledDenoiser(ByClass(), 0.0), "guidance = 0.0"),
        (lambda: LabelledDenoiser(ByClass(), math.nan), "guidance = nan"),
        (lambda: InpaintingDenoiser(ByClass(), torch.ones(3, 3)), r"known has shape \(3, 3\)"),
        (lambda: InpaintingDenoiser(ByClass(), torch.ones(2, 2)), "leave something to fill in"),
    ],
)
def test_bad_conditions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["digits-class", "digits-inpaint"])
def test_conditional_problems(name):
    problem = make_problem(name)
    noise = problem.sample_noise(20, 3)
    assert torch.equal(noise[:4], problem.sample_noise(4, 3))
    given = noise[:, 1:]
    if name == "digits-class":
        assert set(given.unique().tolist()) <= set(range(10))
        assert torch.equal(given, given[:, :, :1, :1].expand_as(given))
    else:
        real = problem.sample_data(20, 3)
        assert torch.equal(given[..., :4], real[..., :4])
        assert not given[..., 4:].any()
    F, Q = curvature(problem.denoiser, noise[:3], 80.0)
    assert not F[:, 1:].any()
    assert not Q[:, 1:].any()
    assert Q[:, :1].any()


def test_scores_leave_the_condition_out():
    problem = make_problem("digits-inpaint")
    evaluator = Evaluator(problem, "euler", (0,), num_images=40, num_noises=8)
    rows = {r.metric: r for r in evaluator.rows(make_schedule("edm", problem, 4, "euler"))}
    ends = evaluator.samples(make_schedule("edm", problem, 4, "euler"), 8)
    assert ends.shape == (8, 1, 8, 8)
    exact = evaluator.exact_samples(8)
    # The network computes in float32: the last digits depend on the size of the batch.
    assert_float32_close(rows["rmse"].mean, float((ends - exact).square().mean().sqrt()))
    # What was given comes back.
    given = problem.sample_data(8, 10_000)[..., :4]
    torch.testing.assert_close(ends[..., :4], given, rtol=0, atol=1e-9)


def test_the_environment_carries_conditions():
    problem = make_problem("digits-class")
    dynamics = Dynamics(problem=problem, solver="euler", num_steps=2, num_noises=4)
    state = dynamics.initial(index=torch.arange(4))
    for _ in range(2):
        state = dynamics.transition(state, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(state.x[:, 1:], problem.sample_noise(4, 0)[:, 1:])
    assert (state.nfe == 4).all()  # two evaluations a call
