"""The search by evolution: its objective, its strategies, its plan, and going on after a kill."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.schedule_search.evolution import SHARES, EvolutionOptions, EvolutionSearch
from agents.schedule_search.noise_sampling import EVEN, MOST, InitialNoiseSampler, cap_of
from agents.schedule_search.objective import Objective
from agents.schedule_search.record import Record
from agents.schedule_search.search import SearchResult
from agents.schedule_search.strategies import CMAES, PGPE, Strategy, ranks
from agents.training import EvolutionSettings, train
from agents.training.report import report, write
from art_env.envs.dynamics import Dynamics
from art_env.envs.vector_env import ARTVectorEnv
from art_env.schedules.gradient import gradient_search
from art_env.schedules.optimal import final_rmse
from art_env.schedules.schedule import Schedule

OPTIONS = EvolutionOptions(population=16, noises=8)


class Killed(Exception):
    """What a test stops a search with."""


class Landscape:
    """Returns of two valleys: the deep one is narrow and away from where the search begins."""

    paired, other_start, least_squares = True, None, False

    def __init__(self, num_steps: int = 3, pool: int = 512, kill_after: int | None = None) -> None:
        self.num_steps, self.pool_size, self.kill_after = num_steps, pool, kill_after
        self.used_actions = np.arange(num_steps)[:, None] < num_steps - 1
        self.weights = np.exp(np.random.default_rng(0).standard_normal(pool))
        self.rows = self.evaluations = self.calls = 0
        self.surveys: list[np.ndarray] = []

    def error(self, actions: np.ndarray) -> np.ndarray:
        """``[G, K - 1]`` to ``[G]``; 0.1 at the bottom of the shallow valley, 0 at that of the deep one."""
        shallow, deep = 0.1 + (actions**2).sum(1), 3 * ((actions - 0.35) ** 2).sum(1)
        return np.minimum(shallow, deep)

    def __call__(self, actions: np.ndarray, noises: np.ndarray) -> np.ndarray:
        if self.calls == self.kill_after:
            raise Killed
        self.calls += 1
        self.rows += len(actions) * len(noises)
        self.evaluations += 2 * len(actions) * len(noises)
        if len(actions) == 1:
            self.surveys.append(noises)
        return -self.error(actions[:, : self.num_steps - 1, 0])[:, None] * self.weights[noises]

    def schedule(self, actions: np.ndarray) -> Schedule:
        return Schedule(np.linspace(80.0, 0.002, self.num_steps + 1))


def _run(
    landscape: Landscape, rollouts: int = 1130, options: EvolutionOptions = OPTIONS, **given
) -> SearchResult:
    return EvolutionSearch(landscape, rollouts * options.rows * landscape.num_steps, options, **given).run()


def test_a_valley_that_only_the_other_start_reaches() -> None:
    class Apart(Landscape):
        """The deep valley is far away and hard to see: its walls are steep."""

        def error(self, actions: np.ndarray) -> np.ndarray:
            shallow, deep = 0.1 + (actions**2).sum(1), 30 * ((actions - 0.8) ** 2).sum(1)
            return np.minimum(shallow, deep)

    near, far = Apart(), Apart()
    far.other_start = np.full((3, 1), 0.75)  # type: ignore[assignment]
    np.testing.assert_allclose(_run(near).actions[:2], 0, atol=0.02)
    np.testing.assert_allclose(_run(far).actions[:2], 0.8, atol=0.02)
    # It is one start more, not instead of the others.
    wrong = Apart()
    wrong.other_start = np.full((3, 1), -0.5)  # type: ignore[assignment]
    np.testing.assert_allclose(_run(wrong).actions[:2], 0, atol=0.02)


def test_learned_solvers_have_another_start() -> None:
    plain = Objective(Dynamics(problem="mixture-1d", num_noises=16, num_steps=3))
    assert plain.other_start is None
    learned = Objective(Dynamics(problem="mixture-1d", num_noises=16, num_steps=3, solver="learned_2m"))
    assert learned.other_start is not None
    schedule = learned.schedule(learned.other_start)
    assert schedule.weights is not None
    base = learned.schedule(np.zeros((3, 2)))
    assert schedule.sigmas[1] < base.sigmas[1]
    assert schedule.weights[1, 0] > 2


# The objective


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "heun"},
        {"solver": "learned_3m"},
        {"solver": "ipndm"},
        {"solver": "dpmpp_2m", "reward": "local"},
        {"solver": "euler_maruyama"},
    ],
)
def test_the_objective_is_what_the_environment_pays(settings: dict) -> None:
    K, G, M = 3, 2, 16
    dynamics = Dynamics(problem="mixture-1d", num_noises=32, num_steps=K, group_size=M, **settings)
    objective = Objective(dynamics, batch=M)
    rng = np.random.default_rng(0)
    actions, noises = rng.uniform(-0.5, 0.5, (G, K, dynamics.num_actions)), rng.integers(32, size=2 * M)
    returns = objective(actions, noises)
    assert returns.shape == (G, 2 * M)
    assert objective.rows == 2 * G * M
    assert objective.evaluations == dynamics.stepper.counter.evals > 0
    state = dynamics.initial(index=torch.from_numpy(np.tile(noises, G)))
    total = torch.zeros(2 * G * M, dtype=torch.float64)
    for column in torch.from_numpy(actions).repeat_interleave(2 * M, 0).unbind(1):
        after = dynamics.transition(state, column)
        total += dynamics.reward(state, column, after)
        state = after
    np.testing.assert_allclose(returns.ravel(), total.numpy(), rtol=1e-9, atol=1e-12)


def test_actions_0_are_the_base_schedule() -> None:
    dynamics = Dynamics(problem="mixture-1d", num_noises=16, num_steps=4)
    schedule = Objective(dynamics).schedule(np.zeros(4))
    np.testing.assert_allclose(schedule.sigmas, dynamics.base.sigma(np.linspace(0, 1, 5)), rtol=1e-12)
    env = ARTVectorEnv(1, dynamics.config)
    env.reset(seed=0)
    actions = np.array([0.3, -0.2, 0.1, 0.0])
    for action, sigma in zip(actions, Objective(dynamics).schedule(actions).sigmas[1:], strict=True):
        _, _, _, _, info = env.step(np.array([[action]]))
        assert info["sigma"][0] == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"problem": "gaussian-1d", "solver": "euler", "reward": "euler"}, "no exact trajectories"),
        ({"problem": "mixture-1d", "control": "speed", "num_noises": 16}, "needs 'log_speed'"),
    ],
)
def test_environments_that_cannot_be_searched(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Objective(Dynamics(**settings))


# The strategies


def _climb(strategy: Strategy, scales: np.ndarray, best: np.ndarray, updates: int) -> float:
    """How far from the best of a quadratic the strategy ends."""
    rng = np.random.default_rng(0)
    for i in range(updates):
        actions = strategy.ask(rng, i / updates)
        assert (np.abs(actions) <= 1).all()
        strategy.tell(-((actions - best) ** 2 * scales).sum(1), i / updates)
    return float(np.abs(strategy.mean - best).max())


def test_pgpe_climbs() -> None:
    best = np.array([0.3, 0.1, -0.2, 0.4])
    assert _climb(PGPE(np.zeros(4), (4,), 16, 0.03, 0.18, 0.012), np.ones(4), best, 200) < 0.02


def test_pgpe_explores_in_antithetic_pairs_smooth_at_first() -> None:
    strategy = PGPE(np.zeros(20), (20,), 1000, 0.03, 0.1, 0.01)
    for done, std in ((0.0, 0.1), (1.0, 0.01)):
        offsets = strategy.ask(np.random.default_rng(0), done)
        np.testing.assert_allclose(offsets[:500], -offsets[500:])
        assert math.sqrt((offsets**2).mean()) == pytest.approx(std, rel=0.1)
        neighbours = np.corrcoef(offsets[:, :-1].ravel(), offsets[:, 1:].ravel())[0, 1]
        assert neighbours > 0.5 if done == 0.0 else abs(neighbours) < 0.1


def test_ranks_do_not_depend_on_the_scale() -> None:
    returns = np.array([-1e9, -2.0, -1.0, -1.5])
    np.testing.assert_allclose(ranks(returns), ranks(np.array([0.0, 1.0, 3.0, 2.0])))
    assert ranks(returns).mean() == pytest.approx(0.0)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_cma_es_climbs_a_long_valley(n: int) -> None:
    scales = 10.0 ** np.linspace(0, 4, n)
    assert _climb(CMAES(np.zeros(n), 0.03, 16), scales, np.full(n, 0.3), 400) < 1e-4


def test_cma_es_stays_within_the_border() -> None:
    """The best lies outside: the mean goes to the border, and the width does not grow."""
    strategy = CMAES(np.zeros(3), 0.1, 16)
    _climb(strategy, np.ones(3), np.full(3, 2.0), 100)
    assert strategy.mean == pytest.approx(np.ones(3), abs=1e-3)
    assert strategy.width < 0.5


# Importance sampling of initial noises


def test_costs_are_cut_where_one_noise_would_hold_too_much() -> None:
    assert cap_of(np.ones(100)) == math.inf
    cut = np.append(np.ones(1000), 1e6)
    cut = np.minimum(cut, cap_of(cut))
    assert cut.max() == pytest.approx(MOST * cut.sum())
    many = np.append(np.ones(1000), [1e6, 2e6, 3e6])
    cut = np.minimum(many, cap_of(many))
    assert cut.max() == pytest.approx(MOST * cut.sum())
    assert (cut == cut.max()).sum() == 3
    assert cap_of(np.zeros(50)) == math.inf
    assert cap_of(np.array([1.0, 2.0])) == math.inf


def test_means_stay_right_and_get_sharper() -> None:
    """The weighted mean is that of the whole pool, with a spread many times smaller than of even draws."""
    rng = np.random.default_rng(0)
    costs = np.exp(2.5 * rng.standard_normal(4096))
    other = costs * (1 + 0.3 * rng.random(4096))  # another schedule, whose costs are alike
    sampler = InitialNoiseSampler(4096)
    sampler.update(np.arange(4096), -costs)
    truth = np.minimum(other, sampler.cap).mean()
    by_cost, even = [], []
    for _ in range(300):
        index = sampler.draw(64, rng)
        by_cost.append(-float(sampler.mean(-other[index][None], index)[0]))
        even.append(other[rng.integers(4096, size=64)].mean())
    assert np.mean(by_cost) == pytest.approx(truth, rel=0.02)
    assert np.std(by_cost) < 0.1 * np.std(even)


def test_a_noise_never_seen_counts_as_average() -> None:
    sampler, rng = InitialNoiseSampler(100), np.random.default_rng(0)
    sampler.update(sampler.next(50), -np.linspace(1, 3, 50))
    assert np.isnan(sampler.costs[50:]).all()
    assert sampler.mean_cost(math.inf) == pytest.approx(2.0)
    counts = np.bincount(sampler.draw(100_000, rng), minlength=100) / 100_000
    assert counts[50:] == pytest.approx(np.full(50, 0.01), rel=0.05)
    assert counts[0] == pytest.approx(EVEN / 100 + (1 - EVEN) * 1 / 200, rel=0.05)
    assert sampler.next(60).tolist() == [*range(50, 100), *range(10)]
    free = InitialNoiseSampler(10)
    free.update(np.arange(10), np.zeros(10))
    assert sorted(free.draw(10, rng)) == list(range(10))


# The plan


def _watched(monkeypatch, landscape: Landscape, rollouts: int) -> list[tuple[type, float]]:
    """The strategy of each run, and the part of the budget that it takes."""
    runs: list[tuple[type, float]] = []
    run = EvolutionSearch._run

    def watched(self, rng, strategy, *args, **kwargs):
        before = self._spent
        found = run(self, rng, strategy, *args, **kwargs)
        runs.append((type(strategy), (self._spent - before) / rollouts))
        return found

    monkeypatch.setattr(EvolutionSearch, "_run", watched)
    _run(landscape, rollouts)
    return runs


def test_rounds_take_their_shares(monkeypatch) -> None:
    landscape = Landscape()
    runs = _watched(monkeypatch, landscape, 1130)
    assert [kind for kind, _ in runs] == [PGPE] * 12 + [CMAES] * 5
    spent = np.array([part for _, part in runs])
    for part, share in zip((spent[:12], spent[12:16], spent[16:]), SHARES, strict=True):
        assert part.sum() == pytest.approx(share, abs=0.03)
    assert landscape.rows == pytest.approx(1130 * OPTIONS.rows, abs=OPTIONS.rows)
    # 12 starts and 4 finalists are compared on the same 256 noises. Each finalist looks at the whole pool once
    # while it learns, the winner six times.
    sizes = [len(noises) for noises in landscape.surveys]
    assert sizes == [256] * 12 + [512, 256] * 4 + [512] * 6
    for noises in landscape.surveys:
        assert len(set(noises)) == len(noises)
    assert all((noises == np.arange(256)).all() for noises in landscape.surveys if len(noises) == 256)


def test_a_small_budget_is_one_run(monkeypatch) -> None:
    landscape = Landscape()
    runs = _watched(monkeypatch, landscape, 300)
    assert runs == [(PGPE, 1.0)]
    assert not landscape.surveys


def test_a_smaller_budget_has_fewer_starts(monkeypatch) -> None:
    runs = _watched(monkeypatch, Landscape(), 600)
    assert [kind for kind, _ in runs] == [PGPE] * 6 + [CMAES] * 3


def test_groups_without_returns_of_their_own_are_compared_by_what_they_earned(monkeypatch) -> None:
    landscape = Landscape()
    landscape.paired = False
    runs = _watched(monkeypatch, landscape, 1130)
    assert [kind for kind, _ in runs] == [PGPE] * 12 + [CMAES] * 5
    assert not landscape.surveys


def test_many_actions_take_more_updates() -> None:
    """At K = 20 an update late in the search takes about one rollout."""
    assert max(line["train/rollouts_per_update"] for line in _run(Landscape(10)).log) == 4
    assert max(line["train/rollouts_per_update"] for line in _run(Landscape(20)).log) == 1


def test_finds_the_valley_that_one_start_misses() -> None:
    found = []
    for starts in (1, 12):
        options = EvolutionOptions(noises=8, std_start=0.25, starts=starts)
        errors = []
        for seed in range(6):
            landscape = Landscape()
            actions = _run(landscape, options=options, seed=seed).actions
            errors.append(float(landscape.error(actions[None, :-1, 0])[0]))
        found.append(sum(e < 0.01 for e in errors))
    assert found[0] <= 1
    assert found[1] >= 5


def test_a_single_step_has_nothing_to_choose(tmp_path: Path) -> None:
    found = _run(Landscape(1), record=Record(tmp_path / "search.npz"))
    assert found.actions.tolist() == [[0.0]]
    assert found.env_steps == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("population", 1), ("noises", 0), ("starts", 0), ("learning_rate", math.nan), ("std_start", -1.0)],
)
def test_bad_options(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = "):
        EvolutionOptions(**{name: value})


def test_a_budget_of_less_than_a_rollout() -> None:
    with pytest.raises(ValueError, match="less than one rollout"):
        EvolutionSearch(Landscape(), 100)


# Determinism, and going on


def test_a_seed_says_all() -> None:
    first = _run(Landscape(), seed=3)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second = _run(Landscape(), seed=3)
    assert (first.actions == second.actions).all()
    assert first.log == second.log
    assert first.log != _run(Landscape(), seed=4).log


def test_a_killed_search_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Killed again and again, in every round and in the middle of runs."""
    whole = Landscape()
    expected = _run(whole)
    path, shown = tmp_path / "search.npz", list[float]()
    played = 0
    for _ in range(200):
        landscape = Landscape(kill_after=60)
        record = Record(path)
        try:
            found = _run(landscape, record=record, callback=lambda done, *_: shown.append(done))
        except Killed:
            played += landscape.calls
            continue
        played += landscape.calls
        break
    assert (found.actions == expected.actions).all()
    assert found.env_steps == expected.env_steps == whole.rows * 3
    assert found.evaluations == expected.evaluations == whole.evaluations
    assert found.log == expected.log
    # What came after the last checkpoint is played again, and shown again; what came before is not.
    assert whole.calls < played < 2 * whole.calls
    assert len(shown) < 2 * len(found.log)
    assert shown[-1] == pytest.approx(1.0, abs=0.01)


def test_a_record_of_another_search(tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    with pytest.raises(Killed):
        _run(Landscape(kill_after=100), record=Record(path))
    with pytest.raises(ValueError, match="is of another search"):
        _run(Landscape(), record=Record(path), seed=1)
    for broken in (b"no archive", path.read_bytes()[:1000]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot be read"):
            Record(path)


# All of it


def test_the_best_schedule_of_heun() -> None:
    dynamics = Dynamics(problem="mixture-1d", solver="heun", num_steps=5, num_noises=1024)
    assert dynamics.reference is not None
    objective = Objective(dynamics, batch=512)
    found = EvolutionSearch(objective, 600 * 512 * 5, EvolutionOptions(noises=32)).run()
    denoiser = dynamics.problem.denoiser
    oracle = gradient_search(denoiser, dynamics.reference, 5, "heun")
    errors = [final_rmse(denoiser, dynamics.reference, s.sigmas, "heun") for s in (found.schedule, oracle)]
    assert errors[0] / errors[1] < 1.01
    (base,) = objective(np.zeros((1, 5)), np.arange(1024))
    (best,) = objective(found.actions[None], np.arange(1024))
    assert best.mean() > 0.5 * base.mean()


def test_a_search_of_a_stochastic_solver() -> None:
    dynamics = Dynamics(
        problem="mixture-1d", solver="euler_maruyama", num_steps=4, num_noises=1024, group_size=64
    )
    objective = Objective(dynamics, batch=512)
    found = EvolutionSearch(objective, 150 * 512 * 4, EvolutionOptions(population=8, noises=64)).run()
    noises = np.arange(1024)
    assert objective(found.actions[None], noises).mean() > objective(np.zeros((1, 4, 1)), noises).mean()


TINY = {
    "problem": "mixture-1d",
    "solver": "heun",
    "num_noises": 256,
    "num_steps": (3,),
    "num_envs": 64,
    "total_timesteps": 600 * 64 * 3,
    "oracle": False,
    "progress": False,
}


def test_a_run_folder(tmp_path: Path, monkeypatch) -> None:
    """What a run leaves behind; killed and resumed, it finds the same schedule."""
    found = train(EvolutionSettings(**TINY, run_dir=tmp_path / "whole"))
    write(found)
    assert found.env_steps == TINY["total_timesteps"]
    assert "denoiser evaluations" in report(found)
    names = {"config.json", "schedule.json", "results.csv", "schedule.png", "samples.png", "summary.json"}
    files = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names <= files
    assert "agent.safetensors" not in files
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["algorithm"] == "evolution"
    assert summary["env_steps"] == TINY["total_timesteps"]
    assert summary["denoiser_evals"] == 600 * 64 * 5
    with (tmp_path / "whole" / "progress.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    curve = [
        (int(line["time/total_timesteps"]), float(line["art/rmse"])) for line in lines if line["art/rmse"]
    ]
    # Twenty points, and lines whose schedule is the one before, which need no evaluation.
    assert 21 <= len(curve) <= 101
    assert curve[-1][1] == pytest.approx(summary["rmse"], rel=1e-6)
    assert curve[-1][1] < curve[0][1]

    evaluate, calls = Objective.__call__, itertools.count()

    def killed(self, actions, noises):
        if next(calls) == 300:
            raise Killed
        return evaluate(self, actions, noises)

    monkeypatch.setattr(Objective, "__call__", killed)
    settings = EvolutionSettings(**TINY, run_dir=tmp_path / "part")
    with pytest.raises(Killed):
        train(settings)
    again = train(EvolutionSettings(resume=tmp_path / "part"))
    assert again.schedule.sigmas == pytest.approx(found.schedule.sigmas, rel=0, abs=0)
    assert again.denoiser_evals == found.denoiser_evals


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"reward": "euler"}, "reward = 'euler'"),
        ({"noise_groups": 1}, "noise_groups = 1"),
        ({"starts": 0}, "starts = 0"),
        ({"std_start": -1.0}, "std_start = -1.0"),
    ],
)
def test_bad_settings(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EvolutionSettings(**settings)
