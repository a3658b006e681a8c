"""One schedule search as the settings say, and in a run folder with logs and checkpoints."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from agents.callbacks import ScheduleLog
from agents.distributed.objective import ShardedObjective
from agents.distributed.workers import Workers
from agents.schedule_search import SearchOptions
from agents.schedule_search.evolution import EvolutionOptions, EvolutionSearch
from agents.schedule_search.least_squares import LeastSquaresSearch
from agents.schedule_search.objective import Objective
from agents.schedule_search.record import Record
from agents.schedule_search.search import Callback, ScheduleSearch, SearchResult
from agents.training.run_folder import RunFolder
from agents.training.settings import ListSearchSettings
from art_env import __version__
from art_env._util.termination import at_a_boundary
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics

# Lines of the log and, among them, schedules measured on held-out noises, which takes longer.
LINES, SCHEDULES = 100, 20


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
    run: RunFolder,
    record: Record,
    log: ScheduleLog,
    say: Callable[[str], None],
    workers: Workers | None = None,
) -> SearchResult:
    """Search, or go on with a search that was killed.

    Args:
        settings: of the search.
        config, rows, budget: as ``make_search``.
        run: where logs go.
        record: of what was evaluated, also before the search was killed.
        log: logs schedules.
        say: called with lines of progress.
        workers: as ``make_search``.
    """
    logger = run.logger()
    if record.replaying:
        say(f"going on after {record.seconds:.0f} s of searching")
    lines, schedules = 0, 0
    bar = tqdm(total=budget, unit="steps", disable=not (settings.progress and sys.stderr.isatty()))

    def watch(done: float, numbers: dict[str, float], actions: np.ndarray) -> None:
        nonlocal lines, schedules
        steps = int(numbers["time/total_timesteps"])
        bar.update(steps - bar.n)
        if done * LINES < lines:
            return
        lines = int(done * LINES) + 1
        for name, value in numbers.items():
            logger.record(name, value)
        if done * SCHEDULES >= schedules:
            schedules = int(done * SCHEDULES) + 1
            log(search.objective.schedule(actions), logger, steps)
        logger.dump(steps)

    search = make_search(config, rows, budget, settings.options(rows), settings.seed, record, watch, workers)
    with bar, at_a_boundary():
        found = search.run()
    logger.close()
    meta = {**found.schedule.meta, "seed": settings.seed, "version": __version__}
    return dataclasses.replace(
        found, schedule=dataclasses.replace(found.schedule, name=settings.algorithm, meta=meta)
    )
