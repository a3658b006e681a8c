"""``ARTEnv``: the environment of one trajectory, and what it shares with the vectorised one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name, unknown_name
from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver
from art_env.envs.config import make_dynamics
from art_env.envs.dynamics import Dynamics, State
from art_env.envs.observation import DEFAULT_FEATURES
from art_env.envs.render import Frame, draw
from art_env.problems.problem import Problem
from art_env.schedules.schedule import Schedule

# Of the raw control: thirty standard deviations of the paper's widest policy, sqrt(0.1 / 1e-6).
MAX_SPEED = 1e4
METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}


class _Common:
    """What both environments share: settings, spaces, checks of what comes in."""

    dynamics: Dynamics
    render_mode: str | None
    _frames: list[Frame]

    def _set_up(
        self, render_mode: str | None, settings: dict[str, Any], group_size: int = 1
    ) -> tuple[gym.spaces.Box, gym.spaces.Box]:
        if render_mode is not None:
            check_name("render_mode", render_mode, METADATA["render_modes"])
        self.render_mode = render_mode
        self.dynamics = make_dynamics(**settings, group_size=group_size)
        self._frames = []
        low, high = self.dynamics.observation_bounds()
        bound = 1.0 if self.dynamics.control == "log_speed" else MAX_SPEED
        return gym.spaces.Box(low, high, dtype=np.float32), gym.spaces.Box(-bound, bound, (1,), np.float32)

    @property
    def num_steps(self) -> int:
        """K, the length of every episode; the largest of several."""
        return self.dynamics.num_steps

    @property
    def budgets(self) -> tuple[int, ...]:
        """Every K that an episode may have, ascending."""
        return self.dynamics.budgets

    @property
    def control(self) -> str:
        """``log_speed`` or ``speed``."""
        return self.dynamics.control

    @property
    def reward_name(self) -> str:
        """``euler``, ``local`` or ``global``."""
        return self.dynamics.reward_name

    @property
    def horizon(self) -> float:
        """The paper's T: ``sigma_max`` minus the last noise level."""
        return self.dynamics.horizon

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each entry of the observation is."""
        names: list[str] = ["time", "budget", *(["steps"] if len(self.budgets) > 1 else [])]
        for feature in self.dynamics.features:
            if feature == "x":
                names += [f"x{i}" for i in range(int(np.prod(self.dynamics.problem.shape)))]
            else:
                names.append(feature)
        return tuple(names)

    @property
    def denoiser_evals(self) -> int:
        """Denoiser evaluations so far, rewards included and one a row (reference trajectories not)."""
        return self.dynamics.denoiser.evals

    def _actions(self, action: Any, num_rows: int) -> Tensor:
        try:
            array = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"action = {action!r} is not an array of numbers") from error
        want = (1,) if num_rows == 0 else (num_rows, 1)
        if array.shape != want:
            raise ValueError(f"action has shape {array.shape}; expected {want}")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(
                f"action[{row}] = {array.flat[row]} is not finite; "
                "the policy has diverged, or its input was NaN"
            )
        return torch.from_numpy(array.reshape(-1)).to(self.dynamics.device)

    def _starts(
        self, generators: Sequence[np.random.Generator], options: dict[str, Any] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """``(x, index)`` for ``Dynamics.initial``, one row per generator; validates the options."""
        options = dict(options or {})
        dynamics, problem = self.dynamics, self.dynamics.problem
        known = ["noise_index" if dynamics.reference is not None else "x", "num_steps"]
        for key in options:
            if key not in known:
                raise ValueError(unknown_name("reset option", key, known))
        n = len(generators)
        if dynamics.reference is not None:
            pool = dynamics.reference.num_noises
            if "noise_index" in options:
                value = np.asarray(options["noise_index"])
                whole = np.issubdtype(value.dtype, np.integer) and value.shape in ((), (n,))
                if not whole or value.min() < 0 or value.max() >= pool:
                    raise ValueError(
                        f"noise_index = {options['noise_index']!r} must be whole numbers from 0 to {pool - 1}"
                        f", one or {n}"
                    )
                index = np.broadcast_to(value, (n,)).astype(np.int64)
            else:
                index = np.array([g.integers(pool) for g in generators], dtype=np.int64)
            return None, torch.from_numpy(index.copy()).to(dynamics.device)
        if "x" in options:
            x = np.asarray(options["x"], dtype=np.float64)
            if x.shape == problem.shape:
                x = np.broadcast_to(x, (n, *problem.shape))
            if x.shape != (n, *problem.shape) or not np.isfinite(x).all():
                raise ValueError(
                    f"x has shape {x.shape}; expected {problem.shape} or {(n, *problem.shape)}, all finite"
                )
        else:
            x = problem.prior_std * np.stack([g.standard_normal(problem.shape) for g in generators])
        rows: Tensor | None = None
        if dynamics.noise is not None:
            drawn = np.array([g.integers(dynamics.pool_size) for g in generators], dtype=np.int64)
            rows = torch.from_numpy(drawn).to(dynamics.device)
        return torch.from_numpy(np.array(x)).to(dynamics.device), rows

    def _budgets(self, episodes: np.ndarray, options: dict[str, Any] | None) -> Tensor:
        """K of the episodes that begin, one per entry of ``episodes: [B]``, their running numbers."""
        budgets = np.array(self.budgets)
        steps = budgets[episodes % len(budgets)]
        if options and "num_steps" in options:
            value = np.asarray(options["num_steps"])
            if value.shape not in ((), steps.shape) or not np.isin(value, budgets).all():
                raise ValueError(
                    f"num_steps = {options['num_steps']!r} must be among the environment's {self.budgets}, one or "
                    f"{len(steps)}"
                )
            steps = np.broadcast_to(value, steps.shape)
        return torch.from_numpy(steps.astype(np.int64)).to(self.dynamics.device)

    def _infos(self, state: State, local_error: Tensor | None) -> dict[str, np.ndarray]:
        """Batched info of every row; the episode's results for rows that have ended."""
        dynamics = self.dynamics
        info = {"sigma": state.sigma.cpu().numpy(), "nfe": state.nfe.cpu().numpy()}
        if dynamics.paired:
            info["error"] = torch.sqrt(state.error).cpu().numpy()
        if local_error is not None:
            info["local_error"] = local_error.cpu().numpy()
        return info

    def _results(self, state: State) -> dict[str, np.ndarray]:
        dynamics = self.dynamics
        out = {"terminal_mismatch": (state.sigma - dynamics.problem.sigma_end).cpu().numpy()}
        if dynamics.paired:
            weight = state.sigma**2 + dynamics.sigma_data**2
            out["final_rmse"] = torch.sqrt(state.error * weight).cpu().numpy()
        return out

    def _remember(self, state: State, reward: float, first: bool) -> None:
        """Row 0, for ``render``."""
        if self.render_mode is None:
            return
        if first:
            self._frames = []
        error = float(torch.sqrt(state.error[0])) if self.dynamics.paired else None
        self._frames.append(Frame(float(state.sigma[0]), error, reward, int(state.num_steps[0])))


class ARTEnv(_Common, gym.Env):
    """Choose the noise levels of a diffusion sampler, one step at a time.

    ## Description
    A sampler walks from pure noise (``sigma_max``) to an image (``sigma_end``) in K solver steps. Before each
    step the agent sets the speed of the sampling clock: how much of the remaining way the step takes. Small
    steps where the exact trajectory bends, large ones where it is straight; the budget of K steps is fixed.
    The control problem is that of Huang, Tang and Zhou, "ART for Diffusion Sampling" (arXiv 2601.18681).

    ## Action space
    ``Box(-1, 1, (1,), float32)`` with ``control="log_speed"``. With n steps left the step takes the share
    ``m / (m + n - 1)`` of the remaining budget, ``m = 2^(action_range * action)``: its speed is m times the
    mean speed of the steps after it. Budget is measured in the coordinate ``clock``: with ``clock=7``,
    ``action = 0`` everywhere is the EDM grid. The last step spends what is left, so the terminal noise level
    is exact whatever the agent does.
    ``Box(-1e4, 1e4, (1,), float32)`` with ``control="speed"``: the paper's raw theta (the bound is there
    because SB3 wants a finite one, far beyond what its policy draws); sigma falls by
    ``theta T / K``, is held within the range, and may miss the end (``info["terminal_mismatch"]``).

    ## Observation space
    ``Box`` float32, bounded and clipped:

    | entry | meaning | min | max |
    |---|---|---|---|
    | time | k / K, the reparameterized time | 0 | 1 |
    | budget | part of the clock's coordinate that is left | 0 | 1 |
    | steps | log2 of K over 8; only if there are several K | 0 | 1 |
    | log_f | log10 of the RMS of F = -dx/dsigma, over 6 | -1 | 1 |
    | log_q | log10 of the norm of Q = d2x/dsigma2, over 6 (0 before it is known) | -1 | 1 |
    | size | log2 of the RMS of x over sqrt(sigma^2 + sigma_data^2), over 4 | -1 | 1 |
    | cosine | between the last two slopes (0 before there are two) | -1 | 1 |
    | x | each coordinate over 4 sqrt(sigma^2 + sigma_data^2); at most 8 coordinates | -1 | 1 |

    ``features`` picks the rows after the first three; all come from evaluations that the solver makes anyway.

    ## Rewards
    - ``"euler"``: ``-|Q(x, sigma)| theta^2 dt`` at the sampler's own iterate, the paper's objective.
    - ``"local"``: minus the norm of the true error of this solver's step, started on the exact trajectory.
    - ``"global"``: minus the growth of ``|x - x_exact|^2 / d / (sigma^2 + sigma_data^2)``. The return is
      exactly minus the final squared error, for any solver that follows the ODE.

    The stochastic solvers ``euler_maruyama`` and ``edm_churn`` do not follow it, so no error can be paired with
    it: ``"local"`` is refused, and ``"global"`` compares distributions. The last step of ``ARTVectorEnv`` then earns
    each row its part of ``-W2^2`` between the final samples of its group (``noise_groups``; at least 16 rows each)
    and the ends of all exact trajectories; the mean over the group is exactly ``-W2^2``, and the other steps earn 0.
    Above one dimension the distance is sliced (128 directions), and images are compared by the features of the
    problem's classifier, if it has one. One row is no distribution: ``ARTEnv`` has only ``"euler"`` for them.
    Their noise is a table as large as the pool, drawn from ``noise_seed``: an episode is a function of its row of
    the pool and its actions.

    ## Starting state
    ``sigma_max`` and noise of standard deviation ``prior_std``. With ``"local"`` and ``"global"`` it is drawn
    from a pool of ``num_noises`` whose exact trajectories are integrated once, at construction.
    ``reset(options={"noise_index": i})`` picks one; with ``"euler"``, ``options={"x": array}``.
    With several K, ``num_steps=(3, 5, 10)``, episodes take them in turn, beginning again at a reset with a seed;
    ``options={"num_steps": 5}`` picks one.

    ## Episode end
    ``terminated`` after K steps (the budget is observed); never ``truncated``. ``info`` holds ``sigma``,
    ``nfe`` and, where known, ``error`` and ``local_error``; the last step adds ``terminal_mismatch`` and,
    with ``error``, ``final_rmse``.

    ## Arguments
    ```python
    gym.make("art_env:ART/Mixture1D-v0", solver="heun", num_steps=5, reward="global", features=())
    ```

    Args:
        problem: a name (``art_env.problems.PROBLEMS``), a ``Problem``, or ``"custom"`` with ``denoiser``.
        denoiser: a caller's own model (``ART/Diffusion-v0``).
        solver: ``"euler"``, ``"heun"``, ``"rk4"``, ``"dpmpp_2m"``, ``"ipndm"``, ``"euler_maruyama"``,
            ``"edm_churn"``, or a ``Solver``, such as ``edm_churn(S_churn=10)``.
        num_steps: K, or several (up to 256, for a solver that follows the ODE).
        reward: ``"euler"``, ``"local"`` or ``"global"``.
        control: ``"log_speed"`` or ``"speed"``.
        features: names from the table, or ``()``.
        clock: rho of ``sigma^(1/rho)``, ``"closed_form"``, or a ``Schedule``.
        action_range: octaves of speed between action 0 and 1.
        terminal: ``"zero"`` or ``"sigma_min"``; None: the problem's own.
        sigma_min, sigma_max: another noise range.
        num_noises, noise_seed: the pool of start noises, and of the noise of stochastic solvers.
        reference: exact trajectories to use instead of integrating them.
        device: where the denoiser runs.
        render_mode: ``None`` or ``"rgb_array"``: the schedule so far against EDM's, and the error per step.

    ## Version history
    - v0: first version.
    """

    metadata = METADATA

    def __init__(
        self,
        problem: str | Problem = "digits",
        *,
        denoiser: Denoiser | None = None,
        solver: str | Solver = "heun",
        num_steps: int | Sequence[int] = 5,
        reward: str = "global",
        control: str = "log_speed",
        features: Sequence[str] = DEFAULT_FEATURES,
        clock: float | str | Schedule = 7.0,
        action_range: float = 5.0,
        terminal: str | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        num_noises: int | None = None,
        noise_seed: int = 0,
        reference: ReferenceFlow | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "render_mode", "__class__")}
        self.observation_space, self.action_space = self._set_up(render_mode, settings)
        self._state: State | None = None
        self._episodes = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options``: ``noise_index`` or ``x``, and ``num_steps`` (see "Starting state").

        Raises:
            ValueError: an unknown option, or a value out of range.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._episodes = 0
        x, index = self._starts([self.np_random], options)
        self._state = self.dynamics.initial(x, index, self._budgets(np.array([self._episodes]), options))
        self._episodes += 1
        self._remember(self._state, 0.0, first=True)
        return self._get_obs(), self._row(self._infos(self._state, None))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one solver step; ``action: [1]``.

        Raises:
            ValueError: an action of the wrong shape, or not finite.
            RuntimeError: no episode is under way.
            DenoiserError: the model returned something that is not finite; names problem, sigma and step.
        """
        if self._state is None:
            raise RuntimeError("step without an episode: call reset() first, and again after terminated=True")
        before = self._state
        actions = self._actions(action, 0)
        after = self.dynamics.transition(before, actions)
        outcome = self.dynamics.reward(before, actions, after)
        self._state = after
        reward = float(outcome.reward[0])
        done = bool(self.dynamics.terminated(after)[0])
        info = self._row(self._infos(after, outcome.local_error))
        obs = self._get_obs()
        self._remember(after, reward, first=False)
        if done:
            info.update(self._row(self._results(after)))
            self._state = None
        return obs, reward, done, False, info

    def render(self) -> np.ndarray | None:
        """``[H, W, 3]`` uint8 with ``render_mode="rgb_array"``, else None."""
        return draw(self.dynamics, self._frames) if self.render_mode == "rgb_array" else None

    def _get_obs(self) -> np.ndarray:
        assert self._state is not None
        return self.dynamics.observation(self._state)[0].cpu().numpy()

    @staticmethod
    def _row(info: dict[str, np.ndarray]) -> dict[str, Any]:
        return {key: value[0].item() for key, value in info.items()}
