"""Schedules for other people's samplers: diffusers, k-diffusion, EDM, ComfyUI, diff-sampler.

Examples:
    python -m art_env.export schedule.json --to k-diffusion
    python -m art_env.export schedule.json --to diffusers-heun --scheduler-config scheduler_config.json
    python -m art_env.export schedule.json --to comfyui --out sigmas.txt
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env._util.names import look_up
from art_env.export.diffusers import _ramp, diffusers_kwargs
from art_env.export.formats import (
    _levels,
    _numbers,
    check_plain,
    to_comfyui,
    to_diff_sampler,
    to_edm,
    to_flow,
)
from art_env.schedules.schedule import Schedule


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
    check_plain(schedule, name)
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
        kwargs = {"sigmas": to_flow(schedule, shift).tolist()}
        extra = f", shift={shift!r}, use_dynamic_shifting=False"
    return _diffusers_text("FlowMatchEulerDiscreteScheduler", "sigmas", _numbers(kwargs["sigmas"]), extra)


def _text_k_diffusion(args: Args, schedule: Schedule) -> str:
    return (
        "# k-diffusion: sample_heun(model, torch.randn(shape) * sigmas[0], sigmas), and so for every sample_*\n"
        f"sigmas = torch.tensor({_numbers(schedule.sigmas)})\n"
    )


def _text_edm(args: Args, schedule: Schedule) -> str:
    steps = to_edm(schedule)
    return (
        "# EDM: in edm_sampler of generate.py, in place of the lines that compute t_steps; run it with "
        f"--steps={len(steps) - 1}\n"
        f"t_steps = torch.tensor({_numbers(steps)}, dtype=torch.float64, device=latents.device)\n"
    )


def _text_comfyui(args: Args, schedule: Schedule) -> str:
    return f"# ComfyUI: paste the next line, without this one, into the node ManualSigmas\n{to_comfyui(schedule)}\n"


def _text_diff_sampler(args: Args, schedule: Schedule) -> str:
    return f"# diff-sampler, gits-main: append to python sample.py ...\n{to_diff_sampler(schedule)}\n"


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
    args = tyro.cli(Args, prog="python -m art_env.export", args=argv, description=__doc__)
    return run_command("export", lambda: _write(args))


def _write(args: Args) -> None:
    text = export(args)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text)


if __name__ == "__main__":
    sys.exit(main())
