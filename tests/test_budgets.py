"""Several numbers of steps in one environment, one policy and one run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.art_rl import ARTRL
from agents.baselines import make_ppo
from agents.checkpoint import load_agent, save_agent
from agents.distill import distill
from agents.schedule_policy import SchedulePolicy
from agents.schedule_search.table import StepTable
from art_env.envs.dynamics import Dynamics
from art_env.envs.env import ARTEnv
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.problems.library import make_problem
from art_env.schedules import edm

SETTINGS = {"problem": "mixture-1d", "num_noises": 64, "features": ()}
BUDGETS = (2, 3, 5)


def _vec(rows: int = 16, groups: int = 4, **settings):
    own = {**SETTINGS, "num_steps": BUDGETS, **settings}
    return to_sb3(ARTVectorEnv(rows, autoreset_mode="SAME_STEP", noise_groups=groups, **own))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The environment


def test_episodes_take_the_budgets_in_turn() -> None:
    env = ARTEnv(**SETTINGS, num_steps=[5, 2, 3])
    assert (env.budgets, env.num_steps) == ((2, 3, 5), 5)
    assert env.feature_names == ("time", "budget", "steps")
    assert env.observation_space.shape == (3,)
    for _ in range(2):
        lengths, seed = [], 7
        for _ in range(4):
            obs, _ = env.reset(seed=seed)
            seed, done, n = None, False, 0
            while not done:
                assert obs in env.observation_space
                assert 2 ** (8 * float(obs[2])) == pytest.approx((2, 3, 5, 2)[len(lengths)])
                assert float(obs[0]) == pytest.approx(n / (2, 3, 5, 2)[len(lengths)])
                obs, _, done, _, info = env.step(np.zeros(1, np.float32))
                n += 1
            assert info["sigma"] == pytest.approx(0.002)
            lengths.append(n)
        assert lengths == [2, 3, 5, 2]  # and a seed begins again


@pytest.mark.parametrize("K", BUDGETS)
@pytest.mark.parametrize("clock", [7.0, "closed_form"])
@pytest.mark.parametrize("terminal", ["zero", "sigma_min"])
def test_each_budget_is_the_environment_of_that_budget(K: int, clock, terminal: str) -> None:
    settings = {**SETTINGS, "clock": clock, "terminal": terminal, "solver": "ipndm"}
    many, one = ARTEnv(**settings, num_steps=BUDGETS), ARTEnv(**settings, num_steps=K)
    many.reset(seed=3, options={"num_steps": K, "noise_index": 5})
    one.reset(seed=3, options={"noise_index": 5})
    for action in np.linspace(-0.3, 0.4, K, dtype=np.float32):
        a, b = many.step([action]), one.step([action])
        assert a[1:] == b[1:]
        assert (a[0][:2] == b[0]).all()


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP"])
def test_rows_are_the_scalar_environment(mode: str) -> None:
    settings = {**SETTINGS, "num_steps": (2, 3), "features": ("size",)}
    vector = ARTVectorEnv(3, autoreset_mode=mode, **settings)
    scalar = ARTEnv(**settings)
    vector.reset(seed=4)
    # Rows out of step with one another: row 0 begins a further episode at once.
    vector.reset(options={"reset_mask": np.array([True, False, False])}) if mode == "SAME_STEP" else None
    rng = np.random.default_rng(0)
    scalar.reset(seed=6)
    live, seen = True, 0
    while seen < 4:
        action = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        obs, reward, done, _, info = vector.step(action)
        if not live:  # NEXT_STEP: this call began the episode
            live = True
            assert obs[2] == pytest.approx(scalar.reset()[0], abs=1e-7)
            continue
        own, r, d, _, own_info = scalar.step(action[2])
        assert (r, d) == (pytest.approx(reward[2], rel=1e-12), bool(done[2]))
        if d:
            seen += 1
            if mode == "SAME_STEP":
                assert info["final_obs"][2] == pytest.approx(own, abs=1e-7)
                assert obs[2] == pytest.approx(scalar.reset()[0], abs=1e-7)
            else:
                live = False
        else:
            assert obs[2] == pytest.approx(own, abs=1e-7)
            assert info["sigma"][2] == pytest.approx(own_info["sigma"])


def test_several_budgets_at_once_in_the_pure_functions() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=BUDGETS, num_noises=16, clock=7.0, terminal="zero")
    index, steps = torch.arange(6), torch.tensor([2, 3, 5, 5, 3, 2])
    together = dynamics.initial(index=index, num_steps=steps)
    for _ in range(5):
        live = ~dynamics.terminal(together)
        part = type(together)(*(v[live] for v in together))
        after = dynamics.transition(part, torch.full((int(live.sum()),), 0.1, dtype=torch.float64))
        together = type(together)(
            *(v.index_copy(0, torch.nonzero(live)[:, 0], n) for v, n in zip(together, after, strict=True))
        )
    assert dynamics.terminal(together).all()
    for i, K in zip(index.tolist(), steps.tolist(), strict=True):
        alone = Dynamics(problem="mixture-1d", num_steps=K, num_noises=16, clock=7.0, terminal="zero")
        state = alone.initial(index=torch.tensor([i]))
        for _ in range(K):
            state = alone.transition(state, torch.full((1,), 0.1, dtype=torch.float64))
        assert float(together.error[i]) == pytest.approx(float(state.error[0]), rel=1e-12)
        assert int(together.nfe[i]) == int(state.nfe[0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_steps": ()}, r"num_steps = \(\)"),
        ({"num_steps": (3, 3)}, r"num_steps = \(3, 3\).*that differ"),
        ({"num_steps": (3, 0)}, "num_steps = 0"),
        ({"num_steps": (3, 2.5)}, "num_steps = 2.5"),
        ({"num_steps": (3, 300)}, "leave out 300"),
        ({"num_steps": (3, 5), "solver": "edm_churn"}, "give one number of steps"),
    ],
)
def test_bad_budgets(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ARTEnv(**{**SETTINGS, **change})


@pytest.mark.parametrize("value", [4, [2, 3], "5", None])
def test_bad_choice_of_a_budget(value) -> None:
    with pytest.raises(ValueError, match=r"num_steps = .* must be among"):
        ARTEnv(**SETTINGS, num_steps=BUDGETS).reset(options={"num_steps": value})


def test_a_schedule_is_no_policy_for_several() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_steps=BUDGETS, num_noises=16)
    schedule = edm(5, 0.002, 80.0, terminal="sigma_min")
    with pytest.raises(ValueError, match="make the environment with num_steps=5"):
        SchedulePolicy(schedule, dynamics)


# The policy


def test_the_table_between_its_budgets() -> None:
    table = StepTable((2, 4))
    table.values.data = torch.tensor([1.0, 2.0, 10.0, 20.0, 30.0, 40.0])
    time = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])

    def at(K: float) -> list[float]:
        return table(time, torch.full_like(time, K)).tolist()

    assert at(2) == [1.0, 1.5, 2.0, 2.0, 2.0]
    assert at(4) == [10.0, 20.0, 30.0, 40.0, 40.0]
    assert (at(1), at(9)) == (at(2), at(4))
    mixed = np.array(at(2)) * (1 - math.log2(1.5)) + np.array(at(4)) * math.log2(1.5)
    assert at(3) == pytest.approx(mixed, rel=1e-6)
    steps = torch.tensor([2.0, 2.0, 4.0, 4.0])
    assert table.place(torch.tensor([0.0, 0.5, 0.0, 0.75]), steps).tolist() == [0, 1, 2, 5]


def test_what_the_neighbours_say() -> None:
    table = StepTable((2, 4, 8))
    rng = np.random.default_rng(0)
    table.values.data = torch.from_numpy(rng.uniform(-1, 1, 14)).float()
    out = table.from_neighbours()
    two, four, eight = (table.values.data[table.of(i)] for i in range(3))
    # 4 lies in the middle of 2 and 8 in log K; at time 1/4 the table of 2 is halfway between its values.
    two_at = torch.tensor([two[0], (two[0] + two[1]) / 2, two[1], two[1]])
    torch.testing.assert_close(out[2:6], (two_at + eight[::2]) / 2)
    torch.testing.assert_close(out[:2], four[::2])  # nothing below: the nearest
    assert out[6:].shape == (8,)
    assert not StepTable((5,)).from_neighbours().any()


def test_one_policy_learns_every_budget(tmp_path) -> None:
    env = _vec(128, 16, num_noises=1024, clock="closed_form")
    model = ARTRL("ARTPolicy", env, seed=0)
    model.learn(150 * 128 * sum(BUDGETS))
    dynamics: Dynamics = env.get_attr("dynamics")[0]
    for K in BUDGETS:
        alone = _vec(128, 16, num_noises=1024, clock="closed_form", num_steps=K)
        error = {}
        for name, policy in {"before": ARTRL("ARTPolicy", env, seed=0), "after": model}.items():
            schedule = distill(policy, dynamics, num_steps=K)
            assert schedule.num_steps == K
            actions = SchedulePolicy(schedule, alone.get_attr("dynamics")[0]).actions
            error[name] = _mean_return(alone, actions)
        assert error["after"] > 0.9 * error["before"]  # returns are negative
    # Any other K, from the file too.
    save_agent(
        model, tmp_path / "model.zip", "art", {**SETTINGS, "num_steps": list(BUDGETS), "clock": "closed_form"}
    )
    loaded, again = load_agent(tmp_path / "model.zip")
    assert again.budgets == BUDGETS
    assert (distill(loaded, again, num_steps=4).sigmas == distill(model, again, num_steps=4).sigmas).all()


def _mean_return(env, actions: np.ndarray) -> float:
    env.seed(99)
    env.reset()
    total = 0.0
    for action in actions:
        _, rewards, _, _ = env.step(np.full((env.num_envs, 1), action, np.float32))
        total += float(rewards.mean())
    return total


def test_each_budget_is_judged_by_its_own_return() -> None:
    model = ARTRL("ARTPolicy", _vec(), seed=0, updates=1000)
    model.learn(16 * sum(BUDGETS))
    search = model.search
    assert search is not None
    first, second, third = search.explorers
    assert [len(e.mean) for e in search.explorers] == [1, 2, 4]
    model._total_timesteps, model._current_progress_remaining = 100 * 160, 0.99
    first.z.zero_()
    first.first.zero_()
    rewards = np.zeros((10, 16), np.float32)
    rewards[2:5, 4:8] = 1.0  # K = 3, group 1
    model.rollout_buffer.rewards, model._played = rewards, False
    z, mean = second.z[1].clone(), model.policy.table.values.detach().clone()
    z0 = third.z.clone()
    model.train()
    moved = model.policy.table.values.detach() - mean
    assert moved[:2].abs().max() == 0  # K = 2 did not explore
    assert moved[4] == 0
    assert moved[9] == 0
    assert not torch.equal(z, second.z[1])
    assert not torch.equal(z0, third.z)
    assert bool(moved[2:4].abs().max() > 0)


def test_with_features_and_for_ppo() -> None:
    model = ARTRL("ARTPolicy", _vec(features=("size",)), seed=0)
    model.learn(4 * 16 * sum(BUDGETS))
    assert model.search is None
    assert bool(model.policy.actor_net[-1].weight.any())
    env = _vec(8, 1)
    ppo = make_ppo(env, 160, 0)
    ppo.learn(2 * 8 * sum(BUDGETS))
    schedule = distill(ppo, env.get_attr("dynamics")[0], num_steps=3)
    assert schedule.num_steps == 3


def test_the_literal_algorithm_wants_one() -> None:
    env = ARTVectorEnv(
        1,
        problem="gaussian-1d",
        solver="euler",
        reward="euler",
        control="speed",
        features=("x", "log_q"),
        num_steps=(3, 4),
        autoreset_mode="SAME_STEP",
    )
    with pytest.raises(ValueError, match=r"num_steps = \(3, 4\): ARTRL.paper needs"):
        ARTRL.paper(to_sb3(env))


def test_the_problem_has_no_say() -> None:
    """Any K may be asked of the pure functions."""
    dynamics = Dynamics(problem=make_problem("mixture-1d"), num_steps=3, num_noises=8, features=())
    state = dynamics.initial(index=torch.arange(2), num_steps=1)
    assert bool(dynamics.terminal(dynamics.transition(state, torch.zeros(2))).all())
