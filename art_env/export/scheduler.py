"""Schedulers of diffusers for schedules with weights. ``art_env.export.learned_scheduler`` makes them.

This file imports diffusers. A pipeline that was saved with such a scheduler names this file: import it before
``from_pretrained``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_euler_discrete import (
    EulerDiscreteScheduler,
    EulerDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from art_env.export.formats import _flow_times
from art_env.schedules.schedule import Schedule

# A pipeline that was saved looks for SchedulerMixin here, to see how its scheduler is loaded.
__all__ = ["FlowMatchLearnedMultistepScheduler", "LearnedMultistepScheduler", "SchedulerMixin"]
Table = Sequence[Sequence[float]]


class _Multistep:
    """The part that both schedulers share: their schedule, and the slopes of the last steps."""

    def _start(self, sigmas: Sequence[float] | None, weights: Table | None) -> None:
        name = type(self).__name__
        if sigmas is None or weights is None:
            raise ValueError(
                f"{name} needs the sigmas and weights of a schedule; make it with "
                "art_env.export.learned_scheduler(schedule, scheduler)"
            )
        # Checks both.
        self.schedule = Schedule(np.asarray(sigmas, dtype=np.float64), name, weights=np.asarray(weights))
        self._forget()

    def _forget(self) -> None:
        self._past: list[Tensor] = []
        self._next_step = 0

    def _check_steps(self, num_inference_steps: int | None, given: object) -> None:
        name, K = type(self).__name__, self.schedule.num_steps
        if given is not None:
            raise ValueError(f"{name} has noise levels of its own; give num_inference_steps={K} alone")
        if num_inference_steps not in (None, K):
            raise ValueError(
                f"num_inference_steps = {num_inference_steps}, but the schedule of this {name} has {K} steps, and "
                f"its weights belong to them; give num_inference_steps={K}, or learn another schedule"
            )

    def _change(self, step: int, slope: Tensor) -> Tensor:
        """``sum_j w_j (slope - slope of j steps before)``; earlier steps that were not made are left out."""
        if step != self._next_step:  # another run, or an image-to-image one that begins in the middle
            self._forget()
        assert self.schedule.weights is not None
        row = self.schedule.weights[step].tolist()
        change = torch.zeros_like(slope)
        for w, before in zip(row, self._past, strict=False):
            change = change + w * (slope - before)
        self._past, self._next_step = [slope, *self._past][: len(row)], step + 1
        return change


class LearnedMultistepScheduler(_Multistep, EulerDiscreteScheduler):
    """``EulerDiscreteScheduler`` with the noise levels and the weights of one schedule.

    The step is that of this package's ``learned_2m``, ``learned_3m`` and ``learned_4m`` (``LearnedMultistep``):
    ``x + (sigma' - sigma) (d + sum_j w_j (d - d_j))`` with ``d = (x - x0) / sigma``. Everything else, from the
    timesteps to ``add_noise``, is that of the parent. A pipeline must be given the schedule's
    ``num_inference_steps``.

    Args:
        sigmas: ``[K + 1]``, descending.
        weights: ``[K, m]``.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, timestep_type,
            rescale_betas_zero_snr: as for the parent; how the model was trained.

    Raises:
        ValueError: sigmas or weights missing, or not those of a schedule.
    """

    @register_to_config
    def __init__(
        self,
        sigmas: Sequence[float] | None = None,
        weights: Table | None = None,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        timestep_type: str = "discrete",
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            prediction_type=prediction_type,
            timestep_type=timestep_type,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        self._start(sigmas, weights)
        self.set_timesteps()

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the initial noise: the first noise level."""
        return self.schedule.sigma_max

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
    ) -> None:
        """Begin a run.

        Raises:
            ValueError: another number of steps than the schedule's, or a grid of the caller's.
        """
        self._check_steps(num_inference_steps, timesteps if sigmas is None else sigmas)
        super().set_timesteps(sigmas=self.schedule.sigmas.tolist(), device=device)
        self._forget()

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> EulerDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """One step, in float32.

        Args:
            model_output: ``[B, *shape]``, what the network predicts, and the dtype of the result.
            timestep: one of ``timesteps``.
            sample: ``[B, *shape]``, of noise level ``sigmas[step_index]``, not scaled.
            generator: for the signature's sake; the step is deterministic.
            return_dict: False: a tuple.

        Returns:
            ``prev_sample`` and ``pred_original_sample``.
        """
        x0 = super().step(model_output, timestep, sample).pred_original_sample
        k = self.step_index - 1
        sigma, sigma_next = self.schedule.sigmas[k : k + 2].tolist()
        x = sample.float()
        slope = (x - x0) / sigma
        x = (x + (sigma_next - sigma) * (slope + self._change(k, slope))).to(model_output.dtype)
        if not return_dict:
            return x, x0
        return EulerDiscreteSchedulerOutput(prev_sample=x, pred_original_sample=x0)


class FlowMatchLearnedMultistepScheduler(_Multistep, FlowMatchEulerDiscreteScheduler):
    """``FlowMatchEulerDiscreteScheduler`` with the noise levels and the weights of one schedule.

    A flow model's sample is ``x_t = (1 - t) x0 + t noise``, and ``sigma = t / (1 - t)``. The weights were learned for
    slopes of ``x_t / (1 - t)`` in sigma, which are ``d = x_t + (1 - t) v`` (the predicted noise). A step with them
    is, in t, ``x_t + (t' - t) (v + sum_j w_j (d - d_j) / (1 - t))``.

    A pipeline must be given the schedule's ``num_inference_steps``. The ``sigmas`` and the ``mu`` that it computes by
    itself are not used, nor is any shift: the schedule says which times the network sees.

    Args:
        sigmas: ``[K + 1]``, descending: noise levels ``t / (1 - t)``, not times.
        weights: ``[K, m]``.
        num_train_timesteps: the network is told ``t * num_train_timesteps``.

    Raises:
        ValueError: sigmas or weights missing, or not those of a schedule.
    """

    # Settings of the parent in a config file are no reason for a warning.
    _compatibles: ClassVar[list[str]] = ["FlowMatchEulerDiscreteScheduler"]
    _step_index: int | None

    @register_to_config
    def __init__(
        self,
        sigmas: Sequence[float] | None = None,
        weights: Table | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__(num_train_timesteps=num_train_timesteps)
        self._start(sigmas, weights)
        self.set_timesteps()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Begin a run; of ``sigmas`` only their number is read, which must be the schedule's.

        Raises:
            ValueError: another number of steps than the schedule's, or timesteps of the caller's.
        """
        self._check_steps(num_inference_steps, timesteps)
        self._check_steps(None if sigmas is None else len(sigmas), None)
        times = _flow_times(self.schedule)
        self.num_inference_steps = self.schedule.num_steps
        self.sigmas = torch.tensor(times, dtype=torch.float32, device=device)
        self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps
        self._step_index = self._begin_index = None
        self._forget()

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """One step, in float32.

        Args:
            model_output: ``[B, *shape]``, the velocity ``noise - x0``, and the dtype of the result.
            timestep: one of ``timesteps``.
            sample: ``[B, *shape]``, ``x_t``.
            generator: for the signature's sake; the step is deterministic.
            return_dict: False: a tuple.

        Returns:
            ``prev_sample``.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        k = self.step_index
        sigma, sigma_next = self.schedule.sigmas[k : k + 2].tolist()
        x, v = sample.float(), model_output.float()
        change = self._change(k, x + v / (1 + sigma))
        # t' - t and (t' - t) / (1 - t), without the rounding of 1 - t.
        dt = (sigma_next - sigma) / ((1 + sigma) * (1 + sigma_next))
        x = (x + dt * v + dt * (1 + sigma) * change).to(model_output.dtype)
        self._step_index = k + 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=x) if return_dict else (x,)
