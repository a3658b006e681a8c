"""The Gymnasium environments: one scalar, one vectorised, both thin over ``dynamics``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser
from art_env.diffusion.flow import ReferenceFlow
from art_env.diffusion.solvers import Solver
from art_env.dynamics import DEFAULT_FEATURES, Dynamics, State
from art_env.names import check_name, unknown_name
from art_env.problems import Problem, custom_problem, make_problem, model_problem
from art_env.render import Frame, draw
from art_env.schedules.schedule import Schedule

# Settings that say what is sampled, beside the problem itself.
ABOUT_PROBLEM = ("denoiser", "terminal", "sigma_min", "sigma_max", "device", "model", "trust_pickle")
VECTOR_ONLY = ("self", "__class__", "num_envs", "autoreset_mode", "noise_groups", "render_mode")
# Of the raw control: thirty standard deviations of the paper's widest policy, sqrt(0.1 / 1e-6).
MAX_SPEED = 1e4
# Beside the seeds of the rows.
PLAY_STREAM = 0x91A7
METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}


def choose_problem(
    problem: str | Problem = "digits",
    *,
    denoiser: Denoiser | None = None,
    terminal: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str = "cpu",
    model: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
) -> Problem:
    """The problem of an environment's settings; nothing is integrated yet.

    Args:
        problem, denoiser, terminal, sigma_min, sigma_max, device: as ``ARTEnv``.
        model: arguments of ``art_env.problems.model_problem``; with ``problem="custom"``.
        trust_pickle: allow that model to be a pickle.

    Raises:
        ValueError, FileNotFoundError, ImportError: a setting that is not understood, or a model that cannot be
            loaded; names it, its value and the fix.
    """
    if model is not None:
        if problem != "custom" or denoiser is not None:
            raise ValueError("model is given: leave out problem and denoiser, or the model")
        problem = model_problem(
            **model,
            trust_pickle=trust_pickle,
            terminal=terminal or "zero",
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            device=device,
        )
    if isinstance(problem, str):
        if problem == "custom":
            if denoiser is None:
                raise ValueError("denoiser = None: ART/Diffusion-v0 needs your model, denoiser=...")
            problem = custom_problem(
                denoiser,
                sigma_min=sigma_min,
                sigma_max=sigma_max,
                terminal=terminal or "zero",
                device=device,
            )
            denoiser = None
        else:
            problem = make_problem(
                problem, terminal=terminal, sigma_min=sigma_min, sigma_max=sigma_max, device=device
            )
    if denoiser is not None:
        raise ValueError(
            f"denoiser is given, but problem {problem.name!r} has its own; use the id ART/Diffusion-v0"
        )
    return problem


def make_dynamics(problem: str | Problem = "digits", **settings: Any) -> Dynamics:
    """``Dynamics`` from plain settings: those of ``ARTEnv`` and of ``choose_problem``.

    Raises:
        ValueError, TypeError: a setting that is not understood; names it, its value and the fix.
    """
    chosen = {name: settings.pop(name) for name in ABOUT_PROBLEM if name in settings}
    return Dynamics(choose_problem(problem, **chosen), **settings)


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


class ARTVectorEnv(_Common, VectorEnv):
    """``num_envs`` copies of ``ARTEnv`` that step together, in one denoiser call a stage.

    Row ``i`` with ``reset(seed=s)`` is ``ARTEnv`` with ``reset(seed=s + i)``.

    Args:
        num_envs: rows.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` or ``DISABLED`` (then reset with
            ``options={"reset_mask": bool[num_envs]}``), as a member or its name.
        noise_groups: the rows are that many groups that meet the same start noises: row ``i`` is seeded with
            ``s + i % (num_envs / noise_groups)``, so groups differ by their actions only. The ``"global"`` reward
            of a stochastic solver is that of a group.
        others: as ``ARTEnv``.
    """

    metadata: dict[str, Any] = {**METADATA, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        problem: str | Problem = "digits",
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        noise_groups: int = 1,
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
        settings = {k: v for k, v in locals().items() if k not in VECTOR_ONLY}
        if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs = {num_envs!r} must be a whole number of at least 1")
        if noise_groups < 1 or num_envs % noise_groups:
            raise ValueError(f"noise_groups = {noise_groups} must divide num_envs = {num_envs}")
        self.num_envs = int(num_envs)
        self.noise_groups = int(noise_groups)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        members = self.num_envs // self.noise_groups
        self.single_observation_space, self.single_action_space = self._set_up(
            render_mode, settings, group_size=members
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators: list[np.random.Generator] = []
        self._play_rng: np.random.Generator | None = None
        self._episodes = np.zeros(self.num_envs, dtype=np.int64)
        self._state: State | None = None
        self._done = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every row, or in those of ``options["reset_mask"]: bool[num_envs]``.

        Raises:
            ValueError, TypeError: seeds, mask or options that are not understood.
        """
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        self._seed(seed, mask)
        rows = np.flatnonzero(mask)
        if self.dynamics.compares_groups:
            by_group = mask.reshape(self.noise_groups, -1)
            if (by_group != by_group[:, :1]).any():
                name = self.dynamics.solver.name
                raise ValueError(
                    f"options['reset_mask'] takes a part of a group; with solver = {name!r} and reward = 'global' "
                    f"the {by_group.shape[1]} rows of a group must be reset together"
                )
        if self._state is None and len(rows) < self.num_envs:
            raise ValueError("reset_mask before the first reset: reset every row once first")
        fresh = self._begin(rows, options)
        self._state = fresh if len(rows) == self.num_envs else self._merge(fresh, rows)
        self._done[rows] = False
        if mask[0]:
            self._remember(self._state, 0.0, first=True)
        return self._get_obs(), self._masked(self._infos(self._state, None), mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one solver step in every row; ``actions: [num_envs, 1]``.

        Raises:
            ValueError: actions of the wrong shape, or not finite.
            RuntimeError: ``reset`` has not been called, or (``DISABLED``) a row has ended and was not reset.
            DenoiserError: the model returned something that is not finite; names problem, sigma and step.
        """
        if self._state is None:
            raise RuntimeError("step without an episode: call reset() first")
        tensor = self._actions(actions, self.num_envs)
        ended = self._done.copy()
        if ended.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            raise RuntimeError(
                f"step after the end of row {int(np.flatnonzero(ended)[0])}: "
                'reset it first, reset(options={"reset_mask": terminated})'
            )
        live = np.flatnonzero(~ended)
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        if len(live):
            whole = len(live) == self.num_envs
            pick = torch.from_numpy(live).to(self.dynamics.device)
            before = self._state if whole else State(*(v[pick] for v in self._state))
            acted = tensor if whole else tensor[pick]
            after = self.dynamics.transition(before, acted)
            outcome = self.dynamics.reward(before, acted, after)
            self._state = after if whole else self._merge(after, live)
            rewards[live] = outcome.reward.cpu().numpy()
            terminated[live] = self.dynamics.terminated(after).cpu().numpy()
            if not ended[0]:
                self._remember(self._state, float(rewards[0]), first=False)
            local = None
            if outcome.local_error is not None:
                local = torch.zeros(self.num_envs, dtype=torch.float64, device=self.dynamics.device)
                local[pick] = outcome.local_error
            infos = self._masked(self._infos(self._state, local), ~ended)
            if terminated.any():
                infos.update(self._masked(self._results(self._state), terminated))
        if ended.any():  # NEXT_STEP: the step after the end starts the next episode
            rows = np.flatnonzero(ended)
            self._state = self._merge(self._begin(rows, {}), rows)
            if ended[0]:
                self._remember(self._state, 0.0, first=True)
            for key, value in self._masked(self._infos(self._state, None), ended).items():
                if key in infos:
                    infos[key] = np.where(ended, value, infos[key])
                else:
                    infos[key] = value
        self._done = terminated.copy()
        obs = self._get_obs()
        if terminated.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(terminated):
                final[i] = obs[i].copy()
            last = {k: v for k, v in infos.items() if not k.startswith("_")}
            rows = np.flatnonzero(terminated)
            self._state = self._merge(self._begin(rows, {}), rows)
            self._done[:] = False
            if terminated[0]:
                self._remember(self._state, 0.0, first=True)
            started = self._infos(self._state, None)
            infos = {
                **self._masked(
                    {k: np.where(terminated, started[k], v) for k, v in last.items() if k in started},
                    np.ones(self.num_envs, dtype=np.bool_),
                ),
                "final_obs": final,
                "_final_obs": terminated.copy(),
                "final_info": self._masked(last, terminated),
                "_final_info": terminated.copy(),
            }
            if "local_error" in last and not terminated.all():
                infos.update(self._masked({"local_error": last["local_error"]}, ~terminated))
            obs = self._get_obs()
        return obs, rewards, terminated, truncated, infos

    def play(self, actions: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """Returns of whole episodes whose actions are known beforehand: one of each K in every row.

        The episodes under way are left alone. Start noises come from a stream of their own, seeded by ``reset``;
        groups meet the same ones.

        Args:
            actions: ``[num_envs, T]`` with T the sum of ``budgets``: the actions of the shortest episode first.
            index: ``[num_envs, len(budgets)]``, the row of the pool that each episode starts from, instead.

        Returns:
            ``[num_envs, len(budgets)]`` float64.

        Raises:
            ValueError: actions of the wrong shape, or not finite; an index of the wrong shape or outside the pool;
                or an environment without exact trajectories (``reward="euler"``), whose rows have no pool to
                start from.
            RuntimeError: ``reset`` has not been called.
            DenoiserError: as ``step``.
        """
        if self._play_rng is None:
            raise RuntimeError("play without a start: call reset() first")
        reference = self.dynamics.reference
        if reference is None:
            raise ValueError(
                f"play needs exact trajectories, which reward={self.reward_name!r} has not; use step"
            )
        want = (self.num_envs, sum(self.budgets))
        array = np.asarray(actions, dtype=np.float64)
        if array.shape != want or not np.isfinite(array).all():
            raise ValueError(f"actions have shape {array.shape}; expected {want}, all finite")
        tensor = torch.from_numpy(array).to(self.dynamics.device)
        pool, shape = reference.num_noises, (self.num_envs, len(self.budgets))
        if index is None:
            members = self.num_envs // self.noise_groups
            drawn = [self._play_rng.integers(pool, size=members) for _ in self.budgets]
            index = np.stack([np.tile(row, self.noise_groups) for row in drawn], 1)
        elif np.shape(index) != shape or np.min(index) < 0 or np.max(index) >= pool:
            raise ValueError(
                f"index has shape {np.shape(index)} and values {np.min(index)} to {np.max(index)}; expected {shape} "
                f"and 0 to {pool - 1}, rows of the pool"
            )
        rows = torch.from_numpy(np.asarray(index, dtype=np.int64)).to(self.dynamics.device)
        parts = tensor.split(self.budgets, dim=1)
        out = [self.dynamics.returns(rows[:, i], part) for i, part in enumerate(parts)]
        return torch.stack(out, 1).cpu().numpy()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame, of row 0, with ``render_mode="rgb_array"``."""
        return (draw(self.dynamics, self._frames),) if self.render_mode == "rgb_array" else None

    def _begin(self, rows: np.ndarray, options: dict[str, Any]) -> State:
        x, index = self._starts([self._generators[i] for i in rows], options)
        state = self.dynamics.initial(x, index, self._budgets(self._episodes[rows], options))
        self._episodes[rows] += 1
        return state

    def _merge(self, part: State, rows: np.ndarray) -> State:
        """The state with ``rows`` replaced by those of ``part``."""
        if len(rows) == self.num_envs:
            return part
        assert self._state is not None
        pick = torch.from_numpy(rows).to(self.dynamics.device)
        return State(*(old.index_copy(0, pick, new) for old, new in zip(self._state, part, strict=True)))

    def _get_obs(self) -> np.ndarray:
        assert self._state is not None
        return self.dynamics.observation(self._state).cpu().numpy()

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        members = self.num_envs // self.noise_groups
        if self._play_rng is None or seed is not None:
            known = [s for s in (seed if isinstance(seed, Sequence) else [seed]) if s is not None]
            self._play_rng = np.random.default_rng([*known, PLAY_STREAM] if known else None)
        if isinstance(seed, (int, np.integer)):
            seeds: list[int | None] = [int(seed) + i % members for i in range(self.num_envs)]
        elif seed is None:
            if self._generators:
                return
            first = seeding.np_random(None)[1] % 2**31
            seeds = [first + i % members for i in range(self.num_envs)]
        else:
            seeds = list(seed)
            if len(seeds) != self.num_envs:
                raise ValueError(
                    f"seed has {len(seeds)} entries; give one int, or num_envs = {self.num_envs}"
                )
        if not self._generators:
            self._generators = [seeding.np_random(s)[0] for s in seeds]
            return
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._generators[i] = seeding.np_random(seeds[i])[0]
                self._episodes[i] = 0

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a numpy array of bool, not {type(mask).__name__}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and a True in it; "
                f"got {mask.shape}, {int(mask.sum())} True"
            )
        return mask

    @staticmethod
    def _masked(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
        """Gymnasium's batched info: each key with its mask, zeros where it is not set."""
        out: dict[str, Any] = {}
        for key, value in info.items():
            out[key] = np.where(mask, value, np.zeros_like(value))
            out[f"_{key}"] = mask.copy()
        return out


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {m.name: m for m in AutoresetMode} | {m.value: m for m in AutoresetMode}
    check_name("autoreset_mode", mode, names)
    return names[mode]
