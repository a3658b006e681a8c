"""What return is near the oracle? The ``reward_threshold`` of every id that has one.

python -m benchmarks.reward_thresholds

The best fixed schedule for the whole pool of an id's default settings, its mean return there, and the threshold: the
mean return at 1.05 times its RMSE. With the ``"euler"`` reward the schedule is the closed form of the paper's
objective, and the threshold 1.05 times its mean return.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
import tyro

import art_env  # noqa: F401
from agents.schedule_policy import SchedulePolicy
from art_env.envs.dynamics import Dynamics
from art_env.schedules.registry import make_schedule

# How far from the oracle is still near it, as a ratio of RMSEs.
NEAR = 1.05
CHUNK = 1024


@dataclass
class Args:
    """Print thresholds."""

    ids: tuple[str, ...] = ("Gaussian1D", "Mixture1D", "Mixture2D", "Digits")
    threads: int = 1


def mean_return(name: str) -> tuple[str, float]:
    """The best fixed schedule's name, and its mean return over the pool, of the id ``ART/name-v1``."""
    dynamics = Dynamics(action_range=10.0, **gym.spec(f"ART/{name}-v0").kwargs)
    problem, K = dynamics.problem, dynamics.num_steps
    reference = dynamics.reference or problem.reference()
    spec = "closed_form" if dynamics.reward_name == "euler" else "oracle"
    schedule = make_schedule(spec, problem, K, dynamics.solver, reference)
    actions = torch.tensor(SchedulePolicy(schedule, dynamics).actions, dtype=torch.float64)
    total = 0.0
    for chunk in torch.arange(reference.num_noises).split(CHUNK):
        rows = actions.expand(len(chunk), *actions.shape)
        total += float(returns(dynamics, chunk, reference.start[chunk], rows).sum())
    return spec, total / reference.num_noises


def returns(dynamics: Dynamics, index: torch.Tensor, x: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Returns ``[B]`` of episodes from the noises ``x``, rows ``index`` of the pool if there is one."""
    if dynamics.reference is not None:
        return dynamics.returns(index, actions)
    state, total = dynamics.initial(x), torch.zeros(len(x), dtype=x.dtype)
    for action in actions.unbind(1):
        after = dynamics.transition(state, action)
        total += dynamics.reward(state, action, after)
        state = after
    return total


def main(args: Args) -> None:
    """Print a line for each id."""
    torch.set_num_threads(args.threads)
    print(f"{'id':20} {'schedule':12} {'mean return':>12} {'threshold':>12}")
    for name in args.ids:
        spec, value = mean_return(name)
        near = NEAR if spec == "closed_form" else NEAR**2
        print(f"ART/{name + '-v0':16} {spec:12} {value:12.5g} {near * value:12.3g}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python -m benchmarks.reward_thresholds", description=__doc__))
