"""ART-RL on rows that have data distributions of their own, and what it takes to another model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.art_rl import ARTRL
from agents.art_rl.initial_noises import InitialNoises
from agents.checkpoint import load_agent, save_agent
from agents.rollout import sample_with_policy
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.envs.observation import RELATIVE_FEATURES
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.problems import make_problem
from art_env.problems.random_mixtures import random_mixture_problem


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config(num_mixtures=24, seed=3, **settings):
    settings = {
        "problem": random_mixture_problem(num_mixtures, seed, noises_each=4),
        "solver": "learned_2m",
        "num_steps": 4,
        "base_schedule": "universal",
        "features": RELATIVE_FEATURES,
        **settings,
    }
    return EnvConfig(**settings)


def _env(config, rows=96, groups=4, seed=0):
    env = to_sb3(ARTVectorEnv(rows, config, autoreset_mode="SAME_STEP", noise_groups=groups))
    env.seed(seed)
    return env


def test_each_distribution_counts_by_its_own_cost() -> None:
    """Costs of two distributions a hundredfold apart: both are drawn and weighed alike."""
    torch.manual_seed(0)
    kinds = np.array([0, 0, 0, 1, 1, 1])
    noises = InitialNoises(6, kinds)
    costs = np.array([1.0, 1.0, 4.0, 100.0, 100.0, 400.0])
    noises.draw(6)
    noises.update(-costs[noises.index])
    index = noises.draw(100_000)
    drawn = np.bincount(index) / 100_000
    assert drawn[:3] == pytest.approx(drawn[3:], abs=2e-5)
    assert drawn[2] > 2 * drawn[0]
    relative = np.bincount(index, noises.weights * costs[index]) / 100_000
    assert relative.sum() == pytest.approx(2 / 2, rel=1e-3)
    assert relative[:3] == pytest.approx(relative[3:], rel=1e-3)


def test_it_learns_and_sees_more_than_the_step() -> None:
    config = _config()
    model = ARTRL(
        "ARTPolicy",
        _env(config),
        learning_rate=0.003,
        std_start=0.08,
        std_end=0.02,
        starts=1,
        seed=0,
        policy_kwargs={"network_learning_rate": 0.003},
    )
    assert model.policy.whiten
    dynamics = Dynamics(config)
    x = dynamics.reference.start

    def cost() -> float:
        ends = sample_with_policy(model, dynamics, x).x
        size, spread = dynamics.problem.extent(x)
        off = (ends - dynamics.reference.x_end)[:, :-1].square().sum(1) / size / spread**2
        which = dynamics.problem.denoiser.which(x)
        each = torch.zeros(24, dtype=torch.float64).index_add(0, which, off) / 4
        return float(each.log().mean() / 2)

    before = cost()
    model.learn(300 * 96 * 4)
    assert cost() < before - 0.03
    actions = sample_with_policy(model, dynamics, x).actions
    assert actions[:, 1:3, 0].std(0).min() > 2e-4


def test_a_saved_policy_acts_on_another_model(tmp_path) -> None:
    """Along the universal list of that model, with what it has seen of the first ones kept."""
    config = _config(problem="random-mixtures", num_noises=128)
    model = ARTRL("ARTPolicy", _env(config, 32), std_start=0.05, starts=1, seed=0)
    model.learn(3 * 32 * 4)
    save_agent(model, tmp_path / "agent.safetensors", "art", config.to_dict())
    loaded, dynamics = load_agent(tmp_path / "agent.safetensors", problem=make_problem("mixture-2d"))
    assert torch.equal(loaded.seen_mean, model.policy.seen_mean)
    x = dynamics.problem.sample_noise(16, 5)
    found = sample_with_policy(loaded, dynamics, x)
    own = dynamics.problem.reference(16, 5).x_end
    assert float((found.x - own).square().mean().sqrt()) < 0.5 * dynamics.problem.denoiser.sigma_data
