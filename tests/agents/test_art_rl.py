"""ART-RL as an SB3 algorithm: it learns, repeats itself, survives a file, and updates as the formulas say."""

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
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.art_rl import ARTRL, art_rl
from agents.art_rl.policy import ARTPolicy
from agents.distill import distill
from agents.schedule_search.strategies import AdaptedGaussian, AnnealedGaussian, ranks
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


@pytest.fixture
def step_by_step(monkeypatch) -> None:
    """Episodes go through the rollout buffer, as they do in an environment that cannot play whole ones."""
    monkeypatch.setattr(art_rl, "_pool", lambda env: None)


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


def test_beats_the_closed_form() -> None:
    env = _env(16 * 32, 16, base_schedule=7.0, num_noises=None)
    problem = make_problem("mixture-1d")
    held_out = problem.reference(1024, 12345)

    def error(schedule) -> float:
        return final_rmse(problem.denoiser, held_out, schedule.sigmas, _dynamics(env).solver)

    model = ARTRL("ARTPolicy", env, seed=0, updates=20)
    start = error(distill(model, _dynamics(env), 1))
    model.learn(160 * 16 * 32 * 5)
    learned = error(distill(model, _dynamics(env), 1))
    assert learned < error(make_schedule("closed_form", problem, 5, "heun"))
    assert learned < 0.7 * start
    assert model.num_timesteps == 160 * 16 * 32 * 5
    assert model.search is not None
    assert isinstance(model.search.explorers[0], AdaptedGaussian)


@pytest.mark.parametrize("features", [(), ("rms", "log_velocity")])
def test_same_seed_same_agent(features) -> None:
    agents = []
    for seed in (3, 3, 4):
        env = _env(features=features)
        agents.append((ARTRL("ARTPolicy", env, seed=seed).learn(6 * 32 * 5), env))
    parameters = [_parameters(model) for model, _ in agents]
    sigmas = [distill(model, _dynamics(env), 16).sigmas for model, env in agents]
    assert _same(parameters[0], parameters[1])
    assert (sigmas[0] == sigmas[1]).all()
    assert not torch.equal(parameters[0]["table.values"], parameters[2]["table.values"])
    assert (sigmas[0] != sigmas[2]).any()


def test_save_load_predict_and_go_on(tmp_path) -> None:
    kwargs = {"net_arch": [16], "adam_betas": (0.8, 0.9)}
    settings = {"policy_kwargs": kwargs, "critic_learning_rate": 2e-3, "std_start": 0.4}
    model = ARTRL("ARTPolicy", _env(features=("rms",)), seed=1, **settings)
    model.learn(6 * 32 * 5)
    model.save(tmp_path / "agent.zip")
    loaded = ARTRL.load(tmp_path / "agent.zip", env=_env(features=("rms",)))
    assert _same(_parameters(model), _parameters(loaded))
    assert loaded.policy.net_arch == (16,)
    assert [m.out_features for m in loaded.policy.critic_net if hasattr(m, "out_features")] == [16, 1]
    assert loaded.policy.adam_betas == (0.8, 0.9)
    assert (loaded.std_start, loaded.critic_learning_rate, loaded.noise_groups) == (0.4, 2e-3, 4)
    assert loaded.num_timesteps == 6 * 32 * 5
    assert loaded.num_updates == 6
    for name in ("optimizer", "critic_optimizer"):
        a, b = (getattr(m.policy, name).state_dict() for m in (model, loaded))
        assert a["state"]
        assert a["param_groups"] == b["param_groups"]
        for i, state in a["state"].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["state"][i][key]))
    obs = np.random.default_rng(0).random((7, 3), dtype=np.float32)
    assert (model.predict(obs, deterministic=True)[0] == loaded.predict(obs, deterministic=True)[0]).all()
    # Without an environment too: an agent is a policy.
    bare = ARTRL.load(tmp_path / "agent.zip")
    assert (bare.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()
    before = _parameters(loaded)
    loaded.learn(4 * 32 * 5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 10 * 32 * 5
    assert loaded.num_updates == 10
    # The table is found by then, and the network goes on.
    assert torch.equal(before["table.values"], loaded.policy.table.values)
    assert not torch.equal(before["actor_net.2.weight"], loaded.policy.actor_net[2].weight)


def test_predict_shapes_and_bounds() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0)
    with torch.no_grad():
        model.policy.table.values.copy_(torch.linspace(-1, 1, 5))
    obs = np.array([[k / 5, 1 - k / 5] for k in range(5)], dtype=np.float32)
    actions, state = model.predict(obs, deterministic=True)
    assert state is None
    assert actions[:, 0] == pytest.approx(np.linspace(-1, 1, 5), abs=1e-6)
    assert model.predict(obs[2], deterministic=True)[0].shape == (1,)
    noisy = np.concatenate([model.predict(obs)[0] for _ in range(50)])
    assert np.abs(noisy).max() == 1.0  # held within the action space
    assert len(np.unique(noisy)) > 50


class _Count(BaseCallback):
    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.steps = self.rollouts = self.starts = self.ends = 0
        self.stop_after = stop_after

    def _on_training_start(self) -> None:
        self.starts += 1

    def _on_training_end(self) -> None:
        self.ends += 1

    def _on_rollout_end(self) -> None:
        self.rollouts += 1

    def _on_step(self) -> bool:
        self.steps += 1
        return self.stop_after is None or self.steps < self.stop_after


class _Memory(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict] = []

    def write(self, key_values, key_excluded, step: int = 0) -> None:
        self.rows.append({"step": step, **key_values})

    def close(self) -> None:
        pass


def test_callbacks_logger_and_progress_bar() -> None:
    model = ARTRL("ARTPolicy", _env(features=("rms",)), seed=0)
    memory, count = _Memory(), _Count()
    model.set_logger(Logger(None, [memory]))
    model.learn(4 * 32 * 5, callback=count, log_interval=1, progress_bar=True)
    assert (count.steps, count.rollouts, count.starts, count.ends) == (20, 4, 1, 1)
    assert [row["step"] for row in memory.rows] == [160 * i for i in range(1, 5)]
    keys = {"train/actor_loss", "train/critic_loss", "train/std", "train/explained_variance"}
    last = memory.rows[-1]
    assert keys | {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= last.keys()
    assert last["rollout/ep_len_mean"] == 5
    assert all(math.isfinite(last[k]) for k in keys)
    assert last["train/std"] < model.std_start


def test_a_callback_can_stop_it() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0)
    model.learn(100 * 32 * 5, callback=_Count(stop_after=7))
    assert model.num_timesteps == 7 * 32


def test_rows_explore_by_themselves_once_the_table_is_found() -> None:
    model = ARTRL("ARTPolicy", _env(12, 4, features=("rms",)), seed=0, table_share=0.5)
    table = model.policy.table
    net = copy.deepcopy(model.policy.actor_net.state_dict())
    model.learn(8 * 12 * 5)
    assert model.num_updates == 8
    assert model.search is None
    assert model.policy.offsets is None
    assert bool(table.values[:-1].any())
    moved = model.policy.actor_net.state_dict()
    assert not torch.equal(net["0.weight"], moved["0.weight"])
    obs = torch.zeros(12, 3)
    mean, std = model.policy.distribution(obs)
    actions, _, log_prob = model.policy(obs)
    noise = ((actions[:, 0] - mean) / std).detach()
    assert len(torch.unique(noise)) == 12
    expected = -0.5 * noise**2 - math.log(float(std[0]) * math.sqrt(2 * math.pi))
    assert_float32_close(log_prob.detach(), expected, 1e-4)


def test_the_network_waits_for_the_table() -> None:
    model = ARTRL("ARTPolicy", _env(12, 4, features=("rms",)), seed=0, table_share=1.0)
    before = copy.deepcopy(model.policy.actor_net.state_dict())
    torch.manual_seed(1)
    model.learn(6 * 12 * 5)
    for name, value in model.policy.actor_net.state_dict().items():
        assert torch.equal(value, before[name])
    alone = ARTRL("ARTPolicy", _env(12, 4), seed=0)
    torch.manual_seed(1)
    alone.learn(6 * 12 * 5)
    assert torch.equal(model.policy.table.values, alone.policy.table.values)


def test_one_row_with_features_learns_by_the_critic() -> None:
    model = ARTRL("ARTPolicy", _env(1, 1, features=("rms",)), seed=0)
    before = copy.deepcopy(model.policy.actor_net.state_dict())
    model.learn(4 * 5)
    assert not model.policy.table.values.any()
    assert not torch.equal(before["4.weight"], model.policy.actor_net.state_dict()["4.weight"])


@pytest.mark.parametrize("groups", [1, 2, 5, 6])
def test_a_policy_of_time_alone_plays_one_sequence_a_group(groups: int, step_by_step) -> None:
    model = ARTRL("ARTPolicy", _env(30, groups), seed=0)
    _collect(model)
    count = groups if groups > 1 else 30
    actions = model.rollout_buffer.actions[..., 0].reshape(5, count, -1)
    assert (actions == actions[:, :, :1]).all()
    assert len(np.unique(actions[0, :, 0])) == count
    assert (actions[4] == 0).all()  # the last step has no choice
    if count % 2 == 0:
        assert np.allclose(actions[:, : count // 2], -actions[:, count // 2 :], atol=1e-7)
    _collect(model)  # held until the update
    assert (model.rollout_buffer.actions[..., 0].reshape(5, count, -1) == actions).all()


def test_update_of_the_first_phase_by_hand(step_by_step) -> None:
    model = ARTRL("ARTPolicy", _env(8, 4, num_steps=3), seed=0, updates=1000)
    _collect(model)
    assert model.search is not None
    explorer = model.search.explorers[0]
    assert isinstance(explorer, AnnealedGaussian)
    # Groups 0 to 3 earn 3, 1, 2, 0 in all: three, one, ... steps up the ladder of ranks.
    model.rollout_buffer.rewards[:] = np.repeat([[1.0, 1.0 / 3, 2.0 / 3, 0.0]], 2, 1)
    z, width, basis = explorer.z.clone(), explorer.width.clone(), explorer.basis
    model.train()
    weights = torch.tensor([0.5, -1 / 6, 1 / 6, -0.5], dtype=torch.float64) * math.sqrt(12)
    direction = torch.sign((weights[:, None] * z).mean(0))  # Adam's first step
    expected = (model.learning_rate * width * direction) @ basis
    assert model.policy.table.values[:2].detach().numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    assert model.num_updates == 1


def test_exploration_takes_the_betas_of_the_policy() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0, policy_kwargs={"adam_betas": (0.5, 0.6)})
    assert model.search is not None
    assert isinstance(model.search.explorers[0], AnnealedGaussian)
    assert model.search.explorers[0].betas == (0.5, 0.6)


def test_an_update_takes_more_rollouts_later() -> None:
    model = ARTRL("ARTPolicy", _env(8, 4, num_steps=2), seed=0, updates=10, starts=1)
    memory = _Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(90 * 8 * 2, log_interval=1)
    held = [row["train/rollouts_per_update"] for row in memory.rows if "train/rollouts_per_update" in row]
    assert held[0] == 1
    assert held[-1] == 4
    assert held == sorted(held)


def test_ranks_see_only_the_order() -> None:
    r = ranks(torch.tensor([0.1, -1e9, 3.0, 0.2]))
    assert r.argsort().tolist() == [1, 0, 3, 2]
    assert float(r.mean()) == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(r.sort().values.diff(), r.sort().values.diff()[:1])


def test_adapted_gaussian_learns_an_ill_conditioned_valley() -> None:
    # Curvatures from 1 to 10,000 along turned axes: white exploration of a fixed width crawls.
    torch.manual_seed(0)
    n = 6
    axes = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    hessian = axes @ torch.diag(10.0 ** torch.linspace(0, 4, n, dtype=torch.float64)) @ axes.T
    goal = torch.full((n,), 0.3, dtype=torch.float64)
    explorer = AdaptedGaussian(torch.zeros(n), 0.1, 16)

    def cost(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("gi,ij,gj->g", x - goal, hessian, x - goal)

    for _ in range(150):
        offsets = explorer.explore(16)
        explorer.improve(-cost(explorer.mean + offsets))
    assert float(cost(explorer.mean[None])) < 1e-6
    variances = torch.linalg.eigvalsh(explorer.covariance)
    assert float(variances[-1] / variances[0]) > 300


def test_adapted_gaussian_settles_at_the_border() -> None:
    """The optimum lies beyond the range of actions; where returns are flat the width must not grow."""
    torch.manual_seed(0)
    goal = torch.tensor([0.3, 1.4, -0.2], dtype=torch.float64)
    explorer = AdaptedGaussian(torch.zeros(3), 0.1, 16)
    for _ in range(400):
        offsets = explorer.explore(16)
        played = explorer.mean + offsets
        assert float(played.abs().max()) <= 1.0 + 1e-12
        explorer.improve(-(played - goal).square().sum(1))
    assert explorer.mean.tolist() == pytest.approx([0.3, 1.0, -0.2], abs=1e-3)
    assert explorer.width < 0.01


def test_one_row_has_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match=r"num_envs = 1: .*vector environment"):
        ARTRL("ARTPolicy", _env(1, 1))
    ARTRL("ARTPolicy", _env(1, 1, features=("rms",)), seed=0).learn(10)


def test_a_rollout_of_part_of_an_episode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"n_steps = 7 must be a multiple of 5"):
        ARTRL("ARTPolicy", _env(), n_steps=7)


def test_without_groups_every_row_explores_by_itself() -> None:
    model = ARTRL("ARTPolicy", _env(12, 1), seed=0)
    assert len(torch.unique(model.policy(torch.zeros(12, 2))[0])) == 12


def test_groups_meet_the_same_noises_in_training(step_by_step) -> None:
    env = _env(12, 3, features=("rms", "log_velocity"))
    model = ARTRL("ARTPolicy", env, seed=0)
    _collect(model)
    first = model.rollout_buffer.observations[0].reshape(3, 4, -1)
    assert (first == first[:1]).all()
    assert len(np.unique(first[0, :, 3])) > 1


def test_actor_gradient_by_hand() -> None:
    # Two groups of two rows, two steps; the mean is 0, so the score is a / std^2.
    model = ARTRL(
        "ARTPolicy", _env(4, 2, num_steps=2, features=("rms",)), seed=0, std_adapted=0.5, std_end=0.5
    )
    _collect(model)
    model._end_table()
    buffer = model.rollout_buffer
    buffer.observations[:] = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], np.float32)[:, None, :]
    actions = np.array([[0.2, 0.3, -0.2, -0.1], [0.1, 0.1, -0.1, -0.4]])
    buffer.actions[..., 0] = actions
    # Rows 0 and 2 meet one noise, rows 1 and 3 another, whose errors are a hundred times larger.
    buffer.advantages[:] = [[-1.0, -103.0, -3.0, -101.0], [-2.0, -200.0, -6.0, -208.0]]
    buffer.returns[:] = 1.0
    centred = np.array([[1.0, -1.0, -1.0, 1.0], [2.0, 4.0, -2.0, -4.0]])
    weights = centred / math.sqrt(44 / 7)  # the unbiased deviation of all of them
    expected = -(weights * actions / 0.5**2).sum() / 8
    model.train()
    bias = model.policy.actor_net[-1].bias
    assert float(bias.grad) == pytest.approx(expected, rel=1e-5)
    assert float(bias.detach()) == pytest.approx(-np.sign(expected) * model.network_learning_rate, rel=1e-3)


def test_the_table_stays_in_the_action_space() -> None:
    model = ARTRL("ARTPolicy", _env(), seed=0, learning_rate=50.0)
    model.learn(3 * 32 * 5)
    assert float(model.policy.table.values.detach().abs().max()) <= 1.0


@pytest.mark.parametrize("features", [(), ("rms",)])
def test_the_average_is_what_is_deployed(tmp_path, features) -> None:
    """Also by a model that was saved before the end and is not trained on."""
    model = ARTRL("ARTPolicy", _env(features=features), seed=0, average_last=0.5)
    seen = []

    def learned(model: ARTRL) -> torch.Tensor:
        return model.policy.actor_net[-1].weight if features else model.policy.table.values

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(learned(model).detach().clone())
            model.save(tmp_path / "last.zip")

    model.learn(24 * 32 * 5, callback=Watch())
    # The last update is not seen by the callback.
    deployed = learned(model).detach().clone()
    assert not torch.equal(deployed, seen[-1])
    last = ARTRL.load(tmp_path / "last.zip")
    assert torch.equal(learned(last), seen[-1])
    last.use_average()
    # seen[i] is what i updates have made; those of the second half are averaged: of all, or of the network's.
    first = 18 if features else 12
    assert_float32_close(learned(last).detach(), torch.stack(seen[first:]).mean(0))


def test_a_budget_that_is_no_multiple_of_the_rollout_never_climbs() -> None:
    # The last rollout goes past the end: the step must be 0 there, not negative.
    model = ARTRL("ARTPolicy", _env(), seed=0, average_last=0.0)
    seen = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(model.policy.optimizer.param_groups[0]["lr"])

    model.learn(32 * 5 + 32, callback=Watch())
    assert model.num_timesteps == 2 * 32 * 5
    seen.append(model.policy.optimizer.param_groups[0]["lr"])
    assert min(seen) >= 0
    assert float(model.policy.std) >= model.std_end * (1 - 1e-5)


def test_policy_that_depends_on_the_state() -> None:
    env = _env(64, 8, features=("rms", "log_velocity", "log_curvature"))
    model = ARTRL("ARTPolicy", env, seed=0)
    obs = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
    obs[:, 0] = 0.4
    assert torch.equal(model.policy.distribution(obs)[0], torch.zeros(16))  # starts as the clock's grid
    critic = copy.deepcopy(model.policy.critic_net.state_dict())
    model.learn(15 * 64 * 5)
    means = model.policy.distribution(obs)[0].detach()
    assert float(means.std()) > 1e-4
    assert not torch.equal(critic["0.weight"], model.policy.critic_net[0].weight)
    schedule = distill(model, _dynamics(env), 32)
    assert max(schedule.meta["theta_sd"]) > 0
    assert schedule.sigma_end == 0.002


# The literal algorithm


def test_paper_runs() -> None:
    env = _paper_env(K=10)
    model = ARTRL.paper(env, seed=0)
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
    model = ARTRL.paper(_paper_env(), seed=0)
    model.learn(5 * 6)
    model.save(tmp_path / "m.zip")
    loaded = ARTRL.load(tmp_path / "m.zip", env=_paper_env())
    assert loaded.literal
    assert loaded.multiplier == model.multiplier != 0
    assert _same(_parameters(model), _parameters(loaded))


def test_paper_policy_width_is_tied_to_the_stiffness() -> None:
    model = ARTRL.paper(_paper_env(), seed=0, temperature=0.2)
    obs = torch.zeros(3, 4)
    obs[:, 3] = torch.tensor([-1 / 6, 0.0, 1 / 3])  # |Q| = 0.1, 1, 100
    mean, std = model.policy.distribution(obs)
    assert (std**2).numpy() == pytest.approx(0.2 / np.array([0.1, 1.0, 100.0]), rel=1e-5)
    # Equal (t, x, psi): the mean may not see the stiffness.
    assert torch.equal(mean, mean[:1].expand(3))


def test_paper_noise_has_that_width() -> None:
    model = ARTRL.paper(_paper_env(), seed=0)
    obs = torch.zeros(4000, 4)
    obs[:, 3] = torch.log10(torch.tensor(2.5)) / 6
    torch.manual_seed(0)
    actions = model.policy(obs)[0].detach()
    assert float(actions.var()) == pytest.approx(0.1 / 2.5, rel=0.08)


@pytest.mark.parametrize("rows", [1, 3])
def test_literal_update_by_the_formulas(rows: int) -> None:
    K, lam, a_gamma, lr = 4, 0.3, 0.5, 1e-3
    env = _paper_env(rows, K)
    model = ARTRL.paper(
        env, seed=0, temperature=lam, multiplier_step=a_gamma, learning_rate=lr, critic_learning_rate=lr
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
                # 2% of one step of Adam: an entry whose moment is almost 0 is stochastic.
                assert torch.allclose(ours, theirs, rtol=0, atol=0.02 * lr), name


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
        ARTRL.paper(_paper_env(**settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"starts": 0}, "starts = 0"),
        ({"noise_groups": 5}, "noise_groups = 5 must divide num_envs = 32"),
        ({"noise_groups": 0}, "noise_groups = 0"),
        ({"std_start": 0.0}, "std_start = 0.0 must be a positive"),
        ({"std_end": -0.1}, "std_end = -0.1 must be a positive"),
        ({"std_start": math.nan}, "std_start = nan"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"gae_lambda": 1.5}, "gae_lambda = 1.5"),
        ({"average_last": -0.1}, "average_last = -0.1"),
    ],
)
def test_bad_settings(settings, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ARTRL("ARTPolicy", _env(), **settings)


def test_is_its_own_policy_class() -> None:
    assert isinstance(ARTRL(ARTPolicy, _env(), seed=0).policy, ARTPolicy)
