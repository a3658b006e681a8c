"""How long a benchmark trains: a part of the default, to try a whole table in minutes.

python -m benchmarks.core --out runs/trial --budget 0.02
"""

from __future__ import annotations

from typing import Any

from art_env.problems.library import make_problem
from benchmarks.running import make_settings


def shorter(part: float, algorithm: str, **options: Any) -> dict[str, Any]:
    """Options of a training that is ``part`` of its default length, but no shorter than an episode of every row.

    Args:
        part: above 0; 1 changes nothing.
        algorithm, options: those of train.py.

    Raises:
        ValueError: ``part`` is not above 0.
    """
    if not part > 0:
        raise ValueError(f"budget = {part} must be above 0; 1 is the default length of a training")
    if part == 1:
        return options
    settings = make_settings(algorithm, **options)
    rows, total = settings.size(make_problem(settings.problem), in_groups=False)
    return {**options, "total_timesteps": max(round(part * total), rows * settings.num_steps[0])}
