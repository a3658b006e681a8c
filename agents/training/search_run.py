"""One schedule search as the settings say, and in a run folder with logs and checkpoints."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from agents.distributed.objective import ShardedObjective
from agents.distributed.workers import Workers
from agents.schedule_log import ScheduleLog
from agents.schedule_search import SearchOptions
from agents.schedule_search.evolution import EvolutionOptions, EvolutionSearch
from agents.schedule_search.least_squares import LeastSquaresSearch
from agents.schedule_search.objective import Objective
from agents.schedule_search.record import Record
from agents.schedule_search.search import Callback, ScheduleSearch, SearchResult
from agents.training.search_log import SearchLog
from agents.training.settings import ListSearchSettings
from art_env import __version__
from art_env._util.termination import at_a_boundary
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics


def make_search(
    config: EnvConfig,
    rows: int,
    budget: int,
    options: SearchOptions,
    seed: int,
    record: Record | None = None,
    callback: Callback | None = None,
    workers: Workers | None = None,
) -> ScheduleSearch:
    """A search on an environment.

    Args:
        config: of the environment, with its exact trajectories.
        rows: episodes played at once, at most.
        budget: env steps.
        options, seed, record, callback: as ``ScheduleSearch``.
        workers: they evaluate; None: this process does.
    """

    def objective(dynamics: Dynamics, batch: int) -> Objective:
        return Objective(dynamics, batch) if workers is None else ShardedObjective(dynamics, batch, workers)

    if isinstance(options, EvolutionOptions):
        of_groups = objective(Dynamics(config, group_size=options.noises), options.rows)
        return EvolutionSearch(of_groups, budget, options, seed, record, callback)
    return LeastSquaresSearch(objective(Dynamics(config), rows), budget, options, seed, record, callback)


def run_search(
    settings: ListSearchSettings,
    config: EnvConfig,
    rows: int,
    budget: int,
    make_logger: Callable[[int], Logger],
    record: Record,
    log: ScheduleLog,
    say: Callable[[str], None],
    workers: Workers | None = None,
) -> tuple[SearchResult, SearchLog]:
    """Search, or go on with a search that was killed: what was found, and the log, which waits for the result.

    Args:
        settings: of the search.
        config, rows, budget: as ``make_search``.
        make_logger: as ``SearchLog``.
        record: of what was evaluated, also before the search was killed.
        log: logs schedules.
        say: called with lines of progress.
        workers: as ``make_search``.
    """
    bar = tqdm(total=budget, unit="steps", disable=not (settings.progress and sys.stderr.isatty()))

    def watch(done: float, numbers: dict[str, float], actions: np.ndarray) -> None:
        bar.update(int(numbers["time/total_timesteps"]) - bar.n)
        lines.update(len(search.log), numbers, actions)

    search = make_search(config, rows, budget, settings.options(rows), settings.seed, record, watch, workers)
    lines = SearchLog(log, make_logger, budget, search.objective.schedule)
    if record.replaying:
        say(f"going on after {record.seconds:.0f} s of searching")
    try:
        with bar, at_a_boundary():
            if not record.replaying:
                lines.begin(search.whole(search.best))
            found = search.run()
    except BaseException:
        lines.flush()
        raise
    meta = {**found.schedule.meta, "seed": settings.seed, "version": __version__}
    schedule = dataclasses.replace(found.schedule, name=settings.algorithm, meta=meta)
    return dataclasses.replace(found, schedule=schedule), lines
