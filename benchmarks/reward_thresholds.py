"""What returns are worth aiming at? EDM's list, the closed form and the oracle, for every id that has a threshold.

python -m benchmarks.reward_thresholds

The mean return of each list over the whole pool of an id's default settings, its RMSE relative to the data, and the
ratio to the oracle's. The oracle is the best fixed list for that pool. The threshold is the mean return if every
error of the oracle were 1.05 times as large. With the ``"euler"`` reward, whose return is no error, the best list is
the closed form of the paper's objective, and the threshold 1.05 times its mean return.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import torch
import tyro
from torch import Tensor

import art_env  # noqa: F401
from agents.schedule_policy import SchedulePolicy
from art_env.diffusion.ode import ReferenceFlow
from art_env.envs.dynamics import Dynamics
from art_env.envs.rewards import GlobalReward
from art_env.schedules.registry import make_schedule

# How far from the oracle is still near it, as a ratio of RMSEs.
NEAR = 1.05
CHUNK = 1024


@dataclass
class Args:
    """Print targets and thresholds."""

    ids: tuple[str, ...] = ("Gaussian1D", "Mixture1D", "Mixture2D", "Digits")
    version: int = 1
    """Version of the ids."""
    threads: int = 1


class Target(NamedTuple):
    """A list of noise levels, its mean return over the pool, and its relative RMSE (None: not computed)."""

    schedule: str
    mean_return: float
    rmse: float | None


def targets(name: str, version: int = 1) -> tuple[list[Target], float]:
    """The lists' results, the best one's last, and the threshold of the id ``ART/name-vversion``."""
    # EDM's grid may need more octaves than the id allows its agents.
    dynamics = Dynamics(**{**gym.spec(f"ART/{name}-v{version}").kwargs, "action_range": 10.0})
    reference = dynamics.reference or dynamics.problem.reference()
    if dynamics.reward_name == "euler":
        found = [
            Target(
                spec,
                float(euler_returns(dynamics, reference, _actions(spec, dynamics, reference)).mean()),
                None,
            )
            for spec in ("edm", "closed_form")
        ]
        return found, NEAR * found[-1].mean_return
    rule, found, errors = dynamics.reward_rule, [], torch.empty(0)
    assert isinstance(rule, GlobalReward)
    for spec in ("edm", "closed_form", "oracle"):
        errors = squared_errors(dynamics, _actions(spec, dynamics, reference))
        found.append(Target(spec, -float(rule.cost(errors).mean()), math.sqrt(float(errors.mean()))))
    return found, -float(rule.cost(NEAR**2 * errors).mean())


def _actions(spec: str, dynamics: Dynamics, reference: ReferenceFlow) -> Tensor:
    """``[K, A]``, that walk down a list."""
    schedule = make_schedule(spec, dynamics.problem, dynamics.num_steps, dynamics.solver, reference)
    return torch.tensor(SchedulePolicy(schedule, dynamics).actions, dtype=torch.float64)


def squared_errors(dynamics: Dynamics, actions: Tensor) -> Tensor:
    """Final squared errors of the whole pool, ``[N]``, with the same ``actions: [K, A]``."""
    chunks = torch.arange(dynamics.pool_size).split(CHUNK)
    parts = [dynamics.final_errors(rows, actions.expand(len(rows), *actions.shape)) for rows in chunks]
    return torch.cat(parts).square().sum(1)


def euler_returns(dynamics: Dynamics, reference: ReferenceFlow, actions: Tensor) -> Tensor:
    """Returns ``[N]`` of the paper's reward from the reference's noises, with the same ``actions: [K, A]``."""
    state = dynamics.initial(reference.start)
    total = torch.zeros_like(state.t)
    for action in actions:
        rows = action.expand(reference.num_noises, -1)
        after = dynamics.transition(state, rows)
        total += dynamics.reward(state, rows, after)
        state = after
    return total


def main(args: Args) -> None:
    """Print a table for each id."""
    torch.set_num_threads(args.threads)
    print(f"{'id':20} {'schedule':12} {'mean return':>12} {'RMSE':>8} {'ratio':>6}")
    for name in args.ids:
        found, threshold = targets(name, args.version)
        title, best = f"ART/{name}-v{args.version}", found[-1].rmse
        for schedule, mean_return, rmse in found:
            error = "" if rmse is None or best is None else f"{rmse:8.4f} {rmse / best:6.2f}"
            print(f"{title:20} {schedule:12} {mean_return:12.5g} {error}".rstrip())
        print(f"{title:20} {'threshold':12} {threshold:12.3g}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python -m benchmarks.reward_thresholds", description=__doc__))
