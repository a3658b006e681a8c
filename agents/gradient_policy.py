"""A policy trained by gradients through the sampler: what seeing the sample can win at all."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from agents.art_rl.policy import Octaves, mlp
from agents.rollout import sample_with_policy
from agents.schedule_policy import SchedulePolicy
from art_env.diffusion.solvers import Solver
from art_env.envs.dynamics import Dynamics
from art_env.problems.problem import Problem
from art_env.schedules.schedule import Schedule

# Part of the training noises that the policy is chosen on.
VALIDATION = 0.125
# How often the policy is measured on them.
CHECKS = 40


class GradientPolicy(nn.Module):
    """The actions of a schedule, and for each step a network of the observation that is added to them.

    Args:
        actions: ``[K, A]``, those of the schedule.
        width: of the observation.
        net_arch: hidden widths of each network.
        octaves: of sines and cosines beside the observation.
    """

    def __init__(
        self, actions: np.ndarray, width: int, net_arch: tuple[int, ...] = (64, 64), octaves: int = 4
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(actions, dtype=torch.float32))
        self.encode = Octaves(octaves)
        K, A = self.table.shape
        self.nets = nn.ModuleList(mlp(width * (1 + 2 * octaves), net_arch, A) for _ in range(K))
        for net in self.nets:
            last = net[-1]  # type: ignore[index]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, observation: Tensor, k: int) -> Tensor:
        """Actions ``[B, A]`` of step k."""
        action: Tensor = self.table[k] + self.nets[k](self.encode(observation))
        return action.clamp(-1, 1)

    @torch.no_grad()
    def predict(self, observation: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """The call of Stable-Baselines3's agents; all rows are at the same step."""
        K = len(self.table)
        k = min(max(round(float(observation[0, 0]) * K), 0), K - 1)
        return self(torch.as_tensor(observation, dtype=torch.float32), k).numpy(), None


def train_by_gradients(
    dynamics: Dynamics,
    start: Schedule,
    updates: int = 1500,
    batch_size: int = 512,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> GradientPolicy:
    """A policy whose final error on the training noises falls by Adam through all steps of the sampler.

    It may use everything that the observation shows, and gradients that an agent does not have, so on held-out noises
    it says how much there is to win. It is no strict bound: another network may win more. Hindsight, an optimum for
    each trajectory, is far too good: nobody can predict it.

    Args:
        dynamics: with exact trajectories and features; the denoiser must be differentiable.
        start: the best fixed schedule for it.
        updates: of Adam; its step falls to 0.
        batch_size: noises an update.
        learning_rate: of Adam.
        seed: of the networks and the batches.

    Returns:
        the policy with the least error on noises of the pool that it was not trained on; at worst the schedule.

    Raises:
        ValueError: the rewards are not those of exact trajectories, or the schedule does not fit.
    """
    if dynamics.reference is None or not dynamics.paired:
        raise ValueError(
            f"reward = {dynamics.reward_name!r} with solver = {dynamics.solver.name!r} has no exact trajectories to "
            "come near; use reward='global' and a deterministic solver"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(dynamics.pool_size)
    held = max(int(VALIDATION * len(order)), 1)
    validation, pool = order[:held], order[held:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = GradientPolicy(SchedulePolicy(start, dynamics).actions, len(dynamics.observer.names))
    moving = dynamics.differentiable()
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    best, least = copy.deepcopy(policy.state_dict()), _error(policy, dynamics, validation)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * update / updates))
        index = rng.choice(pool, min(batch_size, len(pool)), replace=False)
        # The log makes the step the same whatever the size of the error.
        loss = _squared_error(policy, moving, index).log()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if (update + 1) % max(updates // CHECKS, 1) == 0:
            error = _error(policy, dynamics, validation)
            if error < least:
                best, least = copy.deepcopy(policy.state_dict()), error
    policy.load_state_dict(best)
    return policy


def bound_ends(
    problem: Problem, solver: Solver, features: Sequence[str], start: Schedule
) -> Callable[[Tensor], Tensor]:
    """Where such a policy takes initial noises ``[B, *shape]``, with the training noises that the problem has."""
    dynamics = Dynamics(
        problem=problem,
        solver=solver,
        num_steps=start.num_steps,
        features=tuple(features),
        base_schedule="closed_form",
    )
    policy = train_by_gradients(dynamics, start)
    return lambda x: sample_with_policy(policy, dynamics, x).x


def _squared_error(policy: GradientPolicy, dynamics: Dynamics, index: np.ndarray) -> Tensor:
    """Mean squared error of the final samples from these noises."""
    assert dynamics.reference is not None
    rows = torch.from_numpy(index).to(dynamics.device)
    state = dynamics.initial(index=rows)
    for k in range(dynamics.num_steps):
        action = policy(dynamics.observation(state), k)
        state = dynamics.transition(state, action.to(state.x))
    return (state.x - dynamics.reference.x_end[rows]).square().mean()


@torch.no_grad()
def _error(policy: GradientPolicy, dynamics: Dynamics, index: np.ndarray, batch: int = 4096) -> float:
    parts = np.array_split(index, -(-len(index) // batch))
    total: float = sum(len(part) * float(_squared_error(policy, dynamics, part)) for part in parts)
    return math.sqrt(total / len(index))
