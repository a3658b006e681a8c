"""Several short runs from different tables, the best of which goes on."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from agents.art_rl.policy import ARTPolicy

# Part of training that goes to all short runs together, and the rollouts that each must have.
SHARE, LEAST_ROLLOUTS = 0.3, 20
# How far a short run anneals (1: nothing, 0: to the end), and where the run that goes on takes up.
SHORT_ENDS, LONG_BEGINS = 0.3, 0.5
# Part of a short run by whose returns it is judged.
JUDGED = 1 / 3


class Restarts:
    """The plan of a training, and what its short runs have found.

    The final error has many local minima. Short runs begin at smooth random tables around the first one, which
    itself is the first start; the one with the highest returns late in its run goes on.

    Args:
        policy: as training begins.
        starts: short runs at most; 1: one run from start to end.
        rollouts: of the whole training; with few of them there are fewer starts.
        spread: standard deviation of the starts, in units of the action.

    Attributes:
        ended: score, actor and optimizer of each short run that has ended.
    """

    def __init__(self, policy: ARTPolicy, starts: int, rollouts: float, spread: float) -> None:
        self.starts = min(starts, int(SHARE * rollouts / LEAST_ROLLOUTS))
        if self.starts < 2:
            self.starts = 0
        self.spread = spread
        self.first = _snapshot(policy)
        self.ended: list[tuple[float, dict[str, Any]]] = []
        self.returns: list[float] = []

    def part(self, progress: float) -> float:
        """How much of the run under way is done, when ``progress`` of training is."""
        run, each = len(self.ended), SHARE / max(self.starts, 1)
        begin = run * each
        length = each if run < self.starts else 1.0 - begin
        return min(max((progress - begin) / length, 0.0), 1.0)

    def remaining(self, progress: float) -> float:
        """What is left of annealing: 1 at the start, 0 at the end of training."""
        part = self.part(progress)
        if len(self.ended) < self.starts:
            return 1.0 + (SHORT_ENDS - 1.0) * part
        return (LONG_BEGINS if self.starts else 1.0) * (1.0 - part)

    def update(self, policy: ARTPolicy, progress: float, mean_return: float) -> None:
        """Take a rollout's mean return; where a short run ends, ``policy`` becomes the start of the next run."""
        if len(self.ended) == self.starts:
            return
        part = self.part(progress)
        if part >= 1.0 - JUDGED:
            self.returns.append(mean_return)
        if part < 1.0:
            return
        self.ended.append((sum(self.returns) / len(self.returns), _snapshot(policy)))
        self.returns = []
        if len(self.ended) < self.starts:
            _restore(policy, self.first)
            with torch.no_grad():
                policy.table.values.add_(self.spread * _smooth(policy.table.values))
            policy.clip_table()
        else:
            _restore(policy, max(self.ended, key=lambda run: run[0])[1])


def _smooth(table: torch.Tensor) -> torch.Tensor:
    """Random functions of time, smooth over the steps: ``[K, A]`` of about unit size."""
    K, num_actions = table.shape
    place = math.pi * (torch.arange(K, device=table.device) + 0.5) / K
    waves = torch.stack([torch.cos(j * place) for j in range(3)], 1)
    return waves @ torch.randn(3, num_actions).to(table)


def _snapshot(policy: ARTPolicy) -> dict[str, Any]:
    actor = {name: value.detach().clone() for name, value in policy.actor_parameters()}
    return {"actor": actor, "optimizer": copy.deepcopy(policy.optimizer.state_dict())}


@torch.no_grad()
def _restore(policy: ARTPolicy, snapshot: dict[str, Any]) -> None:
    for name, value in policy.actor_parameters():
        value.copy_(snapshot["actor"][name])
    policy.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
