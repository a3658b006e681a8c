"""Stochastic samplers: their marginals, their noise as a pure table, and the distributional reward."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from agents.art_rl import ARTRL
from agents.distill import distill
from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import SOLVERS, Churn, GaussianDenoiser, edm_churn, sample
from art_env.diffusion.noise import BLOCK, StepNoise
from art_env.diffusion.steps import SolverState, heun_step, to_d
from art_env.envs.dynamics import Dynamics
from art_env.envs.env import ARTEnv
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.envs.wasserstein import GroupDistance, sliced_distance
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.metrics import sliced_w2, wasserstein_1d
from art_env.problems.custom import custom_problem
from art_env.problems.library import make_problem
from art_env.schedules import edm
from art_env.schedules.registry import check_spec, make_schedule

torch.set_num_threads(1)

STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.stochastic]
MIXTURE = {"problem": "mixture-1d", "num_noises": 128}


def _variance(levels, solver):
    """Variance of the samples of N(0, 1), exactly: the sampler is linear in its start and in each noise."""
    K, denoiser = len(levels) - 1, GaussianDenoiser()
    alone = torch.eye(K + 1, dtype=torch.float64)[:, :, None]
    factors = sample(denoiser, alone[0], levels, solver, noise=alone[1:])[:, 0]
    return float(factors[0] ** 2 * (1 + levels[0] ** 2) + factors[1:].square().sum())


def _randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Solvers


def test_which_are_stochastic():
    assert STOCHASTIC == ["euler_maruyama", "edm_churn"]


def test_euler_maruyama_by_hand():
    x, z = _randn(6, 1), _randn(6, 1, seed=1)
    sigma, after = torch.tensor(2.0).double(), torch.tensor(0.5).double()
    out, _ = SOLVERS["euler_maruyama"].step(GaussianDenoiser(), x, sigma, after, SolverState(noise=z))
    D = x / 5
    torch.testing.assert_close(out, D + (x - D) / 16 + math.sqrt(3.75) * z)


@pytest.mark.parametrize("end", [0.0, 0.05])
def test_euler_maruyama_has_weak_order_1(end):
    errors = []
    for K in (64, 128, 256):
        levels = np.tan(np.linspace(np.arctan(3.0), np.arctan(end), K + 1))
        errors.append(_variance(levels, "euler_maruyama") - (1 + end**2))
    for coarse, fine in pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(1.0, abs=0.1)
    assert abs(errors[-1]) < 0.03


@pytest.mark.parametrize("S_churn", [5.0, 40.0])
def test_churn_keeps_the_marginal(S_churn):
    solver = edm_churn(S_churn, S_tmin=0.0, S_tmax=math.inf, S_noise=1.0)
    levels = np.append(np.geomspace(3.0, 1e-3, 300), 0.0)
    assert _variance(levels, solver) == pytest.approx(1.0, abs=2e-3)
    # Noise of another size leaves a mark.
    assert abs(_variance(levels, edm_churn(S_churn, 0.0, math.inf, 1.1)) - 1.0) > 0.02


def test_churn_samples_the_gaussian():
    ends = sample(GaussianDenoiser(), 3 * _randn(20_000, 1), edm(40, 0.002, 3.0).sigmas, "edm_churn", seed=4)
    # The start has variance 9, the exact one 10: forgotten but for a few percent.
    assert float(ends.var()) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("problem", ["mixture-1d", "mixture-2d"])
def test_churn_of_nothing_is_heun_exactly(problem):
    p = make_problem(problem)
    x, levels = p.sample_noise(16, 0), edm(7, 0.002, 80.0).sigmas
    heun = sample(p.denoiser, x, levels, "heun")
    assert torch.equal(sample(p.denoiser, x, levels, edm_churn(0.0), seed=1), heun)
    assert torch.equal(sample(p.denoiser, x, levels, edm_churn(40.0, 100.0, 200.0), seed=1), heun)
    assert not torch.equal(sample(p.denoiser, x, levels, "edm_churn", seed=1), heun)


@pytest.mark.parametrize(("S_churn", "S_tmax"), [(1.5, 50.0), (40.0, 50.0), (40.0, math.inf)])
def test_churn_is_algorithm_2(S_churn, S_tmax):
    """Karras et al. 2022, algorithm 2, with the range of the denoiser kept."""
    denoiser, levels = make_problem("mixture-1d").denoiser, [80.0, 60.0, 20.0, 3.0, 0.3, 0.04, 0.0]
    N, S_tmin, S_noise = 6, 0.05, 1.01
    x = 80 * _randn(5, 1)
    noise = _randn(N, 5, 1, seed=3)
    got = sample(denoiser, x, levels, edm_churn(S_churn, S_tmin, S_tmax, S_noise), noise=noise)
    for i in range(N):
        t, t_next = levels[i], levels[i + 1]
        gamma = min(S_churn / N, math.sqrt(2) - 1) if S_tmin <= t <= S_tmax else 0.0
        t_hat = min(t + gamma * t, 80.0)
        x_hat = x + math.sqrt(t_hat**2 - t**2) * S_noise * noise[i]
        d = (x_hat - denoiser(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if i < N - 1:
            d_next = (x - denoiser(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (d + d_next) / 2
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)


class HardRange(GaussianDenoiser):
    """A model that knows no noise level outside its table."""

    def __call__(self, x, sigma):
        level = torch.as_tensor(sigma)
        if level.max() > 3.0 or level.min() < 0.002:
            raise ValueError("sigma is out of range")
        return super().__call__(x, sigma)


def test_churn_stays_in_the_range_of_the_denoiser():
    solver = edm_churn(40.0, 0.0, math.inf)
    sample(HardRange(), 3 * _randn(4, 1), edm(5, 0.002, 3.0).sigmas, solver, seed=0)
    settings = {"sigma_min": 0.002, "sigma_max": 3.0, "num_noises": 16, "solver": solver, "num_steps": 5}
    env = ARTVectorEnv(16, problem="custom", denoiser=HardRange(), **settings)
    env.reset(seed=0)
    for _ in range(5):
        *_, terminated, _, _ = env.step(np.zeros((16, 1), np.float32))
    assert terminated.all()


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("K", [1, 2, 7])
def test_evaluations(name, K):
    denoiser = CountedDenoiser(GaussianDenoiser())
    sample(denoiser, torch.ones(6, 1, dtype=torch.float64), edm(K, 0.002, 80.0).sigmas, name, seed=0)
    assert denoiser.nfe == {"euler_maruyama": K, "edm_churn": 2 * K - 1}[name] == SOLVERS[name].nfe(K)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_carried_slope_saves_one_evaluation(name):
    solver, denoiser = SOLVERS[name], CountedDenoiser(make_problem("mixture-2d").denoiser)
    x, sigma, after = _randn(5, 2), torch.linspace(2, 3, 5).double(), torch.linspace(0.5, 1, 5).double()
    state = SolverState(noise=_randn(5, 2, seed=1), num_steps=4)
    plain, _ = solver.step(denoiser, x, sigma, after, state)
    assert denoiser.nfe == solver.evals_per_step
    there = solver.add_churn(x, sigma, state)
    assert torch.equal(there[1], sigma) is (name == "euler_maruyama")
    d = to_d(denoiser, *there)
    denoiser.reset()
    carried, _ = solver.step(denoiser, x, sigma, after, state._replace(d=d))
    assert torch.equal(carried, plain)
    assert denoiser.nfe == solver.evals_per_step - 1
    alone = SolverState(noise=state.noise[3:4], num_steps=4)
    one, _ = solver.step(denoiser, x[3:4], sigma[3:4], after[3:4], alone)
    torch.testing.assert_close(one, plain[3:4], rtol=1e-13, atol=1e-13)


def test_a_gradient_goes_through_a_stochastic_run():
    p = make_problem("mixture-1d")
    for name in STOCHASTIC:
        levels = torch.tensor([40.0, 30.0, 5.0, 0.5, 0.01], dtype=torch.float64, requires_grad=True)

        def total(levels, name=name):
            return sample(p.denoiser, 40 * _randn(3, 1), levels, name, seed=1).sum()

        (grad,) = torch.autograd.grad(total(levels), levels)
        for k in (1, 2, 3):
            h = torch.zeros(5, dtype=torch.float64)
            h[k] = 1e-6
            numeric = float(total(levels.detach() + h) - total(levels.detach() - h)) / 2e-6
            assert float(grad[k]) == pytest.approx(numeric, rel=1e-4, abs=1e-6)


# Noise


def test_the_noise_is_a_table():
    table = StepNoise((2,), seed=7)
    whole = table.first(3, 3 * BLOCK)
    assert whole.shape == (3 * BLOCK, 2)
    assert torch.equal(StepNoise((2,), seed=7).first(3, 10), whole[:10])
    index = torch.tensor([700, 2, 2, 300])
    assert torch.equal(StepNoise((2,), seed=7).rows(torch.full((4,), 3), index), whole[index])
    mixed = table.rows(torch.tensor([3, 1, 3, 0]), index)
    assert torch.equal(mixed[[0, 2]], whole[index[[0, 2]]])
    assert torch.equal(mixed[1], table.first(1, 3)[2])
    for other in (StepNoise((2,), seed=8).first(3, 10), table.first(2, 10), whole[BLOCK : BLOCK + 10]):
        assert not torch.isin(other, whole[:10]).any()
    many = StepNoise((1,), seed=0).first(0, 20_000)
    assert float(many.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(many.var()) == pytest.approx(1.0, abs=0.03)
    assert float(many.pow(4).mean()) == pytest.approx(3.0, abs=0.2)


def test_large_tables_are_drawn_anew(monkeypatch):
    whole = [StepNoise((2,), 0).first(k, 600) for k in range(4)]
    monkeypatch.setattr("art_env.diffusion.noise.KEEP", 8 * 2 * 600 * 2)
    table = StepNoise((2,), 0)
    for k in (0, 1, 2, 3, 0, 2):
        assert torch.equal(table.first(k, 600), whole[k])
        assert len(table._kept) <= 2


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_are_a_function_of_the_seed(name):
    p, levels = make_problem("mixture-2d"), edm(5, 0.002, 80.0).sigmas
    x = p.sample_noise(300, 0)
    ends = sample(p.denoiser, x, levels, name, seed=2)
    assert torch.equal(sample(p.denoiser, x, levels, name, seed=2), ends)
    torch.testing.assert_close(sample(p.denoiser, x[:7], levels, name, seed=2), ends[:7])
    assert not torch.isclose(sample(p.denoiser, x, levels, name, seed=3), ends).all(1).any()
    table = StepNoise((2,), 2)
    noise = torch.stack([table.first(k, 300) for k in range(5)])
    assert torch.equal(sample(p.denoiser, x, levels, name, noise=noise), ends)


# Environment


def _episode(env, actions, **reset):
    obs, _ = env.reset(**reset)
    observations, rewards = [obs], []
    for action in actions:
        obs, reward, *_ = env.step(action)
        observations.append(obs)
        rewards.append(reward)
    return observations, np.array(rewards)


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize(
    ("problem", "final_sigmas_type"), [("mixture-1d", "sigma_min"), ("mixture-2d", "zero")]
)
def test_the_environment_is_the_plain_sampler(name, problem, final_sigmas_type):
    p = make_problem(problem, final_sigmas_type=final_sigmas_type)
    dynamics = Dynamics(problem=p, solver=name, num_steps=4, num_noises=64, noise_seed=5, group_size=32)
    state = dynamics.initial(index=torch.arange(64))
    sigmas = [80.0]
    for _ in range(4):
        state = dynamics.transition(state, torch.full((64,), 0.3, dtype=torch.float64))
        sigmas.append(float(state.sigma[0]))
    ends = sample(p.denoiser, p.sample_noise(64, 5), sigmas, name, seed=5)
    tolerance = 1e-3 if final_sigmas_type == "zero" else 1e-9  # slopes below sigma_min are taken there
    torch.testing.assert_close(state.x, ends, rtol=tolerance, atol=tolerance)
    assert state.nfe.tolist() == [SOLVERS[name].nfe(4)] * 64
    assert not state.error.any()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_transitions_are_pure_and_depend_on_the_row_of_the_pool_alone(name):
    dynamics = Dynamics(
        problem=make_problem("mixture-1d"), solver=name, num_noises=64, num_steps=3, group_size=16
    )

    def ends(index):
        state = dynamics.initial(index=index)
        for k in range(3):
            copies = [v.clone() for v in state]
            action = torch.full((len(index),), 0.2 * k, dtype=torch.float64)
            after = dynamics.transition(state, action)
            for a, b in zip(after, dynamics.transition(state, action), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            dynamics.observation(after)
            for a, b in zip(state, copies, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            state = after
        return state.x

    index = torch.tensor([5, 60, 5, 17])
    first = ends(index)
    torch.testing.assert_close(first[0], first[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(ends(index.flip(0)), first.flip(0), rtol=0, atol=1e-12)
    assert len(first.unique()) == 3


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
def test_the_group_reward_is_minus_w2_squared(name, mode):
    env = ARTVectorEnv(96, num_steps=3, noise_groups=3, solver=name, autoreset_mode=mode, **MIXTURE)
    rng = np.random.default_rng(0)
    exact = env.dynamics.reference.x_end  # 128 of them, 4 to each of 32 rows
    env.reset(seed=3)
    for episode in range(3):
        if episode and mode == "DISABLED":
            env.reset(options={"reset_mask": np.ones(96, bool)})
        start = env._state.index.reshape(3, 32)
        assert torch.equal(start[0], start[1])
        for k in range(3):
            actions = rng.uniform(-1, 1, (3, 1, 1)).repeat(32, 1).reshape(96, 1)
            expected = env.dynamics.transition(env._state, torch.from_numpy(actions[:, 0]))
            _, rewards, terminated, _, infos = env.step(actions)
            assert terminated.all() == (k == 2)
            if k < 2:
                assert not rewards.any()
        by_group = rewards.reshape(3, 32)
        for g in range(3):
            own = expected.x.reshape(3, 32)[g]
            distance = wasserstein_1d(own.repeat_interleave(4), exact)
            assert by_group[g].mean() == pytest.approx(-(distance**2), rel=1e-12)
            assert (by_group[g] < 0).all()
        assert len({round(m, 12) for m in by_group.mean(1)}) == 3
        last = infos.get("final_info", infos)
        assert "rmse" not in last
        assert "error" not in last
        if mode == "NEXT_STEP":
            env.step(actions)


def test_sliced_parts_sum_to_sliced_w2():
    exact, samples = _randn(100, 3, seed=1), 1.3 * _randn(66, 3)
    distance = GroupDistance(exact, 33, num_projections=100, seed=4)
    parts = distance.contributions(samples).reshape(2, 33)
    for group, part in zip(samples.reshape(2, 33, 3), parts, strict=True):
        want = sliced_w2(group.repeat_interleave(3, 0), exact[:99], 100, seed=4)
        assert float(part.mean()) == pytest.approx(want**2, rel=1e-10)
    # Whose sample is where does not matter, and the part goes with the sample.
    turned = distance.contributions(samples.reshape(2, 33, 3).flip(1).reshape(66, 3)).reshape(2, 33)
    torch.testing.assert_close(turned.flip(1), parts)
    assert sliced_distance(exact, exact) == pytest.approx(0.0, abs=1e-12)
    one, two = _randn(40), _randn(40, seed=1)
    assert sliced_distance(one[:, None], two[:, None]) == pytest.approx(wasserstein_1d(one, two))


def test_images_are_compared_by_their_features():
    env = ARTVectorEnv(16, problem="digits", num_steps=2, solver="euler_maruyama", num_noises=16)
    assert env.dynamics.reward_rule.distance.lines.shape == (32, 128)
    env.reset(seed=0)
    env.step(np.zeros((16, 1), np.float32))
    *_, rewards, _, _, _ = env.step(np.zeros((16, 1), np.float32))
    assert (rewards < 0).all()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_euler_reward_needs_no_group(name):
    for env in (
        ARTEnv(problem="mixture-2d", solver=name, reward="euler", num_steps=4),
        ARTEnv(problem="mixture-1d", solver=name, reward="euler", num_steps=4, final_sigmas_type="zero"),
        ARTEnv(problem="gaussian-1d", solver=name, reward="euler", control="speed", num_steps=3),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*Box action space.*")
            check_env(env, skip_render_check=True)
    actions = [np.array([a], np.float32) for a in (0.5, -1.0, 0.1, 0.0)]
    env = ARTEnv(problem="mixture-1d", solver=name, reward="euler", num_steps=4)
    runs = [_episode(env, actions, seed=s)[1] for s in (1, 2, 1)]
    assert np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0], runs[1])
    assert (runs[0] < 0).all()


def test_a_row_with_the_euler_reward_is_the_scalar_environment():
    settings = {"problem": "mixture-1d", "solver": "edm_churn", "reward": "euler", "num_steps": 3}
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 4, 1)).astype(np.float32)
    _, rewards = _episode(ARTVectorEnv(4, **settings), actions, seed=8)
    for i in range(4):
        _, own = _episode(ARTEnv(**settings), actions[:, i], seed=8 + i)
        np.testing.assert_allclose(own, rewards[:, i], rtol=1e-9)


@pytest.mark.parametrize(("name", "per_episode"), [("euler_maruyama", 5), ("edm_churn", 9)])
def test_nothing_is_evaluated_twice(name, per_episode):
    env = ARTVectorEnv(16, num_steps=5, solver=name, **MIXTURE)
    env.reset(seed=0)
    for _ in range(5):
        *_, infos = env.step(np.zeros((16, 1), np.float32))
    assert infos["nfe"].tolist() == [per_episode] * 16
    assert env.denoiser_evals == 16 * per_episode


def test_raw_speed_may_stand_still_run_back_or_end_early():
    settings = {"reward": "euler", "control": "speed", "num_steps": 4, "features": ()}
    for name in STOCHASTIC:
        env = ARTEnv(problem="gaussian-1d", solver=name, **settings)
        for speeds in ([0.0, 1.0, -0.5, 2.0], [4.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 3.0, 9.0]):
            observations, rewards = _episode(env, [np.array([s], np.float32) for s in speeds], seed=0)
            assert np.isfinite(rewards).all()
            assert all(o in env.observation_space for o in observations)


def test_learning_lowers_the_distance():
    problem = make_problem("gaussian-1d")
    env = ARTVectorEnv(
        512, problem=problem, noise_groups=4, solver="euler_maruyama", num_steps=4, features=(), base_schedule=7.0,
        autoreset_mode="SAME_STEP",
    )  # fmt: skip
    wrapped = to_sb3(env)
    wrapped.seed(0)
    model = ARTRL("ARTPolicy", wrapped, seed=0).learn(60 * 512 * 4)
    learned = distill(model, env.dynamics)
    evaluator = Evaluator(problem, "euler_maruyama")
    own, other = (evaluator.rows(s)[0].mean for s in (learned, edm(4, 0.0, 3.0)))
    assert own < 0.8 * other


# Scores


def test_scores_of_the_gaussian_are_exact():
    problem = make_problem("gaussian-1d")
    for name in STOCHASTIC:
        schedule = edm(5, 0.0, 3.0)
        (row,) = Evaluator(problem, name).rows(schedule)
        sampled = Evaluator(replace(problem, linear=False), name, range(4), num_noises=20_000).rows(schedule)
        assert (row.metric, row.sd) == ("w2", 0.0)
        assert row.mean == pytest.approx(abs(1 - math.sqrt(_variance(schedule.sigmas, name))), rel=1e-9)
        assert sampled[0].mean == pytest.approx(row.mean, rel=0.1)


def test_scores_are_distances_on_held_out_noise():
    problem = replace(make_problem("mixture-1d"), num_noises=1024)
    schedule = edm(5, 0.002, 80.0, final_sigmas_type="sigma_min")
    evaluator = Evaluator(problem, "edm_churn", (0, 1))
    (row,) = evaluator.rows(schedule)
    assert (row.metric, row.nfe, row.n) == ("w2", 9, 2)
    again = Evaluator(problem, "edm_churn", (0, 1)).rows(schedule)
    assert again[0].mean == row.mean
    x = problem.sample_noise(1024, 10_000)
    ends = sample(problem.denoiser, x, schedule.sigmas, "edm_churn", seed=10_000)
    assert Evaluator(problem, "edm_churn", (0,)).rows(schedule)[0].mean == pytest.approx(
        wasserstein_1d(ends, problem.sample_data(1024, 10_000)), rel=1e-9
    )
    assert evaluator.floor()[0].mean < row.mean
    assert evaluator.reference_error() == 0.0
    torch.testing.assert_close(evaluator.samples(schedule, 3), ends[:3])
    for name in ("uniform", "edm", "log_snr", "cosine", "closed_form"):
        assert make_schedule(name, problem, 4, "euler_maruyama").num_steps == 4


def test_a_problem_without_data_is_compared_with_exact_samples():
    problem = replace(custom_problem(GaussianDenoiser(shape=(2,))), num_noises=256)
    (row,) = Evaluator(problem, "euler_maruyama", (0,)).rows(make_schedule("closed_form", problem, 40))
    assert row.metric == "sliced_w2"
    assert 0 < row.mean < 0.4


def test_train_py_learns_a_schedule_for_a_stochastic_sampler(tmp_path, monkeypatch, capsys):
    import train

    argv = "art --problem gaussian-1d --solver euler_maruyama --num-steps 3 --num-envs 64 --noise-groups 4"
    options = ["--total-timesteps", str(20 * 64 * 3), "--run-dir", str(tmp_path / "run"), "--no-progress"]
    monkeypatch.setattr("sys.argv", ["train.py", *argv.split(), *options])
    assert train.main() == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ratio"] is None
    assert summary["rmse"] is None
    assert summary["w2"] > 0
    assert "art/sliced_w2" in (tmp_path / "run" / "progress.csv").read_text()


# What is refused


def test_errors():
    p, x, levels = make_problem("mixture-1d"), torch.ones(2, 1, dtype=torch.float64), [80.0, 1.0, 0.0]
    grid = edm(3, 0.002, 80.0, final_sigmas_type="sigma_min")
    for name in STOCHASTIC:
        with pytest.raises(ValueError, match=rf"seed = None: solver '{name}' draws noise; pass seed"):
            sample(p.denoiser, x, levels, name)
        with pytest.raises(ValueError, match=r"noise has shape \(2, 2\); expected \(2, 2, 1\)"):
            sample(p.denoiser, x, levels, name, noise=torch.zeros(2, 2))
        with pytest.raises(ValueError, match=rf"state.noise = None: a step of '{name}'"):
            SOLVERS[name].step(p.denoiser, x, torch.tensor(2.0), torch.tensor(1.0), SolverState(num_steps=3))
        with pytest.raises(
            ValueError, match=r"here a group is 1 row; use ARTVectorEnv with num_envs / noise"
        ):
            ARTEnv(solver=name, **MIXTURE)
        with pytest.raises(ValueError, match="here a group is 8 rows"):
            ARTVectorEnv(32, noise_groups=4, solver=name, **MIXTURE)
        with pytest.raises(
            ValueError, match=rf"solver = '{name}' is stochastic, and reward = 'local' is paired"
        ):
            ARTVectorEnv(32, solver=name, reward="local", **MIXTURE)
        with pytest.raises(ValueError, match="group_size = 256 exceeds the 128 exact samples: raise num_noi"):
            ARTVectorEnv(256, solver=name, **MIXTURE)
        for spec in ("oracle", "dp", "edm_tuned"):
            with pytest.raises(
                ValueError, match=rf"'{name}' is stochastic, and schedule '{spec}'.*use one of euler,"
            ):
                make_schedule(spec, p, 3, name)
            with pytest.raises(ValueError, match=f"schedule '{spec}'"):
                check_spec(spec, p, name)
        evaluator = Evaluator(p, name, (0,), num_noises=64)
        for call in (lambda s=evaluator: s.ratio(grid, grid), lambda s=evaluator: s.rows(grid, grid)):
            with pytest.raises(ValueError, match="the ratio to the oracle is paired"):
                call()
        with pytest.raises(ValueError, match=r"metrics = \(\): solver .* its metrics: w2"):
            Evaluator(p, name, metrics=())
    with pytest.raises(ValueError, match=r"state.num_steps = None"):
        SOLVERS["edm_churn"].step(p.denoiser, x, torch.tensor(2.0), torch.tensor(1.0), SolverState(noise=x))
    for bad in (
        {"S_churn": -1.0},
        {"S_noise": math.nan},
        {"S_tmin": math.inf},
        {"S_tmin": 2.0, "S_tmax": 1.0},
    ):
        with pytest.raises(ValueError, match="S_"):
            Churn(**bad)
    with pytest.raises(ValueError, match="seed = -1"):
        StepNoise((1,), -1)


def test_groups_are_reset_and_stepped_as_a_whole():
    env = ARTVectorEnv(
        32, num_steps=2, noise_groups=2, solver="edm_churn", autoreset_mode="DISABLED", **MIXTURE
    )
    env.reset(seed=0)
    env.step(np.zeros((32, 1)))
    half = np.arange(32) < 16
    env.reset(options={"reset_mask": half})
    _, rewards, terminated, _, _ = env.step(np.zeros((32, 1)))
    assert terminated.tolist() == (~half).tolist()
    assert ((rewards < 0) == ~half).all()
    with pytest.raises(ValueError, match="the 16 rows of a group must be reset together"):
        env.reset(options={"reset_mask": np.arange(32) < 20})
    dynamics = Dynamics(problem=make_problem("mixture-1d"), solver="edm_churn", num_noises=64, num_steps=1)
    state = dynamics.initial(index=torch.arange(20))
    action = torch.zeros(20, dtype=torch.float64)
    after = dynamics.transition(state, action)
    with pytest.raises(ValueError, match="group_size = None"):
        dynamics.reward(state, action, after)
    sized = Dynamics(
        problem=make_problem("mixture-1d"), solver="edm_churn", num_noises=64, num_steps=1, group_size=16
    )
    with pytest.raises(ValueError, match="whole groups of 16 rows"):
        sized.reward(state, action, after)


def test_a_plain_heun_step_needs_nothing_of_this():
    x = _randn(3, 1)
    plain, _ = heun_step(GaussianDenoiser(), x, torch.tensor(2.0).double(), torch.tensor(1.0).double())
    extra = SolverState(noise=_randn(3, 1, seed=2), num_steps=3)
    given, _ = heun_step(GaussianDenoiser(), x, torch.tensor(2.0).double(), torch.tensor(1.0).double(), extra)
    assert torch.equal(plain, given)
