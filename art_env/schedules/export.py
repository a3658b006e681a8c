"""Schedules for other people's samplers: diffusers, k-diffusion, EDM, ComfyUI, diff-sampler.

Examples:
    python -m art_env.schedules.export schedule.json --to k-diffusion
    python -m art_env.schedules.export schedule.json --to diffusers-heun --scheduler-config scheduler_config.json
    python -m art_env.schedules.export schedule.json --to comfyui --out sigmas.txt
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from art_env.cli import run_command
from art_env.files import write_text
from art_env.names import look_up
from art_env.schedules.schedule import Array, Schedule

if TYPE_CHECKING:
    import torch

# How far a schedule may lie outside a model's range: such ends are quoted with three or four digits.
RANGE_RTOL = 1e-3
# Settings that replace or move the noise levels that a diffusers scheduler is given.
SPACINGS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_flow_sigmas",
    "invert_sigmas",
    "shift_terminal",
)


def k_diffusion(
    schedule: Schedule, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> torch.Tensor:
    """``Schedule.to_k_diffusion``."""
    import torch

    sigmas = torch.tensor(schedule.sigmas, dtype=dtype or torch.float32, device=device)
    same = (sigmas[1:] >= sigmas[:-1]).nonzero()
    if len(same):
        i = int(same[0]) + 1
        raise ValueError(
            f"sigmas[{i}] = {schedule.sigmas[i]:.9g} equals sigmas[{i - 1}] in {sigmas.dtype}; use torch.float64"
        )
    return sigmas


def edm(schedule: Schedule) -> list[float]:
    """``Schedule.to_edm``."""
    return [*_levels(schedule, "EDM's sampler").tolist(), 0.0]


def comfyui(schedule: Schedule) -> str:
    """``Schedule.to_comfyui``."""
    # ManualSigmas looks for digits and dots: it would read 1e-05 as two numbers.
    return ", ".join(np.format_float_positional(s, trim="0") for s in schedule.sigmas)


def diff_sampler(schedule: Schedule) -> str:
    """``Schedule.to_diff_sampler``."""
    if schedule.terminal == "zero":
        raise ValueError(
            f"schedule {schedule.name!r} ends at 0, where diff-sampler's solvers divide by the noise level; "
            "use a schedule made with terminal='sigma_min'"
        )
    return f"--t_steps={_numbers(schedule.sigmas)}".replace(" ", "")


def flow(schedule: Schedule, shift: float = 1.0) -> Array:
    """``Schedule.to_flow``."""
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift = {shift} must be a positive number")
    levels = _levels(schedule, "a flow sampler")
    # t = sigma / (1 + sigma), then the inverse of t <- shift t / (1 + (shift - 1) t).
    return levels / (levels + shift)


def diffusers_kwargs(
    schedule: Schedule, scheduler: Any, *, quantize: bool = False, mu: float | None = None
) -> dict[str, Any]:
    """``Schedule.diffusers_kwargs``."""
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    name = next((n for n in names if n in GRIDS), None)
    if name is None:
        raise ValueError(
            f"{names[0]} cannot be given a grid (or is not a scheduler instance); diffusers schedulers that can: "
            f"{', '.join(n for n in GRIDS if n != QUANTIZED)}, and {QUANTIZED} with quantize=True. "
            "Put one in with Scheduler.from_config(pipe.scheduler.config)"
        )
    kwargs, expected, rtol = GRIDS[name](schedule, scheduler, quantize=quantize, mu=mu)
    trial = copy.deepcopy(scheduler)
    trial.set_timesteps(**kwargs, **_mu(mu))
    _check_read_back(trial, name, expected, rtol)
    return kwargs


def to_diffusers(
    schedule: Schedule,
    scheduler: Any,
    *,
    device: torch.device | str | None = None,
    quantize: bool = False,
    mu: float | None = None,
) -> Any:
    """``Schedule.to_diffusers``."""
    kwargs = diffusers_kwargs(schedule, scheduler, quantize=quantize, mu=mu)
    scheduler.set_timesteps(**kwargs, **_mu(mu), device=device)
    return scheduler


# What a scheduler is given; the noise levels that it must then show (its .sigmas, without repeats); tolerance.
Grid = tuple[dict[str, Any], Array, float]


def _euler(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``EulerDiscreteScheduler``: the levels as they are, the last one included."""
    config = scheduler.config
    if _get(config, "timestep_type") == "continuous" and _get(config, "prediction_type") == "v_prediction":
        low, high = _get(config, "sigma_min", 0.0), _get(config, "sigma_max", math.inf)
    else:
        table = _training_sigmas(scheduler)
        low, high = table[0], table[-1]
    _check_bounds(schedule, "EulerDiscreteScheduler", low, high)
    return {"sigmas": schedule.sigmas.tolist()}, schedule.sigmas, RANGE_RTOL


def _heun(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``HeunDiscreteScheduler``: fractional timesteps, which it interpolates its training sigmas at; appends 0."""
    name = "HeunDiscreteScheduler"
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    table = _training_sigmas(scheduler)
    _check_bounds(schedule, name, table[0], table[-1])
    times = np.interp(levels, table, np.arange(len(table)))
    return {"timesteps": times.tolist()}, np.append(levels, 0.0), RANGE_RTOL


def _edm_euler(schedule: Schedule, scheduler: Any, **_: Any) -> Grid:
    """``EDMEulerScheduler``: positions in [0, 1] on its Karras ramp, in float64; appends 0."""
    import torch

    name = "EDMEulerScheduler"
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    config = scheduler.config
    if config.sigma_schedule != "karras":
        raise ValueError(
            f"{name} with sigma_schedule={config.sigma_schedule!r} ignores the grid; use "
            f"{name}.from_config(scheduler.config, sigma_schedule='karras')"
        )
    _check_bounds(schedule, name, config.sigma_min, config.sigma_max)
    if not np.isclose(schedule.sigma_max, config.sigma_max, rtol=RANGE_RTOL):
        raise ValueError(
            f"schedule {schedule.name!r} starts at sigma={schedule.sigma_max:g}, but {name} draws its start noise "
            f"for sigma_max={config.sigma_max:g}; use "
            f"{name}.from_config(scheduler.config, sigma_max={schedule.sigma_max:g})"
        )
    ramp = _ramp(levels, config.sigma_min, config.sigma_max, config.rho)
    return {"sigmas": torch.from_numpy(ramp)}, np.append(levels, 0.0), RANGE_RTOL


def _flow_match(schedule: Schedule, scheduler: Any, *, mu: float | None = None, **_: Any) -> Grid:
    """``FlowMatchEulerDiscreteScheduler``: t in (0, 1], before its own shift; appends 0."""
    name = "FlowMatchEulerDiscreteScheduler"
    _check_config(scheduler, name)
    config = scheduler.config
    if not config.use_dynamic_shifting:
        shift = float(scheduler.shift)
    elif mu is None:
        raise ValueError(
            f"{name} with use_dynamic_shifting=True moves the grid by the pipeline's mu; pass mu=, or use "
            f"{name}.from_config(scheduler.config, use_dynamic_shifting=False, shift=1.0)"
        )
    else:
        linear = _get(config, "time_shift_type", "exponential") == "linear"
        shift = mu if linear else math.exp(mu)
    expected = np.append(flow(schedule), 0.0)
    # Near t = 1 a small step in t is a large one in sigma; 1e-6 is float32's rounding.
    return {"sigmas": flow(schedule, shift).tolist()}, expected, 1e-6


def _dpm_multistep(schedule: Schedule, scheduler: Any, *, quantize: bool = False, **_: Any) -> Grid:
    """``DPMSolverMultistepScheduler``: whole timesteps, that is the nearest of its training sigmas; appends 0."""
    name = QUANTIZED
    if not quantize:
        raise ValueError(
            f"{name} rounds a grid to whole training timesteps; pass quantize=True to accept that, or use "
            "EulerDiscreteScheduler or HeunDiscreteScheduler, which take it exactly"
        )
    levels = _levels(schedule, name)
    _check_config(scheduler, name)
    table = _training_sigmas(scheduler)
    _check_bounds(schedule, name, table[0], table[-1])
    times = np.rint(np.interp(np.log(levels), np.log(table), np.arange(len(table)))).astype(int)
    same = np.flatnonzero(np.diff(times) == 0)
    if len(same):
        i = int(same[0])
        raise ValueError(
            f"sigmas[{i}] = {levels[i]:g} and sigmas[{i + 1}] = {levels[i + 1]:g} round to the same timestep "
            f"{times[i]} of {name}; use fewer steps, EulerDiscreteScheduler or HeunDiscreteScheduler"
        )
    return {"timesteps": times.tolist()}, np.append(table[times], 0.0), RANGE_RTOL


QUANTIZED = "DPMSolverMultistepScheduler"
GRIDS: dict[str, Callable[..., Grid]] = {
    "EulerDiscreteScheduler": _euler,
    "HeunDiscreteScheduler": _heun,
    "EDMEulerScheduler": _edm_euler,
    "FlowMatchEulerDiscreteScheduler": _flow_match,
    QUANTIZED: _dpm_multistep,
}


def _levels(schedule: Schedule, where: str) -> Array:
    """The levels above 0, ``[K]``, for a target that appends the 0 itself."""
    if schedule.terminal != "zero":
        raise ValueError(
            f"schedule {schedule.name!r} ends at sigma={schedule.sigma_end:g}, but {where} goes on to 0 and would "
            "take a step more; use a schedule made with terminal='zero' "
            "(EulerDiscreteScheduler and k-diffusion take this one as it is)"
        )
    return schedule.sigmas[:-1]


def _ramp(levels: Array, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """Where levels lie on Karras' ramp: 0 at ``sigma_max``, 1 at ``sigma_min``; ``[K]``."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    ramp: Array = (high - levels ** (1 / rho)) / (high - low)
    return ramp


def _training_sigmas(scheduler: Any) -> Array:
    """The noise levels of the training timesteps, ``[num_train_timesteps]``, ascending."""
    alphas = scheduler.alphas_cumprod.cpu()
    table: Array = (((1 - alphas) / alphas) ** 0.5).double().numpy()  # in float32 first, as diffusers does
    return table


def _check_bounds(schedule: Schedule, name: str, low: float, high: float) -> None:
    """Refuse noise levels that the scheduler's model was not trained on."""
    top, bottom = schedule.sigma_max, float(schedule.sigmas[schedule.sigmas > 0].min())
    if top > high * (1 + RANGE_RTOL):
        raise ValueError(
            f"schedule {schedule.name!r} starts at sigma={top:g}, above {name}'s sigma_max={high:g}; "
            f"use a schedule made for sigma_max={high:g}"
        )
    if bottom < low * (1 - RANGE_RTOL):
        raise ValueError(
            f"schedule {schedule.name!r} has the noise level {bottom:g}, below {name}'s sigma_min={low:g}; "
            f"use a schedule made for sigma_min={low:g}"
        )


def _check_config(scheduler: Any, name: str) -> None:
    """Refuse settings under which the scheduler would not use the grid, or not end at 0."""
    for key in SPACINGS:
        if _get(scheduler.config, key):
            value = "None" if key == "shift_terminal" else "False"
            raise ValueError(
                f"{name} with {key}={_get(scheduler.config, key)} would change the grid; use "
                f"{name}.from_config(scheduler.config, {key}={value})"
            )
    if _get(scheduler.config, "final_sigmas_type", "zero") != "zero":
        raise ValueError(
            f"{name} with final_sigmas_type={scheduler.config.final_sigmas_type!r} does not end at 0; use "
            f"{name}.from_config(scheduler.config, final_sigmas_type='zero')"
        )


def _check_read_back(scheduler: Any, name: str, expected: Array, rtol: float) -> None:
    """Compare what a scheduler has made of a grid with what it should have."""
    got = scheduler.sigmas.cpu().double().numpy()
    if name == "HeunDiscreteScheduler":
        got = np.append(got[0], got[1::2])  # every level between the ends is there twice
    if got.shape != expected.shape or not np.allclose(got, expected, rtol=rtol, atol=0):
        raise ValueError(
            f"this version of diffusers makes {got.tolist()} of the grid {expected.tolist()}; {name} is not supported"
        )
    times = scheduler.timesteps
    if int((times == times[0]).sum()) > 1:
        raise ValueError(f"the first two noise levels have the same timestep in {name}; use fewer steps")


def _get(config: Any, key: str, default: Any = None) -> Any:
    """A setting; ``default`` if it is absent or None."""
    value = config.get(key)
    return default if value is None else value


def _mu(mu: float | None) -> dict[str, float]:
    return {} if mu is None else {"mu": mu}


@dataclass
class Args:
    """Print a schedule as text to paste into another program."""

    schedule: tyro.conf.Positional[Path]
    """File that train.py or Schedule.save wrote."""
    to: str
    """diffusers-euler, diffusers-edm-euler, diffusers-heun, diffusers-flow, k-diffusion, edm, comfyui or
    diff-sampler."""
    out: Path | None = None
    """Write the text to this file instead."""
    scheduler_config: Path | None = None
    """scheduler_config.json of the model (diffusers targets): the text is made for it, and checked."""
    shift: float | None = None
    """Shift of the model's flow scheduler (diffusers-flow); by default that of the config, or 1."""


def _diffusers(args: Args, schedule: Schedule, name: str) -> dict[str, Any] | None:
    """The arguments for the scheduler of the config file; None without such a file."""
    if args.scheduler_config is None:
        return None
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"--scheduler-config needs diffusers: pip install diffusers ({error})") from error
    diffusers.utils.logging.set_verbosity_error()
    try:
        config = json.loads(args.scheduler_config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{args.scheduler_config}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{args.scheduler_config}: not a scheduler config (an object expected)")
    change = {} if args.shift is None else {"shift": args.shift}
    return diffusers_kwargs(schedule, getattr(diffusers, name).from_config(config, **change))


def _diffusers_text(name: str, argument: str, values: str, extra: str = "") -> str:
    return (
        f"# diffusers: pipe.scheduler = {name}.from_config(pipe.scheduler.config{extra})\n"
        f"# pipe(..., {argument}={argument})\n"
        f"{argument} = {values}\n"
    )


def _text_diffusers_euler(args: Args, schedule: Schedule) -> str:
    _diffusers(args, schedule, "EulerDiscreteScheduler")
    return _diffusers_text("EulerDiscreteScheduler", "sigmas", _numbers(schedule.sigmas))


def _text_diffusers_heun(args: Args, schedule: Schedule) -> str:
    kwargs = _diffusers(args, schedule, "HeunDiscreteScheduler")
    if kwargs is None:
        raise ValueError(
            "diffusers-heun needs --scheduler-config FILE: its timesteps depend on the model's training betas "
            "(scheduler/scheduler_config.json in the model's folder)"
        )
    return _diffusers_text("HeunDiscreteScheduler", "timesteps", _numbers(kwargs["timesteps"]))


def _text_diffusers_edm_euler(args: Args, schedule: Schedule) -> str:
    kwargs = _diffusers(args, schedule, "EDMEulerScheduler")
    extra = ""
    if kwargs is None:
        levels = _levels(schedule, "EDMEulerScheduler")
        low, high = float(levels[-1]), schedule.sigma_max
        low = low if low < high else high / 2  # one level: the other end of the ramp is free
        ramp, extra = _ramp(levels, low, high, 7.0), f", sigma_min={low!r}, sigma_max={high!r}, rho=7.0"
    else:
        ramp = kwargs["sigmas"].numpy()
    values = f"torch.tensor({_numbers(ramp)}, dtype=torch.float64)  # places on the ramp, not noise levels"
    return _diffusers_text("EDMEulerScheduler", "sigmas", values, extra)


def _text_diffusers_flow(args: Args, schedule: Schedule) -> str:
    kwargs = _diffusers(args, schedule, "FlowMatchEulerDiscreteScheduler")
    extra = ""
    if kwargs is None:
        shift = 1.0 if args.shift is None else args.shift
        kwargs = {"sigmas": flow(schedule, shift).tolist()}
        extra = f", shift={shift!r}, use_dynamic_shifting=False"
    return _diffusers_text("FlowMatchEulerDiscreteScheduler", "sigmas", _numbers(kwargs["sigmas"]), extra)


def _text_k_diffusion(args: Args, schedule: Schedule) -> str:
    return (
        "# k-diffusion: sample_heun(model, torch.randn(shape) * sigmas[0], sigmas), and so for every sample_*\n"
        f"sigmas = torch.tensor({_numbers(schedule.sigmas)})\n"
    )


def _text_edm(args: Args, schedule: Schedule) -> str:
    steps = edm(schedule)
    return (
        "# EDM: in edm_sampler of generate.py, in place of the lines that compute t_steps; run it with "
        f"--steps={len(steps) - 1}\n"
        f"t_steps = torch.tensor({_numbers(steps)}, dtype=torch.float64, device=latents.device)\n"
    )


def _text_comfyui(args: Args, schedule: Schedule) -> str:
    return (
        f"# ComfyUI: paste the next line, without this one, into the node ManualSigmas\n{comfyui(schedule)}\n"
    )


def _text_diff_sampler(args: Args, schedule: Schedule) -> str:
    return f"# diff-sampler, gits-main: append to python sample.py ...\n{diff_sampler(schedule)}\n"


TARGETS: dict[str, Callable[[Args, Schedule], str]] = {
    "diffusers-euler": _text_diffusers_euler,
    "diffusers-edm-euler": _text_diffusers_edm_euler,
    "diffusers-heun": _text_diffusers_heun,
    "diffusers-flow": _text_diffusers_flow,
    "k-diffusion": _text_k_diffusion,
    "edm": _text_edm,
    "comfyui": _text_comfyui,
    "diff-sampler": _text_diff_sampler,
}


def export(args: Args) -> str:
    """The text for a target.

    Raises:
        ValueError: unknown target, an option that it does not have, or a schedule that it cannot take.
        FileNotFoundError: no such schedule.
    """
    text = look_up("target", args.to, TARGETS)
    if args.shift is not None and args.to != "diffusers-flow":
        raise ValueError(f"--shift is for diffusers-flow, not for {args.to}")
    if args.scheduler_config is not None and not args.to.startswith("diffusers-"):
        raise ValueError(f"--scheduler-config is for the diffusers targets, not for {args.to}")
    return text(args, Schedule.load(args.schedule))


def main(argv: list[str] | None = None) -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    args = tyro.cli(Args, prog="python -m art_env.schedules.export", args=argv, description=__doc__)
    return run_command("export", lambda: _write(args))


def _write(args: Args) -> None:
    text = export(args)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text)


def _numbers(values: Iterable[float]) -> str:
    return f"[{', '.join(repr(float(v)) for v in values)}]"


if __name__ == "__main__":
    sys.exit(main())
