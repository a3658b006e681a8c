"""ART-RL as an SB3 algorithm: it acts by ``step`` alone, learns, repeats itself, and updates as the formulas say."""

from __future__ import annotations

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from closeness import assert_float32_close
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from agents.art_rl import ARTRL, ARTPolicy, PaperARTRL, PaperPolicy
from agents.art_rl.initial_noises import EVEN, InitialNoises
from agents.art_rl.restarts import Restarts
from agents.distill import distill
from agents.schedule_policy import SchedulePolicy
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.problems.library import make_problem
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _env(rows: int = 32, groups: int = 4, **settings) -> VecEnv:
    settings = {"problem": "mixture-1d", "num_steps": 5, "features": (), "num_noises": 64, **settings}
    return to_sb3(ARTVectorEnv(rows, autoreset_mode="SAME_STEP", noise_groups=groups, **settings))


def _paper_env(rows: int = 1, K: int = 6, **settings) -> VecEnv:
    settings = {
        "problem": "gaussian-1d",
        "solver": "euler",
        "num_steps": K,
        "reward": "euler",
        "control": "speed",
        "features": ("x", "log_curvature"),
        **settings,
    }
    return to_sb3(ARTVectorEnv(rows, autoreset_mode="SAME_STEP", **settings))


def _dynamics(env: VecEnv):
    return env.get_attr("dynamics")[0]


def _parameters(model: ARTRL) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.policy.state_dict().items()}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _collect(model: ARTRL, remaining: float = 1.0) -> None:
    """One rollout into the buffer, without an update."""
    _, callback = model._setup_learn(10**6, None, reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model._current_progress_remaining = remaining


class _Counted(VecEnvWrapper):
    """Counts steps and resets, and lets nothing else through but what SB3 asks for."""

    def __init__(self, venv: VecEnv) -> None:
        self.steps, self.resets, self.asked = 0, 0, set()
        super().__init__(venv)

    def reset(self):
        self.resets += 1
        return self.venv.reset()

    def step_wait(self):
        self.steps += 1
        return self.venv.step_wait()

    def get_attr(self, attr_name, indices=None):
        self.asked.add(attr_name)
        return self.venv.get_attr(attr_name, indices)

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise AssertionError(f"{method_name} was called")


class _Toy(gym.Env):
    """Three steps with two controls; each costs its squared distance to a target that the step knows."""

    targets = np.array([[0.3, -0.4], [-0.2, 0.5], [0.6, 0.1]])
    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    num_steps = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert not options
        self.k = 0
        return np.array([0.0, 1.0], np.float32), {}

    def step(self, action):
        cost = float(np.square(action - self.targets[self.k]).sum()) + 0.01 * self.np_random.normal()
        self.k += 1
        obs = np.array([self.k / 3, 1 - self.k / 3], np.float32)
        return obs, -cost, self.k == 3, False, {}


# What it is


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("features", [(), ("rms", "log_velocity")])
@pytest.mark.parametrize("wrapper", [None, VecMonitor, VecNormalize])
def test_acts_by_step_and_trains_all_of_actor_and_critic(wrapper, features, groups: int) -> None:
    counted = _Counted(_env(features=features, groups=groups))
    model = ARTRL("ARTPolicy", counted if wrapper is None else wrapper(counted), seed=0)
    before = _parameters(model)
    model.learn(6 * 32 * 5)
    after = _parameters(model)
    names = [name for name, _ in model.policy.named_parameters()]
    assert any(name.startswith("actor_net") for name in names) == bool(features)
    for name in names:
        moved = before[name] != after[name]
        assert moved.all() if name == "table.values" else moved.any(), name
    assert counted.steps == 6 * 5
    assert counted.resets == 1 + 6  # of SB3, and one a rollout to choose the noises
    assert counted.asked <= {
        *("num_steps", "noise_groups", "num_initial_noises", "distributions", "render_mode")
    }
    assert model.num_updates == 6
    # What the critic says is what advantages are measured against.
    buffer = model.rollout_buffer
    assert buffer.values.any()
    assert_float32_close(buffer.returns - buffer.values, buffer.advantages, 1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_two_controls_of_an_environment_that_is_not_ours(groups: int) -> None:
    env = DummyVecEnv([_Toy] * 16)
    env.seed(0)
    model = ARTRL("ARTPolicy", env, seed=0, noise_groups=groups)
    assert model.initial_noises is None
    model.learn(150 * 16 * 3)
    assert model.policy.table.values.shape == (3, 2)
    learned = model.predict(np.array([[k / 3, 1 - k / 3] for k in range(3)], np.float32), deterministic=True)[
        0
    ]
    assert learned == pytest.approx(_Toy.targets, abs=0.05)


def test_learns_what_the_best_schedule_does() -> None:
    """On noises that it has not met."""
    problem = make_problem("mixture-1d")
    env = _env(512, 16, solver="euler", base_schedule="closed_form", num_noises=None)
    model = ARTRL("ARTPolicy", env, seed=0).learn(60 * 512 * 5)
    held_out = problem.reference(4096, 12345)
    learned, start = (
        final_rmse(problem.denoiser, held_out, s.sigmas, _dynamics(env).solver)
        for s in (distill(model, _dynamics(env)), make_schedule("closed_form", problem, 5, "euler"))
    )
    assert start > 0.40
    assert learned < 1.03 * 0.3797  # the oracle's


def test_a_policy_that_sees_the_sample() -> None:
    env = _env(64, 8, features=("rms", "log_velocity", "log_curvature"))
    model = ARTRL("ARTPolicy", env, seed=0)
    obs = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
    obs[:, 0] = 0.4
    assert torch.equal(model.policy.mean(obs), torch.zeros(16, 1))  # starts as the base schedule
    model.learn(15 * 64 * 5)
    assert float(model.policy.mean(obs).detach().std()) > 1e-4
    schedule = distill(model, _dynamics(env), 32)
    assert max(schedule.meta["theta_sd"]) > 0
    assert schedule.sigma_end == 0.002


# As an SB3 algorithm


@pytest.mark.parametrize("features", [(), ("rms", "log_velocity")])
def test_same_seed_same_agent(features) -> None:
    agents = []
    for seed in (3, 3, 4):
        env = _env(features=features)
        env.seed(0)
        agents.append(_parameters(ARTRL("ARTPolicy", env, seed=seed).learn(6 * 32 * 5)))
    assert _same(agents[0], agents[1])
    assert not torch.equal(agents[0]["table.values"], agents[2]["table.values"])


def test_save_load_predict_and_go_on(tmp_path) -> None:
    kwargs = {"net_arch": [16], "critic_arch": [8], "adam_betas": (0.8, 0.9)}
    settings = {"policy_kwargs": kwargs, "critic_learning_rate": 2e-3, "std_start": 0.4}
    model = ARTRL("ARTPolicy", _env(features=("rms",)), seed=1, **settings)
    model.learn(6 * 32 * 5)
    model.save(tmp_path / "agent.zip")
    loaded = ARTRL.load(tmp_path / "agent.zip", env=_env(features=("rms",)))
    assert _same(_parameters(model), _parameters(loaded))
    assert [m.out_features for m in loaded.policy.actor_net if hasattr(m, "out_features")] == [16, 1]
    assert [m.out_features for m in loaded.policy.critic_net if hasattr(m, "out_features")] == [8, 1]
    assert loaded.policy.adam_betas == (0.8, 0.9)
    assert (loaded.std_start, loaded.critic_learning_rate, loaded.noise_groups) == (0.4, 2e-3, 4)
    assert (loaded.num_timesteps, loaded.num_updates) == (6 * 32 * 5, 6)
    assert loaded.initial_noises.costs == pytest.approx(model.initial_noises.costs, nan_ok=True)
    for name in ("optimizer", "critic_optimizer"):
        a, b = (getattr(m.policy, name).state_dict() for m in (model, loaded))
        assert a["state"]
        assert a["param_groups"] == b["param_groups"]
        for i, state in a["state"].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["state"][i][key]))
    obs = np.random.default_rng(0).random((7, 3), dtype=np.float32)
    assert (model.predict(obs, deterministic=True)[0] == loaded.predict(obs, deterministic=True)[0]).all()
    # Without an environment too: an agent is a policy. And a policy can be saved by itself.
    bare = ARTRL.load(tmp_path / "agent.zip")
    assert (bare.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()
    model.policy.save(tmp_path / "policy.pt")
    assert _same(_parameters(model), dict(ARTPolicy.load(tmp_path / "policy.pt").state_dict()))
    before = _parameters(loaded)
    loaded.learn(4 * 32 * 5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 10 * 32 * 5
    assert not torch.equal(before["table.values"], _parameters(loaded)["table.values"])


class _Memory(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict] = []

    def write(self, key_values, key_excluded, step=0) -> None:
        self.rows.append({**key_values, "step": step})

    def close(self) -> None:
        pass


class _Count(BaseCallback):
    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__()
        self.steps = self.rollouts = 0
        self.stop_after = stop_after

    def _on_step(self) -> bool:
        self.steps += 1
        return self.steps < self.stop_after

    def _on_rollout_end(self) -> None:
        self.rollouts += 1


def test_logs_and_callbacks() -> None:
    model, memory, count = ARTRL("ARTPolicy", _env(), seed=0), _Memory(), _Count()
    model.set_logger(Logger(None, [memory]))
    model.learn(4 * 32 * 5, callback=count, log_interval=1)
    assert (count.steps, count.rollouts) == (20, 4)
    assert [row["step"] for row in memory.rows] == [160 * i for i in range(1, 5)]
    keys = {"train/actor_loss", "train/critic_loss", "train/std", "train/explained_variance"}
    last = memory.rows[-1]
    assert keys | {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= last.keys()
    assert all(math.isfinite(last[k]) for k in keys)
    assert last["train/std"] < model.std_start


def test_a_callback_can_stop_it() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0)
    model.learn(100 * 32 * 5, callback=_Count(stop_after=7))
    assert model.num_timesteps == 7 * 32


def test_the_average_is_what_is_deployed() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0, average_last=0.5)
    seen = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(model.policy.table.values.detach().clone())

    model.learn(8 * 32 * 5, callback=Watch())
    # seen[i] is what i updates have made. The last update is not seen, but the average tells it.
    assert model._averaged == 5
    mean = model.policy.table.values.detach()
    last = 5 * mean - torch.stack(seen[4:]).sum(0)
    assert float((last - seen[-1]).abs().max()) < 0.05
    assert not torch.equal(mean, seen[-1])


def test_a_total_that_is_no_multiple_of_the_rollout_never_climbs() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0, average_last=0.0)
    model.learn(32 * 5 + 32)
    assert model.num_timesteps == 2 * 32 * 5
    assert model.policy.optimizer.param_groups[0]["lr"] == 0  # not negative
    assert float(model.policy.std) >= model.std_end * (1 - 1e-5)


# The update


@pytest.mark.parametrize("features", [(), ("rms", "log_velocity")])
def test_groups_share_noises_and_explore_in_opposite_pairs(features) -> None:
    env = _env(12, 4, features=features)
    model = ARTRL("ARTPolicy", env, seed=0)
    _collect(model)
    buffer = model.rollout_buffer
    first = buffer.observations[0].reshape(4, 3, -1)
    assert (first == first[:1]).all()
    actions = buffer.actions[0, :, 0].reshape(4, 3)
    assert (actions[:2] == -actions[2:]).all()
    if features:  # a policy that tells rows apart lets each explore by itself
        assert len(np.unique(first[0, :, 3])) == 3
        assert len(np.unique(actions)) == 12
    else:
        assert (actions == actions[:, :1]).all()
        assert len(np.unique(actions)) == 4


def test_exploration_of_several_controls_is_opposite_too() -> None:
    space = gym.spaces.Box(-1, 1, (2,))
    policy = ARTPolicy(gym.spaces.Box(-1, 1, (3,)), space, lambda _: 0.1, num_steps=3, noise_groups=3)
    offsets = policy(torch.zeros(12, 3))[0].detach().reshape(3, 4, 2)
    assert torch.equal(offsets[0], -offsets[2])
    assert len(torch.unique(offsets.abs())) == 16


def test_without_groups_every_row_explores_by_itself() -> None:
    model = ARTRL("ARTPolicy", _env(12, 1), seed=0)
    assert len(torch.unique(model.policy(torch.zeros(12, 2))[0])) == 12


def test_log_density() -> None:
    policy = ARTRL("ARTPolicy", DummyVecEnv([_Toy]), seed=0).policy
    obs = torch.rand(6, 2)
    actions, _, log_prob = policy(obs)
    z = (actions - policy.mean(obs)) / policy.std
    expected = (-0.5 * z.square() - math.log(float(policy.std) * math.sqrt(2 * math.pi))).sum(1)
    assert_float32_close(log_prob.detach(), expected.detach())
    assert_float32_close(policy.log_prob(obs, actions).detach(), expected.detach())


def test_actor_gradient_by_hand() -> None:
    # Two groups of two rows, two steps; the mean is 0, so the score is a / std^2.
    model = ARTRL("ARTPolicy", _env(4, 2, num_steps=2), seed=0, std_start=0.5, std_end=0.5)
    _collect(model)
    buffer = model.rollout_buffer
    model.initial_noises.weights = np.array([2.0, 0.5])
    actions = np.array([[0.2, 0.2, -0.2, -0.2], [0.1, 0.1, -0.1, -0.1]])
    buffer.actions[..., 0] = actions
    # Rows 0 and 2 meet one noise, rows 1 and 3 another, whose errors are larger.
    buffer.rewards[:] = [[-1.0, -9.0, -2.0, -4.0], [-1.0, -10.0, -1.0, -1.0]]
    buffer.advantages[:] = [[-1.0, -103.0, -3.0, -101.0], [-2.0, -200.0, -6.0, -208.0]]
    buffer.returns[:] = 1.0
    delta = np.array([[[1, -1], [-1, 1]], [[2, 4], [-2, -4]]]) * [2.0, 0.5]  # [step, group, member]
    before = np.array([[[0, 0], [0, 0]], [[0.5, -2.5], [-0.5, 2.5]]]) * [2.0, 0.5]
    d, b = delta.mean(2), before.mean(2)
    slope = (d[1] * b[1]).sum() / (b[1] ** 2).sum()
    delta[1] -= slope * before[1]
    weights = delta / delta.mean(2).std(ddof=1)
    score = (weights.reshape(2, 4) * actions / 0.5**2).sum(1) / 8
    model.train()
    assert model.policy.table.values.grad[:, 0].numpy() == pytest.approx(-score, rel=1e-5)
    step = model.learning_rate * np.sign(score)  # Adam's first
    assert model.policy.table.values[:, 0].detach().numpy() == pytest.approx(step, rel=1e-3)


def test_rows_that_explore_by_themselves_are_a_sample_each() -> None:
    """The scale of the advantages with features: their spread over rows, not over means of groups."""
    model = ARTRL("ARTPolicy", _env(4, 2, num_steps=2, features=("rms",)), seed=0, std_start=0.5, std_end=0.5)
    _collect(model)
    buffer = model.rollout_buffer
    model.initial_noises.weights = np.ones(2)
    buffer.rewards[:], buffer.returns[:] = 0.0, 1.0
    buffer.advantages[:] = [[1.0, -3.0, -1.0, 3.0], [2.0, 5.0, -2.0, -5.0]]
    weights = buffer.advantages / buffer.advantages.std(ddof=1)
    score = (weights * buffer.actions[..., 0] / 0.5**2).sum(1) / 8
    model.train()
    assert model.policy.table.values.grad[:, 0].numpy() == pytest.approx(-score, rel=1e-4)


def test_the_reward_before_an_action_is_no_part_of_its_advantage() -> None:
    """Large rewards of the first step, of which the second has no part: they cancel."""
    grads = []
    for early in (0.0, 1000.0):
        model = ARTRL("ARTPolicy", _env(8, 4, num_steps=2), seed=0, std_start=0.3)
        _collect(model)
        buffer, noise = model.rollout_buffer, early * np.repeat([1.0, -2.0, 0.5, 0.5], 2)
        buffer.rewards[0] += noise
        buffer.advantages[1] += 0.7 * noise  # as after a step whose cost is undone later
        model.train()
        grads.append(float(model.policy.table.values.grad[1, 0]))
    assert abs(grads[1]) < 10 * abs(grads[0]) + 1.0


def test_critic_is_fitted_to_the_traced_returns() -> None:
    model = ARTRL("ARTPolicy", _env(64, 4), seed=0, critic_updates=300, critic_learning_rate=1e-2)
    _collect(model)
    buffer = model.rollout_buffer
    buffer.returns[:] = -np.array([5.0, 4.0, 3.0, 2.0, 1.0])[:, None]
    obs = torch.as_tensor(buffer.observations).flatten(0, 1)
    model.train()
    values = model.policy.predict_values(obs).detach().reshape(5, 64).mean(1)
    assert values.numpy() == pytest.approx([-5, -4, -3, -2, -1], rel=0.1)


def test_the_table_stays_in_the_action_space() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0, learning_rate=50.0).learn(3 * 32 * 5)
    assert float(model.policy.table.values.detach().abs().max()) <= 1.0


def test_begins_with_a_schedule() -> None:
    env = _env(base_schedule=7.0, action_range=8.0)
    model = ARTRL("ARTPolicy", env, seed=0)
    schedule = make_schedule("log_snr", make_problem("mixture-1d"), num_steps=5)
    actions = SchedulePolicy(schedule, _dynamics(env)).actions
    model.policy.set_table(actions)
    assert distill(model, _dynamics(env), 4).sigmas == pytest.approx(schedule.sigmas, rel=1e-4)
    model.policy.set_table(actions[:, 0])
    for bad in (actions[:3], actions + np.nan, actions + 2.0):
        with pytest.raises(ValueError, match="actions"):
            model.policy.set_table(bad)


def test_table_is_linear_between_steps() -> None:
    policy = ARTRL("ARTPolicy", DummyVecEnv([_Toy]), seed=0).policy
    policy.set_table(np.array([[0.0, 0.3], [0.2, 0.1], [0.6, -0.5]]))
    means = policy.mean(torch.tensor([[0.0, 1.0], [1 / 3, 0.6], [0.5, 0.5], [1.0, 0.0]])).detach()
    assert means.numpy() == pytest.approx(
        np.array([[0.0, 0.3], [0.2, 0.1], [0.4, -0.2], [0.6, -0.5]]), abs=1e-6
    )


# Short runs


def _planned(starts: int, rollouts: float) -> tuple[ARTPolicy, Restarts]:
    policy = ARTRL("ARTPolicy", _env(), seed=0).policy
    return policy, Restarts(policy, starts, rollouts, 0.2)


def test_the_best_of_the_short_runs_goes_on() -> None:
    policy, plan = _planned(3, 300)
    begins, ends, remaining = [], [], []
    for i in range(300):
        progress = (i + 1) / 300
        run = len(plan.ended)
        if len(begins) == run:
            begins.append(policy.table.values.detach().clone())
        with torch.no_grad():
            policy.table.values += 0.001
        remaining.append(plan.remaining(progress))
        ends = [*ends[:run], policy.table.values.detach().clone()]
        plan.update(policy, progress, (-5.0, -3.0, -4.0, 0.0)[run])
    assert len(plan.ended) == 3
    assert [round(score, 9) for score, _ in plan.ended] == [-5.0, -3.0, -4.0]
    assert not begins[0].any()
    assert not torch.equal(begins[1], begins[2])
    assert torch.equal(begins[3], ends[1])
    assert remaining[0] > 0.95
    assert remaining[29] == pytest.approx(0.3)
    assert remaining[90] < 0.5
    assert remaining[-1] == 0.0


@pytest.mark.parametrize(("starts", "rollouts"), [(1, 1000), (4, 100)])
def test_few_rollouts_are_one_run(starts: int, rollouts: int) -> None:
    policy, plan = _planned(starts, rollouts)
    assert plan.starts == 0
    assert [plan.remaining(p) for p in (0.0, 0.25, 1.0, 1.1)] == [1.0, 0.75, 0.0, 0.0]
    plan.update(policy, 1.0, 0.0)
    assert plan.ended == []


def test_short_runs_survive_a_file(tmp_path) -> None:
    model = ARTRL("ARTPolicy", _env(8, 4, num_steps=2), seed=0, starts=2)
    model.learn(140 * 16, callback=_Count(stop_after=2 * 25))
    assert len(model.restarts.ended) == 1
    model.save(tmp_path / "m.zip")
    loaded = ARTRL.load(tmp_path / "m.zip", env=_env(8, 4, num_steps=2))
    assert loaded.restarts.ended[0][0] == model.restarts.ended[0][0]
    loaded.learn(140 * 16 - loaded.num_timesteps, reset_num_timesteps=False)
    assert loaded.num_timesteps == 140 * 16
    assert len(loaded.restarts.ended) == 2


# Initial noises


def test_costly_noises_are_drawn_more_often_and_weigh_less() -> None:
    torch.manual_seed(0)
    noises = InitialNoises(10)
    assert sorted(noises.draw(10)) == list(range(10))
    assert noises.weights == pytest.approx(np.ones(10))
    costs = np.array([0.0, 0, 0, 0, 0, 0, 0, 0, 1.0, 9.0])
    noises.update(-costs[noises.index])
    share = EVEN / 10 + (1 - EVEN) * costs / 10
    index = noises.draw(100_000)
    assert np.bincount(index) / 100_000 == pytest.approx(share, abs=2e-5)
    assert noises.weights.mean() == pytest.approx(1.0, abs=1e-3)
    assert (noises.weights * costs[index]).mean() == pytest.approx(costs.mean(), rel=1e-3)
    noises.update(-costs[index] - 2)
    assert noises.costs[9] == pytest.approx(10.0)  # half old, half new


def test_an_unknown_noise_counts_as_an_average_one() -> None:
    noises = InitialNoises(4)
    noises.index = np.array([0, 1])
    noises.update(np.array([-1.0, -3.0]))
    noises.draw(1000)
    unknown = noises.weights[noises.index == 3][0]
    assert unknown == pytest.approx(1.0)


def test_no_choice_of_noises_where_samples_are_judged_as_one_set() -> None:
    for settings in ({"solver": "euler_maruyama"}, {"reward": "euler"}):
        model = ARTRL("ARTPolicy", _env(32, 2, **{"problem": "gaussian-1d", **settings}), seed=0)
        assert model.initial_noises is None
        model.learn(2 * 32 * 5)


# The literal algorithm


def test_paper_runs() -> None:
    env = _paper_env(K=10)
    model = PaperARTRL("PaperPolicy", env, seed=0)
    before = _parameters(model)
    model.learn(20 * 10)
    assert model.num_updates == 20
    after = _parameters(model)
    assert all(torch.isfinite(v).all() for v in after.values())
    assert math.isfinite(model.multiplier)
    assert model.multiplier != 0
    assert not torch.equal(before["actor_net.0.weight"], after["actor_net.0.weight"])
    assert not torch.equal(before["critic_net.0.weight"], after["critic_net.0.weight"])
    assert [m.out_features for m in model.policy.actor_net if hasattr(m, "out_features")] == [
        128,
        128,
        128,
        1,
    ]
    schedule = distill(model, _dynamics(env), 32)
    assert schedule.num_steps == 10
    assert schedule.sigma_end == 0


def test_paper_saves_its_multiplier(tmp_path) -> None:
    model = PaperARTRL("PaperPolicy", _paper_env(), seed=0)
    model.learn(5 * 6)
    model.save(tmp_path / "m.zip")
    loaded = PaperARTRL.load(tmp_path / "m.zip", env=_paper_env())
    model.policy.save(tmp_path / "policy.pt")
    assert _same(_parameters(model), dict(PaperPolicy.load(tmp_path / "policy.pt").state_dict()))
    assert loaded.multiplier == model.multiplier != 0
    assert _same(_parameters(model), _parameters(loaded))


def test_paper_policy_width_is_tied_to_the_stiffness() -> None:
    model = PaperARTRL("PaperPolicy", _paper_env(), seed=0, temperature=0.2)
    obs = torch.zeros(3, 4)
    obs[:, 3] = torch.tensor([-1 / 6, 0.0, 1 / 3])  # |Q| = 0.1, 1, 100
    pi = model.policy.distribution(obs)
    mean, std = pi.mean, pi.stddev
    assert (std**2).numpy() == pytest.approx(0.2 / np.array([0.1, 1.0, 100.0]), rel=1e-5)
    # Equal (t, x, psi): the mean may not see the stiffness.
    assert_float32_close(mean, mean[:1].expand(3))


def test_paper_noise_has_that_width() -> None:
    model = PaperARTRL("PaperPolicy", _paper_env(), seed=0)
    obs = torch.zeros(4000, 4)
    obs[:, 3] = torch.log10(torch.tensor(2.5)) / 6
    torch.manual_seed(0)
    actions = model.policy(obs)[0].detach()
    assert float(actions.var()) == pytest.approx(0.1 / 2.5, rel=0.08)


@pytest.mark.parametrize("rows", [1, 3])
def test_literal_update_by_the_formulas(rows: int) -> None:
    K, lam, a_gamma, lr = 4, 0.3, 0.5, 1e-3
    env = _paper_env(rows, K)
    model = PaperARTRL(
        "PaperPolicy",
        env,
        seed=0,
        temperature=lam,
        multiplier_step=a_gamma,
        learning_rate=lr,
        critic_learning_rate=lr,
    )
    twin = copy.deepcopy(model.policy)  # what the parameters should be
    nets = {"actor_net": twin.actor_net, "critic_net": twin.critic_net}
    adams = {k: torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.999)) for k, net in nets.items()}
    gamma, T = 0.0, 3.0
    dt = T / K
    for _ in range(3):
        _collect(model)
        buffer = model.rollout_buffer
        obs, theta = torch.as_tensor(buffer.observations), torch.as_tensor(buffer.actions)[..., 0]
        q = 10.0 ** (6 * obs[..., 3].double().numpy())
        # The environment's reward is the paper's: -|Q| theta^2 dt.
        loss = q * theta.double().numpy() ** 2 * dt
        assert -buffer.rewards == pytest.approx(loss, rel=1e-3, abs=1e-6)
        seen = obs[..., :3]  # t, psi, x
        with torch.no_grad():
            nn = twin.critic_net(seen)[..., 0].double().numpy()
        for b in range(rows):
            assert obs[:, b, 0].numpy() == pytest.approx(np.arange(K) / K)
        values = np.vstack([nn + lam * dt * np.arange(K)[:, None], np.full((1, rows), (gamma + lam) * T)])
        delta = values[1:] - values[:-1] - gamma * theta.double().numpy() * dt - loss
        delta = torch.as_tensor(delta).float()
        critic = (twin.critic_net(seen)[..., 0] * delta).sum() / rows
        mean = twin.actor_net(seen)[..., 0]
        variance = lam / torch.as_tensor(q).float()
        actor = (-((theta - mean) ** 2) / (2 * variance) * delta).sum() / rows
        for name, moment in (("critic_net", critic), ("actor_net", actor)):
            adams[name].zero_grad()
            (-moment).backward()
            adams[name].step()
        gamma += a_gamma * (float(theta.double().sum(0).mean()) * dt - T)
        model.train()
        assert model.multiplier == pytest.approx(gamma, rel=1e-5)
        for name, net in nets.items():
            for ours, theirs in zip(net.parameters(), getattr(model.policy, name).parameters(), strict=True):
                # Adam divides by the size of the gradient: an entry where that is almost 0 is all rounding.
                assert ((ours - theirs).abs() <= 0.02 * lr).float().mean() >= 0.99, name


# Bad input


class _NoSteps(gym.Env):
    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}


def test_environment_without_num_steps() -> None:
    with pytest.raises(ValueError, match="env has no attribute num_steps"):
        ARTRL("ARTPolicy", DummyVecEnv([_NoSteps]))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"control": "log_speed"}, "control='speed'.*got control='log_speed'"),
        ({"features": ("x",)}, r"'log_curvature' among its features; got .*'x0'"),
        ({"reward": "global"}, "reward='euler'"),
    ],
)
def test_paper_needs_its_environment(settings, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PaperARTRL("PaperPolicy", _paper_env(**settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"noise_groups": 5}, "noise_groups = 5 must divide num_envs = 32"),
        ({"noise_groups": 0}, "noise_groups = 0"),
        ({"std_start": 0.0}, "std_start = 0.0 must be a positive"),
        ({"std_end": -0.1}, "std_end = -0.1 must be a positive"),
        ({"std_start": math.nan}, "std_start = nan"),
        ({"critic_updates": 0}, "critic_updates = 0"),
        ({"starts": 0}, "starts = 0"),
        ({"gae_lambda": 1.5}, "gae_lambda = 1.5"),
        ({"average_last": -0.1}, "average_last = -0.1"),
    ],
)
def test_bad_settings(settings, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ARTRL("ARTPolicy", _env(), **settings)


def test_is_its_own_policy_class() -> None:
    assert isinstance(ARTRL(ARTPolicy, _env(), seed=0).policy, ARTPolicy)
