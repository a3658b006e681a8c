"""Samples of many schedules at once against one after the other."""

import numpy as np
import pytest
import torch

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion.analytic import GaussianMixtureDenoiser
from art_env.diffusion.shared_steps import sample_many
from art_env.diffusion.solvers import get_solver, sample


@pytest.fixture
def denoiser():
    return CountedDenoiser(
        GaussianMixtureDenoiser([0.4, 0.6], [[1.0, 0.0], [-1.0, 0.5]], [0.01 * np.eye(2), 0.04 * np.eye(2)])
    )


@pytest.fixture
def x():
    return 80.0 * torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2)))


LEVELS = np.array([80.0, 9.0, 2.0, 0.4, 0.0])


@pytest.mark.parametrize("solver", ["learned_2m", "learned_4m"])
def test_the_samples_are_those_of_each_schedule(denoiser, x, solver):
    rule, rng = get_solver(solver), np.random.default_rng(1)
    levels = np.stack([LEVELS, LEVELS * [1, 1.1, 1, 1, 1], LEVELS * [1, 1, 1, 0.9, 1]])
    weights = rng.uniform(0, 1, (3, 4, rule.num_weights))
    weights[2, :3] = weights[0, :3]
    found = sample_many(denoiser, x, levels, weights, rule)
    for g in range(3):
        alone = sample(denoiser, x, levels[g], rule, weights=weights[g])
        torch.testing.assert_close(found[g], alone)


def test_shared_steps_are_evaluated_once(denoiser, x):
    """A schedule that differs from the j-th level on costs the slopes from there; one in a late weight, less."""
    rule = get_solver("learned_2m")
    weights = np.zeros((4, 1))
    weights[1:] = 0.5
    late = weights.copy()
    late[2] = 0.7
    levels = np.stack([LEVELS, LEVELS * [1, 1.1, 1, 1, 1], LEVELS, LEVELS])
    known = {}
    sample_many(denoiser, x, levels, np.stack([weights, weights, late, weights]), rule, known)
    assert denoiser.evals == len(x) * len(known) == len(x) * (4 + 3 + 1)
    sample_many(denoiser, x, levels[:1], weights[None], rule, known)
    assert denoiser.evals == len(x) * 8


def test_a_solver_without_weights_is_refused(denoiser, x):
    with pytest.raises(ValueError, match="solver = 'heun' takes no weights; use 'learned_2m'"):
        sample_many(denoiser, x, LEVELS[None], np.zeros((1, 4, 0)), get_solver("heun"))
