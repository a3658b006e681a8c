"""What does exploring cost, and does the best list lie within the actions? By base schedule and action range.

python -m benchmarks.exploration

The first table is the mean final squared error of episodes whose actions are normal numbers of a width, clipped to
[-1, 1]. The second is how many octaves the oracle needs at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import tyro

from agents.schedule_policy import SchedulePolicy
from art_env.envs.dynamics import Dynamics
from art_env.schedules.registry import make_schedule

WIDTHS = (0.0, 0.05, 0.2, 0.4, 1.0)
# Base schedules and octaves: the ids -v0 first, the ids -v1 last.
CANDIDATES: tuple[tuple[float | str, float], ...] = (
    (7.0, 5.0),
    (7.0, 1.0),
    ("closed_form", 5.0),
    ("closed_form", 2.0),
    ("closed_form", 1.0),
    ("closed_form", 1.5),
)
# More than any oracle needs.
OCTAVES = 10.0


@dataclass
class Args:
    """Print both tables."""

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    solver: str = "heun"
    num_steps: int = 5
    oracle_steps: tuple[int, ...] = (3, 5, 7, 10)
    episodes: int = 4000
    num_noises: int | None = None
    """Initial noises; by default the problem's own number."""
    seed: int = 0
    threads: int = 1


def errors_by_width(dynamics: Dynamics, episodes: int, seed: int) -> list[float]:
    """Mean final squared error for each of ``WIDTHS``."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(episodes) % dynamics.pool_size
    shape, errors = (episodes, dynamics.num_steps, dynamics.num_actions), []
    for width in WIDTHS:
        actions = torch.zeros(shape, dtype=torch.float64)
        if width:
            actions = width * torch.randn(shape, generator=generator, dtype=torch.float64)
        errors.append(-float(dynamics.returns(index, actions.clamp(-1, 1)).mean()))
    return errors


def octaves_of_oracle(problem: str, solver: str, num_steps: int, num_noises: int | None) -> list[float]:
    """The largest speed that the oracle needs, from EDM's grid and from the closed form."""
    needed: list[float] = []
    for base in (7.0, "closed_form"):
        dynamics = Dynamics(
            problem=problem,
            solver=solver,
            num_steps=num_steps,
            num_noises=num_noises,
            base_schedule=base,
            action_range=OCTAVES,
        )
        oracle = make_schedule("oracle", dynamics.problem, num_steps, solver, dynamics.reference)
        speeds = SchedulePolicy(oracle, dynamics).actions[:, 0]
        needed.append(OCTAVES * float(np.abs(speeds).max()))
    return needed


def main(args: Args) -> None:
    """Print both tables."""
    torch.set_num_threads(args.threads)
    print(f"{'problem':12} {'base':12} {'octaves':>7} " + " ".join(f"{width:>9g}" for width in WIDTHS))
    for problem in args.problems:
        for base, octaves in CANDIDATES:
            dynamics = Dynamics(
                problem=problem,
                solver=args.solver,
                num_steps=args.num_steps,
                num_noises=args.num_noises,
                base_schedule=base,
                action_range=octaves,
            )
            errors = errors_by_width(dynamics, args.episodes, args.seed)
            print(
                f"{problem:12} {base!s:12} {octaves:7g} " + " ".join(f"{error:9.4g}" for error in errors),
                flush=True,
            )
    print(f"\n{'problem':12} {'K':>3} {'from EDM':>9} {'from the closed form':>21}")
    for problem in args.problems:
        for K in args.oracle_steps:
            from_edm, from_closed_form = octaves_of_oracle(problem, args.solver, K, args.num_noises)
            print(f"{problem:12} {K:3} {from_edm:9.2f} {from_closed_form:21.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python -m benchmarks.exploration", description=__doc__))
