"""``ARTEnv``: the environment of one trajectory."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from art_env.envs.base import METADATA, BaseEnv
from art_env.envs.config import EnvConfig


class ARTEnv(BaseEnv, gym.Env):
    """Choose the noise levels of a diffusion sampler, one step at a time.

    ## Description
    A sampler walks from pure noise (``sigma_max``) to an image (``sigma_end``) in K solver steps. Before each
    step the agent sets the speed of the sampling clock: how much of the remaining way the step takes. Small
    steps where the exact trajectory bends, large ones where it is straight; the budget of K steps is fixed.
    The control problem is that of Huang, Tang and Zhou, "ART for Diffusion Sampling" (arXiv 2601.18681).

    ## Action space
    ``Box(-1, 1, (1,), float32)`` with ``control="log_speed"``. With n steps left the step takes the share
    ``m / (m + n - 1)`` of the remaining budget, ``m = 2^(action_range * action)``: its speed is m times the
    mean speed of the steps after it. Budget is measured along the base schedule, which ``action = 0`` everywhere
    reproduces: with ``"closed_form"`` it is the optimum of the paper's objective, with 7 EDM's grid. The last step
    spends what is left, so the final noise level is exact whatever the agent does.
    With the solvers ``learned_2m``, ``learned_3m`` and so on (``log_speed`` only) the box has 1, 2, ... entries
    more, the weights of the step: its slope is ``d + sum_j w_j (d - d_j)``, ``d_j`` the slope of j steps
    before, at no more evaluations. Action 0 is ``w_1 = 1/2`` and 0 for the others, the second-order rule of even
    steps, or the weights of a base schedule that has some (see ``SlopeWeights``); the first step reads none of
    them, the second one the first only.
    ``Box(-1e4, 1e4, (1,), float32)`` with ``control="speed"``: the paper's raw theta (the bound is there
    because SB3 wants a finite one, far beyond what its policy draws); sigma falls by
    ``theta T / K``, is held within the range, and may miss the end (``info["sigma_mismatch"]``).

    ## Observation space
    ``Box`` float32, bounded and clipped:

    | entry | meaning | min | max |
    |---|---|---|---|
    | time | k / K, the reparameterized time | 0 | 1 |
    | remaining | part of the budget that is left, measured along the base schedule | 0 | 1 |
    | log_velocity | log10 of the RMS of F = -dx/dsigma, over 6 | -1 | 1 |
    | log_curvature | log10 of the norm of Q = d2x/dsigma2, over 6 (0 before it is known) | -1 | 1 |
    | rms | log2 of the RMS of x over sqrt(sigma^2 + sigma_data^2), over 4 | -1 | 1 |
    | turn | cosine between the last two slopes (0 before there are two) | -1 | 1 |
    | log_change | log10 of the RMS of the change of slope, over 6 (0 before there are two) | -1 | 1 |
    | level | log2 of sigma over the standard deviation of the data, over 10 | -1 | 1 |
    | denoised_rms | log2 of the RMS of the denoised sample over the standard deviation of the data, over 4 | -1 | 1 |
    | denoised_change | log10 of the RMS of its last change over that, over 6 (0 before there are two) | -1 | 1 |
    | x | each coordinate over 4 sqrt(sigma^2 + sigma_data^2); at most 8 coordinates | -1 | 1 |
    | denoised | each coordinate of the denoised sample over 4 sigma_data; at most 8 coordinates | -1 | 1 |
    | change | each coordinate of the change of slope; at most 8 coordinates | -1 | 1 |
    | class | 1 for the class of the condition, 0 for the others | 0 | 1 |

    ``features`` picks the rows after the first two; all come from evaluations that the solver makes anyway. With
    ``history=2`` those of the last two steps come after them, the latest first (0 where there was no such step).

    ## Rewards
    - ``"euler"``: ``-|Q(x, sigma)| theta^2 dt`` at the sampler's own iterate, the paper's objective.
    - ``"local"``: minus the norm of the true error of this solver's step, started on the exact trajectory.
    - ``"global"``: minus the growth of ``|x - x_exact|^2 / d / (sigma^2 + sigma_data^2)``. The return is
      exactly minus the final squared error, for any solver that follows the ODE.
    - ``"log_global"``: the same of ``log(1 + error / 0.01)``. The return is minus that function of the final squared
      error: like ``"global"`` below 0.01, logarithmic above.

    The stochastic solvers ``euler_maruyama`` and ``edm_churn`` do not follow it, so no error can be paired with
    it: ``"local"`` and ``"log_global"`` are refused, and ``"global"`` compares distributions. The last step of
    ``ARTVectorEnv`` then earns each row its part of ``-W2^2`` between the final samples of its group
    (``noise_groups``; at least 16 rows each) and the ends of all exact trajectories; the mean over the group is
    exactly ``-W2^2``, and the other steps earn 0. Above one dimension the distance is sliced (128 directions), and
    images are compared by the features of the problem's classifier, if it has one. One row is no distribution:
    ``ARTEnv`` has only ``"euler"`` for them.
    Their noise is a table as large as the pool, drawn from ``noise_seed``: an episode is a function of its row of
    the pool and its actions.

    ## Starting state
    ``sigma_max`` and noise of standard deviation ``prior_std``. With all but ``"euler"`` it is drawn
    from a pool of ``num_noises`` whose exact trajectories are integrated once, at construction.
    ``reset(options={"noise_index": i})`` picks one; with ``"euler"``, ``options={"x": array}``.

    ## Episode end
    ``terminated`` after K steps (the budget is observed); never ``truncated``, unless the caller asks for it with
    ``max_episode_steps``. The ids are registered with ``max_episode_steps=1001``, one more than the longest episode
    that there is, for wrappers that want a limit (``TimeAwareObservation``).

    ## Reward threshold
    ``spec.reward_threshold`` means near the oracle at the id's default settings: the mean return over the whole pool
    of the best fixed schedule if each of its errors were 1.05 times as large. With the ``"euler"`` reward, whose
    return is not made of errors, it is 1.05 times the mean return of the closed form. A policy that sees the sample
    can go beyond.
    ``python -m benchmarks.reward_thresholds`` computes them, and the returns of EDM's list, the closed form and the
    oracle. ``Mnist``, ``RandomMixture`` and ``Diffusion`` have none.

    ## Info
    The same entries at every step and reset, NumPy scalars:

    | entry | meaning |
    |---|---|
    | sigma | the noise level |
    | sigma_mismatch | sigma minus the last noise level: what is left to go, and at the end what was missed |
    | nfe | network evaluations of the episode so far, as samplers count them |
    | error | RMS distance to the exact trajectory over sqrt(sigma^2 + sigma_data^2) |
    | rmse | RMS distance to the exact trajectory; at the end the RMSE of the sample |
    | local_error | the error that the last step made by itself; 0 after a reset |

    ``error`` and ``rmse`` are there with all rewards but ``"euler"``, of solvers that follow the ODE,
    ``local_error`` with ``"euler"`` and ``"local"``.

    ## Arguments
    ```python
    gym.make("art_env:ART/Mixture1D-v1", solver="heun", num_steps=5, reward="log_global", features=())
    ```

    Args:
        config: an ``EnvConfig``, whose docstring lists every setting; default all defaults.
        render_mode: ``None`` or ``"rgb_array"``: the schedule so far against EDM's, and the error per step.
        settings: fields of ``EnvConfig`` that differ from ``config``.

    Raises:
        ValueError, TypeError: a setting that is not understood; names it, its value and the fix.

    ## Version history
    - v1: an agent that explores with the whole range of actions stays among useful schedules. ``action_range`` is
      1.5 octaves (was 5), ``base_schedule`` ``"closed_form"`` (was 7, EDM's), ``reward`` ``"log_global"`` (was
      ``"global"``). ``Gaussian1D`` keeps its reward and begins at ``base_schedule=2``, ``RandomMixture`` keeps its
      base schedule.
    - v0: first version. The ids are still registered, and the class's own defaults are theirs.
    """

    metadata = METADATA

    def __init__(
        self, config: EnvConfig | None = None, *, render_mode: str | None = None, **settings: Any
    ) -> None:
        self.observation_space, self.action_space = self._set_up(config, render_mode, settings)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options``: ``noise_index`` or ``x`` (see "Starting state").

        Raises:
            ValueError: an unknown option, or a value out of range.
        """
        super().reset(seed=seed)
        x, index = self._starts([self.np_random], options, lambda n: np.array([self.np_random.integers(n)]))
        self._state = self.dynamics.initial(x, index)
        self._remember([0])
        return self._get_obs()[0], self._row_info(torch.zeros_like(self._state.t))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one solver step; ``action: [A]``.

        Raises:
            ValueError: an action of the wrong shape, or not finite.
            RuntimeError: no episode is under way.
            DenoiserError: the model returned something that is not finite; names problem, sigma and step.
        """
        if self._state is None:
            raise RuntimeError("step without an episode: call reset() first, and again after terminated=True")
        before, actions = self._state, self._actions(action, 0)
        self._state = self.dynamics.transition(before, actions)
        reward = self.dynamics.reward(before, actions, self._state)
        self._remember([0], reward)
        obs, info = self._get_obs()[0], self._row_info(reward)
        terminated = bool(self.dynamics.terminal(self._state))
        if terminated:
            self._state = None
        return obs, reward.item(), terminated, False, info

    def render(self) -> np.ndarray | None:
        """``[H, W, 3]`` uint8 with ``render_mode="rgb_array"``, else None."""
        frames = self._draw()
        return None if frames is None else frames[0]

    def _row_info(self, reward: Tensor) -> dict[str, Any]:
        return {key: value[0] for key, value in self._get_info(reward).items()}
