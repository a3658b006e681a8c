"""The tournament that finds ART-RL's table, and the initial noises that it asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from agents.art_rl import ARTRL, art_rl
from agents.distill import distill
from agents.schedule_search.noise_sampling import EVEN, MOST, StartNoises, cap_of
from agents.schedule_search.search import SHARES, SearchSettings, TableSearch
from agents.schedule_search.strategies import AdaptedGaussian, AnnealedGaussian
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv

SETTINGS = SearchSettings(0.03, (0.9, 0.95), 0.18, 0.012, 0.03, 12, 140, 0.2)
GROUPS, MEMBERS = 16, 8


class Landscape:
    """Returns of two valleys: the deep one is narrow and away from where the search begins."""

    def __init__(self, pool: int, heavy: bool = False) -> None:
        self.rng = np.random.default_rng(0)
        self.pool = pool
        self.weights = np.exp(3 * self.rng.standard_normal(pool)) if heavy else np.ones(pool)
        self.weights /= self.weights.mean()

    def error(self, actions: np.ndarray) -> np.ndarray:
        """``[n, K]`` to ``[n]``; 0.1 at the bottom of the shallow valley, 0 at that of the deep one."""
        a = actions[:, :-1]
        shallow = 0.1 + (a**2).sum(1)
        deep = 3 * ((a - 0.35) ** 2).sum(1)
        return np.minimum(shallow, deep)

    def returns(self, actions: np.ndarray, index: np.ndarray | None) -> np.ndarray:
        rows = index[:, 0] if index is not None else self.rng.integers(self.pool, size=len(actions))
        return -(self.error(actions) * self.weights[rows])[:, None]


def _search(K: int = 3, pool: int = 512, settings: SearchSettings = SETTINGS, **given) -> TableSearch:
    return TableSearch(torch.zeros(K), (K,), GROUPS, MEMBERS, pool, settings, **given)


def _run(search: TableSearch, landscape: Landscape, rollouts: int) -> list[tuple[int, bool, type]]:
    seen = []
    for i in range(rollouts):
        search.start(i / rollouts, rollouts)
        actions = (search.values + search.offsets).clamp(-1, 1).repeat_interleave(MEMBERS, 0).numpy()
        seen.append((search.round, search.surveying, type(search.explorers[0])))
        if search.surveying:
            assert (search.offsets == 0).all()
        search.add(torch.from_numpy(landscape.returns(actions, search.index())).T)
        search.step((i + 1) / rollouts)
    return seen


def test_rounds_take_their_shares() -> None:
    torch.manual_seed(0)
    seen = _run(_search(), Landscape(512), 1130)
    rounds = np.array([r for r, _, _ in seen])
    for i, share in enumerate(SHARES):
        assert (rounds == i).mean() == pytest.approx(share, abs=0.03)
    assert {kind for r, _, kind in seen if r == 0} == {AnnealedGaussian}
    assert {kind for r, _, kind in seen if r > 0} == {AdaptedGaussian}
    # 12 starts are judged by 2 rollouts; 4 finalists look at all noises (4 rollouts) and are judged; the winner
    # looks 6 times.
    assert [sum(s for r, s, _ in seen if r == i) for i in range(3)] == [24, 24, 24]


def test_many_actions_take_more_updates() -> None:
    """As many rollouts to an update at small K as the length of training allows, at K = 20 about one."""
    made = []
    for K in (3, 10, 20):
        torch.manual_seed(0)
        search = _search(K)
        _run(search, Landscape(512), 1130)
        assert isinstance(search.explorers[0], AdaptedGaussian)
        made.append(search.explorers[0].updates)  # the finalist's are among them
    assert made[0] == made[1]
    assert made[2] > 1.5 * made[1]
    assert made[2] == pytest.approx((SHARES[1] / 4 + SHARES[2]) * 1130, rel=0.1)


def test_finds_the_valley_that_one_start_misses() -> None:
    found = []
    for starts in (1, 12):
        errors = []
        for seed in range(6):
            torch.manual_seed(seed)
            settings = SearchSettings(0.03, (0.9, 0.95), 0.25, 0.012, 0.03, starts, 140, 0.2)
            landscape = Landscape(512)
            search = _search(settings=settings)
            _run(search, landscape, 1130)
            errors.append(float(landscape.error(search.average()[None].numpy())[0]))
        found.append(sum(e < 0.01 for e in errors))
    assert found[0] <= 1
    assert found[1] >= 5


def test_short_training_has_one_run() -> None:
    torch.manual_seed(0)
    search = _search()
    seen = _run(search, Landscape(512), 300)
    assert {(r, s) for r, s, _ in seen} == {(0, False)}
    assert search.width == pytest.approx(0.012, rel=0.05)
    assert search.index() is None


def test_fewer_starts_in_a_shorter_tournament() -> None:
    search = _search()
    search.start(0.0, 600)
    assert search._runs() == (6, SHARES[0] / 6)


def test_without_a_pool_nothing_is_surveyed() -> None:
    torch.manual_seed(0)
    search = _search(pool=0)
    seen = _run(search, Landscape(512), 1130)
    assert {r for r, _, _ in seen} == {0, 1, 2}
    assert not any(s for _, s, _ in seen)
    assert float(Landscape(512).error(search.average()[None].numpy())[0]) < 0.11


def test_each_number_of_steps_has_its_own_winner() -> None:
    """The finalists of a K are those that were best at it, whatever they did at the other."""
    search = TableSearch(torch.zeros(5), (2, 3), GROUPS, MEMBERS, 0, SETTINGS)
    search.start(0.0, 1130)
    for i in range(12):
        search.values = torch.full((5,), i / 100)
        search._late_returns = torch.tensor([-float(i), float(i)], dtype=torch.float64)
        search._end_run()
    assert search.round == 1
    assert search.values.tolist() == pytest.approx([0.0, 0.0, 0.11, 0.11, 0.11])
    assert [tuple(a.values[[0, 2]].tolist()) for a in search.finalists] == [
        pytest.approx((i / 100, (11 - i) / 100)) for i in (1, 2, 3)
    ]


def test_the_best_run_so_far_is_deployed() -> None:
    search = TableSearch(torch.zeros(5), (2, 3), GROUPS, MEMBERS, 0, SETTINGS)
    search.start(0.0, 1130)
    assert torch.equal(search.best(), search.values)
    for late, best in (((-3.0, -1.0), (0.1, 0.1)), ((-2.0, -2.0), (0.2, 0.1)), ((-4.0, -0.5), (0.2, 0.3))):
        search.values = torch.full((5,), 0.1 * (len(search.ended) + 1))
        search._late_returns = torch.tensor(late, dtype=torch.float64)
        search._end_run()
        assert search.best()[[0, 2]].tolist() == pytest.approx(best)
    search.round = 2
    assert torch.equal(search.best(), search.values)


@pytest.mark.parametrize("played", [True, False])
def test_a_stopped_training_leaves_the_best_run(played: bool, monkeypatch) -> None:
    model = _model(8, num_steps=2)
    if not played:
        monkeypatch.setattr(art_rl, "_pool", lambda env: None)
    _, callback = model._setup_learn(400 * 16)
    shown = []
    for _ in range(200):
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 2)
        model._update_current_progress_remaining(model.num_timesteps, 400 * 16)
        model.train()
        assert model.search is not None
        assert model.policy.table is not None
        shown.append(model.policy.table.values.detach().clone())
        assert torch.equal(shown[-1], model.search.best())
    assert model.search.round == 1
    assert len(torch.unique(torch.stack(shown[70:])[:, 0])) < 20  # changes with runs, not with updates


def test_later_starts_begin_between_the_neighbours() -> None:
    torch.manual_seed(0)
    search = TableSearch(torch.zeros(9), (2, 3, 4), GROUPS, MEMBERS, 0, SETTINGS)
    search.start(0.0, 1130)
    widths, begun = [], []
    for _ in range(11):
        search.values = torch.tensor([0.5, 0, 0, 0, 0, 0.5, 0.5, 0.5, 0.0])
        search._end_run()
        widths.append(search._widths()[0])
        begun.append(search.values[2:4].mean().item())
    assert widths == [0.09] * 5 + [0.03] * 6
    assert np.mean(begun[5:]) > 0.2 > abs(np.mean(begun[:5]))


def test_costs_are_cut_where_one_noise_would_hold_too_much() -> None:
    assert cap_of(np.ones(100)) == math.inf
    costs = np.append(np.ones(1000), 1e6)
    cap = cap_of(costs)
    cut = np.minimum(costs, cap)
    assert cut.max() == pytest.approx(MOST * cut.sum())
    many = np.append(np.ones(1000), [1e6, 2e6, 3e6])
    cut = np.minimum(many, cap_of(many))
    assert cut.max() == pytest.approx(MOST * cut.sum())
    assert (cut == cut.max()).sum() == 3
    assert cap_of(np.zeros(50)) == math.inf
    assert cap_of(np.array([1.0, 2.0])) == math.inf


def test_means_stay_right_and_get_sharper() -> None:
    """The weighted mean is that of the whole pool, with a spread many times smaller than of even draws."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    costs = np.exp(2.5 * rng.standard_normal(4096))
    other = costs * (1 + 0.3 * rng.random(4096))  # another schedule, whose costs are alike
    noises = StartNoises(4096)
    noises.update(np.arange(4096), -costs)
    truth = np.minimum(other, noises.cap).mean()
    by_cost, even = [], []
    for _ in range(300):
        index = noises.draw(64)
        by_cost.append(-float(noises.mean(torch.from_numpy(-other[index])[None], index)[0]))
        even.append(other[rng.integers(4096, size=64)].mean())
    assert np.mean(by_cost) == pytest.approx(truth, rel=0.02)
    assert np.std(by_cost) < 0.1 * np.std(even)


def test_what_was_never_surveyed_counts_as_average() -> None:
    noises = StartNoises(100)
    noises.update(np.arange(50), -np.linspace(1, 3, 50))
    assert np.isnan(noises.costs[50:]).all()
    assert noises.mean_cost(math.inf) == pytest.approx(2.0)
    counts = np.bincount(noises.draw(100_000), minlength=100) / 100_000
    assert counts[50:] == pytest.approx(np.full(50, 0.01), rel=0.05)
    assert counts[0] == pytest.approx(EVEN / 100 + (1 - EVEN) * 1 / 200, rel=0.05)
    free = StartNoises(10)
    free.update(np.arange(10), np.zeros(10))
    assert sorted(free.draw(10)) == list(range(10))


def _model(rows: int = 64, **settings) -> ARTRL:
    vector = ARTVectorEnv(
        rows, problem="mixture-1d", num_noises=256, features=(), base_schedule="closed_form", noise_groups=8,
        autoreset_mode="SAME_STEP", **{"num_steps": 3, **settings},
    )  # fmt: skip
    return ARTRL("ARTPolicy", to_sb3(vector), seed=0, updates=10)


def test_surveys_are_played_on_the_whole_pool_and_counted(monkeypatch) -> None:
    model = _model(num_steps=(2, 3))
    vector = art_rl._pool(model.env)
    assert vector is not None
    played: list[Tensor] = []
    play = vector.play

    def watched(actions, index=None):
        if model.search is not None and model.search.surveying:
            played.append(index.copy())
            assert (actions == actions[:1]).all()
        return play(actions, index)

    monkeypatch.setattr(vector, "play", watched)
    model.learn(400 * 64 * 5)
    assert model.num_timesteps == 400 * 64 * 5
    last = np.concatenate(played[-4:])
    assert sorted(last[:, 0]) == sorted(last[:, 1]) == list(range(256))
    assert model.search is not None
    assert model.search.noises == []  # not in the file


def test_a_tournament_goes_on_from_a_file(tmp_path) -> None:
    model = _model()
    model.learn(200 * 64 * 3 * 2 // 2)
    half = _model()
    half._total_timesteps = 0
    half.learn(60 * 64 * 3)
    half.save(tmp_path / "half.zip")
    again = ARTRL.load(tmp_path / "half.zip", env=half.env)
    assert again.search is not None
    assert again.search.round == half.search.round
    again.learn(60 * 64 * 3, reset_num_timesteps=False)
    assert again.num_timesteps == 120 * 64 * 3
    schedule = distill(again, art_rl._pool(again.env).dynamics)
    assert (np.diff(schedule.sigmas) < 0).all()


@pytest.mark.parametrize("rollouts", [5, 15, 140, 150, 320])
def test_an_environment_without_a_pool_takes_over(rollouts: int) -> None:
    """A model that was trained by playing goes on behind a wrapper, whatever it was about to do."""
    model = _model(8, num_steps=2)
    model._total_timesteps = 400 * 16
    _, callback = model._setup_learn(400 * 16)
    for _ in range(rollouts):
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 2)
        model._update_current_progress_remaining(model.num_timesteps, 400 * 16)
        model.train()
    model.set_env(VecNormalize(model.env, norm_obs=False, gamma=1.0))
    model.learn(80 * 16, reset_num_timesteps=False)
    assert model.search is not None
    assert (model.search.pool, model.search.surveying, model.search.noises) == (0, False, [])


def test_an_index_must_be_of_the_pool() -> None:
    vector = ARTVectorEnv(4, problem="mixture-1d", num_noises=16, features=(), num_steps=2)
    vector.reset(seed=0)
    index = np.array([[0], [5], [15], [5]])
    returns = vector.play(np.zeros((4, 2)), index)
    assert returns[1] == returns[3] != returns[0]
    for bad in (np.array([[0], [1], [2], [16]]), np.zeros((4, 2), int), np.array([[-1]] * 4)):
        with pytest.raises(ValueError, match="rows of the pool"):
            vector.play(np.zeros((4, 2)), bad)
