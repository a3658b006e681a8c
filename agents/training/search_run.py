"""One schedule search on an environment, and one with logs and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
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
from agents.training.run_log import RunLogger
from agents.training.search_log import SearchLog
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
    make: Callable[[Callback], ScheduleSearch],
    budget: int,
    make_logger: Callable[[int], RunLogger],
    log: ScheduleLog,
    say: Callable[[str], None],
    progress: bool,
) -> tuple[SearchResult, SearchLog]:
    """Search, or go on with a search that was killed: what was found, and the log, which waits for the result.

    Args:
        make: the search with this callback.
        budget: env steps.
        make_logger: as ``SearchLog``.
        log: logs schedules.
        say: called with lines of progress.
        progress: whether to show a bar in a terminal.
    """
    bar = tqdm(total=budget, unit="steps", disable=not (progress and sys.stderr.isatty()))

    def watch(done: float, numbers: dict[str, float], actions: np.ndarray) -> None:
        bar.update(int(numbers["time/total_timesteps"]) - bar.n)
        lines.update(len(search.log), numbers, actions)

    search = make(watch)
    lines = SearchLog(log, make_logger, budget, search.objective.schedule)
    record = search.record
    if record.replaying:
        say(f"going on after {record.seconds:.0f} s of searching")
    try:
        with bar, at_a_boundary():
            if not record.replaying:
                lines.begin(search.whole(search.best))
            return search.run(), lines
    except BaseException:
        lines.flush()
        raise
