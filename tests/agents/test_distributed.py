"""Evaluations that Ray's workers share: results, counts, and workers that die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.distributed import cluster
from agents.distributed.evaluator import ShardedEvaluator
from agents.distributed.objective import ShardedObjective
from agents.distributed.reference import with_workers
from agents.distributed.shares import places_of
from agents.distributed.vector_env import ShardedVectorEnv
from agents.distributed.workers import Workers, start_workers
from agents.schedule_search.objective import Objective
from agents.training import ArtSettings, SearchSettings, Settings, Training
from art_env._util.cli import run_command
from art_env.adapters.counting import CountedDenoiser
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.envs.vector_env import ARTVectorEnv
from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules.registry import make_schedule

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"num_steps": 3, "num_noises": 50, "features": ("rms",), "base_schedule": 7.0}


def _config(name: str = "mixture-2d", **settings: Any) -> EnvConfig:
    problem = make_problem(name)
    problem = replace(problem, denoiser=CountedDenoiser(problem.denoiser), num_knots=33)
    return EnvConfig(problem=problem, **{**SMALL, **settings})


# Without Ray


def test_shares_are_contiguous_and_about_equal() -> None:
    assert places_of(7, 3) == [slice(0, 2), slice(2, 5), slice(5, 7)]
    assert places_of(2, 5) == [slice(0, 1), slice(1, 2)]


def test_rows_of_elsewhere_are_counted_by_every_counter() -> None:
    inner = CountedDenoiser(make_problem("gaussian-1d").denoiser)
    outer = CountedDenoiser(inner)
    outer.add(7)
    assert (outer.evals, inner.evals) == (7, 7)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers = 0"),
        ({"ray_address": "auto"}, "ray_address = 'auto' is about workers"),
        ({"workers": 2, "worker_gpus": -1.0}, "worker_gpus = -1.0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SearchSettings(**options)


def test_a_run_does_not_remember_who_worked() -> None:
    settings = SearchSettings(workers=2, ray_address="auto")
    kept = settings.to_dict()
    assert not {"workers", "ray_address", "worker_gpus"} & kept.keys()
    again = Settings.from_dict("search", kept, workers=3)
    assert (again.workers, again.ray_address) == (3, None)


def test_workers_without_ray_are_one_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"workers need Ray.*pip install"):
        cluster.connect(None, 2)


def test_more_workers_than_cores_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"workers = 9999 and this machine has \d+ cores; use fewer --workers"
    ):
        Workers(9999)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "[::1]:{port}"])
def test_an_address_that_nobody_answers_at_is_one_line(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if "[" not in address:
            cluster.check_reachable(address.format(port=port))
    given = address.format(port=port)
    with pytest.raises(OSError, match=r"no Ray at ray_address = .*; see `ray status`") as refused:
        cluster.check_reachable(given)
    assert given in str(refused.value)


def test_other_addresses_are_left_to_ray() -> None:
    for address in ("auto", "local", "nonsense", "anyscale://mine"):
        cluster.check_reachable(address)
    with pytest.raises(OSError, match="Port out of range"):
        cluster.check_reachable("localhost:99999")


def test_nothing_of_ray_is_imported_without_workers() -> None:
    code = "import sys, train, evaluate, benchmarks.tasks as t; t.Tasks(); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_wait_for_workers_is_left_after_a_signal(number: int) -> None:
    ray = pytest.importorskip("ray")
    done: list[str] = []

    def call(seconds: float) -> None:
        os.kill(os.getpid(), number)
        done.append("not in the midst of a call")
        raise TimeoutError

    assert run_command("x", lambda: cluster.patiently(ray, call)) == 128 + number
    assert done == ["not in the midst of a call"]


# With Ray


class Late:
    """Its method takes too long."""

    def wait(self) -> None:
        """Raise what sockets raise."""
        raise TimeoutError("no answer from the disk")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    ray = pytest.importorskip("ray")
    # Classes of this file are not there to import in a worker.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # A cluster that is there already saves its start.
    yield start_workers(2, os.environ.get("RAY_ADDRESS"), 0.0, 1)
    start_workers.cache_clear()
    ray.shutdown()


class Dying(Objective):
    """Kills the first process that plays its last noise."""

    mark: Path

    def __call__(self, actions: np.ndarray, noises: np.ndarray) -> np.ndarray:
        """See ``Objective``."""
        if noises[-1] == 49 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(actions, noises)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "group_size"), [("heun", None), ("learned_2m", None), ("euler_maruyama", 25)]
)
def test_a_search_gets_the_answers_of_one_process(
    workers: Workers, solver: str, group_size: int | None
) -> None:
    here = Objective(Dynamics(_config(solver=solver), group_size=group_size), 100)
    there = ShardedObjective(Dynamics(_config(solver=solver), group_size=group_size), 100, workers)
    rng, noises = np.random.default_rng(0), np.arange(50)
    actions = rng.uniform(-0.3, 0.3, (5, *here.used_actions.shape))
    assert there(actions, noises) == pytest.approx(here(actions, noises), rel=1e-12)
    if here.least_squares:
        weights = rng.uniform(1, 2, 50)
        expected = here.products(actions, noises, weights)
        assert there.products(actions, noises, weights) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (there.rows, there.evaluations) == (here.rows, here.evaluations)
    # Exact trajectories are counted once: the second objective finds them in memory.
    counters = [o.dynamics.problem.denoiser.rows["other"] for o in (here, there)]
    assert counters[0] == counters[1] == here.evaluations


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(workers: Workers, tmp_path) -> None:
    here = Objective(Dynamics(_config()), 100)
    there = ShardedObjective(Dynamics(_config()), 100, workers)
    dying = Dying(there.dynamics, 100)
    dying.mark = tmp_path / "killed"
    there._held = workers.hold(dying, there.dynamics.stepper.counter)
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (4, *here.used_actions.shape))
    for _ in range(2):
        expected = here(actions, np.arange(50))
        assert there(actions, np.arange(50)) == pytest.approx(expected, rel=1e-12)
    assert dying.mark.exists()
    assert there.evaluations == here.evaluations


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"reward": "global"},
        {"reward": "local"},
        {"reward": "euler"},
        {"solver": "learned_3m"},
        {"solver": "euler_maruyama"},
    ],
)
def test_rows_step_as_in_one_process(workers: Workers, settings: dict[str, Any]) -> None:
    more: dict[str, Any] = {"noise_groups": 2, "autoreset_mode": AutoresetMode.SAME_STEP}
    here, there = (
        ARTVectorEnv(38, _config(**settings), **more),
        ShardedVectorEnv(workers, 38, _config(**settings), **more),
    )
    assert np.array_equal(here.reset(seed=3)[0], there.reset(seed=3)[0])
    rng = np.random.default_rng(0)
    for _ in range(4):  # beyond the end of the first episode
        actions = rng.uniform(-0.3, 0.3, here.action_space.shape)
        one, other = here.step(actions), there.step(actions)
        for a, b in zip(one[:4], other[:4], strict=True):
            assert a == pytest.approx(b, rel=1e-9)
    kept = [env.save_state()["trajectories"] for env in (here, there)]
    assert all(torch.allclose(kept[0][k], kept[1][k], rtol=1e-9, equal_nan=True) for k in kept[0])
    assert here.denoiser_evals == there.denoiser_evals


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["heun", "euler_maruyama"])
def test_scores_are_those_of_one_process(workers: Workers, solver: str) -> None:
    problem = replace(make_problem("mixture-1d"), num_knots=33)
    here = Evaluator(problem, solver, (0, 1), num_noises=700)
    there = ShardedEvaluator(workers, with_workers(problem, workers), solver, (0, 1), num_noises=700)
    schedule = make_schedule("edm", problem, 3, solver)
    expected = [row.mean for row in here.rows(schedule)]
    assert [row.mean for row in there.rows(schedule)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_a_training_ends_as_in_one_process(workers: Workers) -> None:
    shared: dict[str, Any] = {"problem": "mixture-1d", "num_steps": (3,), "num_envs": 32, "num_noises": 64}
    for kind, steps in ((SearchSettings, 28_800), (ArtSettings, 1_920)):
        here, there = (Training(kind(**shared, total_timesteps=steps, workers=n)) for n in (None, 2))
        if kind is SearchSettings:
            found = [training.search().actions for training in (here, there)]
        else:
            found = [training.fit()[0].policy.table.values.detach().numpy() for training in (here, there)]
        assert found[0] == pytest.approx(found[1], abs=1e-6)
        assert here.counter.rows["training"] == there.counter.rows["training"]


@pytest.mark.slow
def test_the_error_of_a_worker_is_raised_as_it_was(workers: Workers) -> None:
    held = workers.hold(make_problem("gaussian-1d"))
    with pytest.raises(ValueError, match="num_knots = 1 must be at least 2"):
        held.map("integrate", [(torch.ones(3, 1, dtype=torch.float64), 1)])


@pytest.mark.slow
def test_a_worker_that_says_that_it_is_late_is_heard(workers: Workers) -> None:
    with pytest.raises(TimeoutError, match="no answer from the disk"):
        workers.hold(Late()).map("wait", [(), ()])


@pytest.mark.slow
def test_our_handler_of_sigterm_stays(workers: Workers) -> None:
    assert "ray" not in getattr(signal.getsignal(signal.SIGTERM), "__module__", "")


@pytest.mark.slow
def test_more_workers_than_a_cluster_has_is_refused(workers: Workers) -> None:
    with pytest.raises(ValueError, match="workers = 99 need 99 CPUs and Ray has"):
        Workers(99, "the one that is there")
