"""Schedules for other people's samplers: diffusers, k-diffusion, EDM, ComfyUI, diff-sampler.

Examples:
    python -m art_env.export schedule.json --to k-diffusion
    python -m art_env.export schedule.json --to diffusers-heun --scheduler-config scheduler_config.json
    python -m art_env.export schedule.json --to comfyui --out sigmas.txt

A schedule with weights brings a sampler of its own, for k-diffusion, comfyui, edm and diffusers-learned:
    python -m art_env.export schedule.json --to comfyui --out ComfyUI/custom_nodes/art_schedule.py
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from art_env._util.cli import run_command
from art_env._util.files import read_json, write_text
from art_env._util.names import check_name
from art_env.diffusion.levels import SPACES
from art_env.export.diffusers import FLOW_START, STEPS, _ramp, check_start, diffusers_kwargs
from art_env.export.formats import (
    _levels,
    _numbers,
    levels_of,
    to_comfyui,
    to_diff_sampler,
    to_edm,
    to_flow,
)
from art_env.export.learned import learned_scheduler
from art_env.export.scripts import comfyui_node, diffusers_script, edm_script, k_diffusion_script
from art_env.schedules.schedule import Schedule


@dataclass
class Args:
    """Print a schedule as text to paste into another program."""

    schedule: tyro.conf.Positional[Path]
    """File that train.py or Schedule.save wrote."""
    to: str
    """diffusers-euler, diffusers-edm-euler, diffusers-heun, diffusers-flow, k-diffusion, edm, comfyui or
    diff-sampler; of a schedule with weights: diffusers-learned, k-diffusion, edm or comfyui."""
    out: Path | None = None
    """Write the text to this file instead."""
    scheduler_config: Path | None = None
    """scheduler_config.json of the model (diffusers targets): the text is made for it, and checked."""
    shift: float | None = None
    """Shift of the model's flow scheduler (diffusers-flow); by default that of the config, or 1."""
    space: str | None = None
    """ve or flow: what the model is, where the file is too old to say it, or the program could have either
    (k-diffusion)."""
    image_to_image: bool = False
    """The schedule may begin in the middle of the model's range: the pipeline starts from an image."""


def _diffusers(args: Args, schedule: Schedule, name: str) -> dict[str, Any] | None:
    """The arguments for the scheduler of the config file; None without such a file."""
    if args.scheduler_config is None:
        return None
    change = {} if args.shift is None else {"shift": args.shift}
    scheduler = _class(name).from_config(_config(args), **STEPS.get(name, {}), **change)
    return diffusers_kwargs(schedule, scheduler, image_to_image=args.image_to_image)


def _config(args: Args) -> dict[str, Any]:
    """The settings of the config file."""
    assert args.scheduler_config is not None
    config = read_json(args.scheduler_config, "the model's scheduler_config.json")
    if not isinstance(config, dict):
        raise ValueError(f"{args.scheduler_config}: not a scheduler config (an object expected)")
    return config


def _class(name: str) -> Any:
    """A scheduler of diffusers."""
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"--scheduler-config needs diffusers: pip install diffusers ({error})") from error
    diffusers.utils.logging.set_verbosity_error()
    found = getattr(diffusers, name, None)
    if found is None:
        raise ValueError(
            f"diffusers has no scheduler {name!r} (_class_name in the file of --scheduler-config)"
        )
    return found


def _diffusers_text(name: str, argument: str, values: str, **settings: Any) -> str:
    """Python for a pipeline; ``settings`` are those of the scheduler that the values are made for."""
    extra = "".join(f", {key}={value!r}" for key, value in {**STEPS.get(name, {}), **settings}.items())
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
    settings: dict[str, Any] = {}
    if kwargs is None:
        levels = _levels(schedule, "EDMEulerScheduler")
        low, high = float(levels[-1]), schedule.sigma_max
        low = low if low < high else high / 2  # one level: the other end of the ramp is free
        ramp, settings = _ramp(levels, low, high, 7.0), {"sigma_min": low, "sigma_max": high, "rho": 7.0}
    else:
        ramp = kwargs["sigmas"].numpy()
    values = f"torch.tensor({_numbers(ramp)}, dtype=torch.float64)  # places on the ramp, not noise levels"
    return _diffusers_text("EDMEulerScheduler", "sigmas", values, **settings)


def _text_diffusers_flow(args: Args, schedule: Schedule) -> str:
    kwargs = _diffusers(args, schedule, "FlowMatchEulerDiscreteScheduler")
    settings: dict[str, Any] = {} if args.shift is None else {"shift": args.shift}
    if kwargs is None:
        settings = {"shift": 1.0, **settings, "use_dynamic_shifting": False}
        if not args.image_to_image:
            check_start(schedule, FLOW_START, "FlowMatchEulerDiscreteScheduler", "diffusers_kwargs")
        kwargs = {"sigmas": to_flow(schedule, settings["shift"]).tolist()}
    name, sigmas = "FlowMatchEulerDiscreteScheduler", _numbers(kwargs["sigmas"])
    return _diffusers_text(name, "sigmas", sigmas, **settings)


def _text_diffusers_learned(args: Args, schedule: Schedule) -> str:
    text = diffusers_script(schedule, image_to_image=args.image_to_image)
    if args.scheduler_config is not None:
        config = _config(args)
        scheduler = _class(str(config.get("_class_name"))).from_config(config)
        learned_scheduler(schedule, scheduler, image_to_image=args.image_to_image)
    return text


def _flow(args: Args) -> bool | None:
    """What ``--space`` says of the model in the other program."""
    return None if args.space is None else args.space == "flow"


def _made_for(schedule: Schedule, known: tuple[str, ...]) -> str | None:
    """The solver that the schedule was made for, if it says so and the program has it."""
    solver = schedule.meta.get("solver")
    return solver if solver in known else None


def _text_k_diffusion(args: Args, schedule: Schedule) -> str:
    sigmas = levels_of(schedule, _flow(args))
    solver = _made_for(schedule, SOLVERS_OF_K_DIFFUSION)
    what = "and so for every sample_*" if solver is None else "which they were made for"
    space = "; times of a model that denoises (1 - t) x0 + t noise" if args.space == "flow" else ""
    return (
        f"# k-diffusion: sample_{solver or 'heun'}(model, torch.randn(shape) * sigmas[0], sigmas), {what}{space}\n"
        f"sigmas = torch.tensor({_numbers(sigmas)})\n"
    )


def _text_edm(args: Args, schedule: Schedule) -> str:
    steps = to_edm(schedule)
    return (
        "# EDM: in edm_sampler of generate.py, in place of the lines that compute t_steps; run it with "
        f"--steps={len(steps) - 1}\n"
        f"t_steps = torch.tensor({_numbers(steps)}, dtype=torch.float64, device=latents.device)\n"
    )


def _text_comfyui(args: Args, schedule: Schedule) -> str:
    solver = _made_for(schedule, SOLVERS_OF_COMFYUI)
    if schedule.space == "flow":
        what = (
            "times of a flow model; in them only the sampler euler takes the steps of this package's solver"
        )
    else:
        what = "noise levels of a model that is no flow model (of one: --space flow)"
    what += "" if solver is None else f"; made for {solver}"
    head = "# ComfyUI: paste the next line, without this one, into the node ManualSigmas"
    return f"{head}: {what}\n{to_comfyui(schedule)}\n"


def _text_diff_sampler(args: Args, schedule: Schedule) -> str:
    return f"# diff-sampler, gits-main: append to python sample.py ...\n{to_diff_sampler(schedule)}\n"


# Solvers that these have under the same names.
SOLVERS_OF_K_DIFFUSION = ("euler", "heun", "dpmpp_2m")
SOLVERS_OF_COMFYUI = (*SOLVERS_OF_K_DIFFUSION, "ipndm")
# Of schedules without weights, and with them.
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
LEARNED_TARGETS: dict[str, Callable[[Args, Schedule], str]] = {
    "diffusers-learned": _text_diffusers_learned,
    "k-diffusion": lambda args, schedule: k_diffusion_script(schedule, flow=_flow(args)),
    "edm": lambda args, schedule: edm_script(schedule),
    "comfyui": lambda args, schedule: comfyui_node(schedule),
}


def export(args: Args) -> str:
    """The text for a target.

    Raises:
        ValueError: unknown target, an option that it does not have, or a schedule that it cannot take.
        FileNotFoundError: no such schedule.
    """
    check_name("target", args.to, {**TARGETS, **LEARNED_TARGETS})
    if args.shift is not None and args.to != "diffusers-flow":
        raise ValueError(f"--shift is for diffusers-flow, not for {args.to}")
    if args.scheduler_config is not None and not args.to.startswith("diffusers-"):
        raise ValueError(f"--scheduler-config is for the diffusers targets, not for {args.to}")
    schedule = Schedule.load(args.schedule)
    if args.space is not None:
        schedule = replace(schedule, space=check_name("space", args.space, SPACES))
    if schedule.weights is None and args.to not in TARGETS:
        raise ValueError(f"{args.schedule} has no weights, which {args.to} is for; use --to diffusers-euler")
    if schedule.weights is not None and args.to not in LEARNED_TARGETS:
        raise ValueError(
            f"{args.schedule} has weights for {schedule.solver}, which {args.to} has no place for; use --to "
            f"{', '.join(LEARNED_TARGETS)}, or learn a list alone, with a solver such as dpmpp_2m"
        )
    return (TARGETS if schedule.weights is None else LEARNED_TARGETS)[args.to](args, schedule)


def main(argv: list[str] | None = None) -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    args = tyro.cli(Args, prog="python -m art_env.export", args=argv, description=__doc__)
    return run_command("export", lambda: _write(args))


def _write(args: Args) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        text = export(args)
    for warning in caught:
        if warning.category is UserWarning:
            print(f"export: warning: {warning.message}", file=sys.stderr)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text)


if __name__ == "__main__":
    sys.exit(main())
