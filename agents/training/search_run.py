"""One schedule search in a run folder, with logs and checkpoints."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from agents.callbacks import ScheduleLog
from agents.schedule_search.objective import Objective
from agents.schedule_search.record import Record
from agents.schedule_search.search import Options, ScheduleSearch, SearchResult
from agents.training.run_folder import RunFolder
from agents.training.settings import SearchSettings
from art_env import __version__
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.schedules.schedule import Schedule

# Of one search, at most: schedules are measured on held-out noises, which takes longer than writing numbers.
SCHEDULES, LINES = 20, 100


def run_search(
    settings: SearchSettings,
    config: EnvConfig,
    rows: int,
    budget: int,
    run: RunFolder,
    log: ScheduleLog,
    say: Callable[[str], None],
) -> SearchResult:
    """Search, or go on with a search that was killed.

    Args:
        settings: of the run.
        config: of the environment, with its exact trajectories.
        rows: episodes of a rollout.
        budget: env steps.
        run: where logs and checkpoints go.
        log: logs schedules.
        say: called with lines of progress.
    """
    noises = rows // settings.noise_groups
    objective = Objective(Dynamics(config, group_size=noises), batch=rows)
    options = Options(
        settings.noise_groups, noises, settings.starts, settings.learning_rate, settings.std_start
    )
    record = Record(run.search)
    if record.replaying:
        say(f"going on after {record.seconds:.0f} s of searching")
    logger = run.logger()
    written = {"lines": 0, "schedules": 0}
    bar = tqdm(total=budget, unit="steps", disable=not (settings.progress and sys.stderr.isatty()))

    def watch(done: float, numbers: dict[str, float], actions: np.ndarray) -> None:
        steps = int(numbers["time/total_timesteps"])
        bar.update(steps - bar.n)
        if done * LINES < written["lines"]:
            return
        written["lines"] = int(done * LINES) + 1
        for name, value in numbers.items():
            logger.record(name, value)
        if done * SCHEDULES >= written["schedules"]:
            written["schedules"] = int(done * SCHEDULES) + 1
            log(objective.schedule(actions), logger, steps)
        logger.dump(steps)

    with bar:
        found = ScheduleSearch(objective, budget, options, settings.seed, record, watch).run()
    logger.close()
    schedule = found.schedule
    meta = {**schedule.meta, "seed": settings.seed, "version": __version__}
    return dataclasses.replace(found, schedule=Schedule(schedule.sigmas, settings.algorithm, meta))
