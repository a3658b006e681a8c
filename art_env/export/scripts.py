"""A schedule with weights as source text.

It brings the sampler along, for programs where this package is not installed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable

from art_env.export.formats import _numbers, check_ve, check_weighted, levels_of
from art_env.export.k_diffusion import learned_sampler, sample_learned
from art_env.schedules.schedule import Schedule

IMPORTS = """from collections.abc import Callable, Sequence
from typing import Any
"""


def k_diffusion_script(schedule: Schedule, *, flow: bool | None = None) -> str:
    """Python that defines ``sample`` and ``sigmas``, as ``learned_sampler`` returns them.

    Args:
        flow: as ``learned_sampler``.

    Raises:
        ValueError: as ``learned_sampler``.
    """
    learned_sampler(schedule, flow=flow)  # checks
    more = ", flow=True" if flow else ""
    return (
        f"# {_title(schedule)}\n"
        "# k-diffusion: sample(model, torch.randn(shape) * sigmas[0], sigmas)\n"
        f"import functools\n{IMPORTS}\nimport torch\n\n\n{_sampler()}\n\n"
        f"sigmas = torch.tensor({_numbers(levels_of(schedule, flow))})\n"
        f"sample = functools.partial(sample_learned, weights={_table(schedule)}{more})\n"
    )


def edm_script(schedule: Schedule) -> str:
    """Python to paste into EDM's ``generate.py``: another ``edm_sampler``, in float64 as the one there.

    Raises:
        ValueError: the schedule has no weights, or is one of a flow model.
    """
    check_weighted(schedule, "to_edm")
    check_ve(schedule, "EDM's sampler", "k_diffusion_script with flow=True")
    return (
        f"# {_title(schedule)}\n"
        "# EDM: paste below edm_sampler of generate.py, which it replaces; --steps and other options are not read\n"
        f"{IMPORTS}\n\n{_sampler()}\n\n"
        "def edm_sampler(net, latents, class_labels=None, **options):\n"
        f"    sigmas = torch.tensor({_numbers(schedule.sigmas)}, dtype=torch.float64, device=latents.device)\n"
        f"    weights = {_table(schedule)}\n"
        "    x = latents.to(torch.float64) * sigmas[0]\n"
        "    return sample_learned(lambda x, sigma: net(x, sigma, class_labels).to(torch.float64), x, sigmas, "
        "weights=weights)\n"
    )


def comfyui_node(schedule: Schedule) -> str:
    """A file for ComfyUI's ``custom_nodes``: one node, from a model to a sampler and its sigmas.

    Connect both to ``SamplerCustom`` or ``SamplerCustomAdvanced``. The node sees whether the model is a flow model.
    ComfyUI tells most networks the nearest whole timestep of a noise level, for every list of sigmas.

    Raises:
        ValueError: the schedule has no weights, or two levels are the same number in float32.
    """
    learned_sampler(schedule, flow=False)  # checks
    weights = _table(schedule)
    key = f"ARTSchedule{hashlib.sha256((_numbers(schedule.sigmas) + weights).encode()).hexdigest()[:8]}"
    return (
        f"# {_title(schedule)}\n"
        f"# ComfyUI: save as custom_nodes/{key}.py and start ComfyUI again. Its node is in\n"
        "# sampling/custom_sampling; connect SAMPLER and SIGMAS to SamplerCustom or SamplerCustomAdvanced.\n"
        f"{IMPORTS}\nimport comfy.model_sampling\nimport comfy.samplers\nimport torch\n\n"
        f"sigmas = {_numbers(schedule.sigmas)}\nweights = {weights}\n\n\n{_sampler()}\n\n"
        "class LearnedSchedule:\n"
        '    RETURN_TYPES = ("SAMPLER", "SIGMAS")\n'
        '    FUNCTION = "make"\n'
        '    CATEGORY = "sampling/custom_sampling"\n\n'
        "    @classmethod\n"
        "    def INPUT_TYPES(cls):\n"
        '        return {"required": {"model": ("MODEL",)}}\n\n'
        "    def make(self, model):\n"
        '        flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)\n'
        "        levels = [s / (1 + s) for s in sigmas] if flow else sigmas\n"
        '        sampler = comfy.samplers.KSAMPLER(sample_learned, {"weights": weights, "flow": flow})\n'
        "        return sampler, torch.FloatTensor(levels)\n\n\n"
        f'NODE_CLASS_MAPPINGS = {{"{key}": LearnedSchedule}}\n'
        f'NODE_DISPLAY_NAME_MAPPINGS = {{"{key}": {f"ART schedule: {_title(schedule)}"!r}}}\n'
    )


def diffusers_script(schedule: Schedule, *, image_to_image: bool = False) -> str:
    """Python that puts ``learned_scheduler`` into a pipeline ``pipe``; it imports this package.

    Args:
        image_to_image: as ``learned_scheduler``.

    Raises:
        ValueError: the schedule has no weights.
    """
    check_weighted(schedule, "diffusers_kwargs")
    more = ", image_to_image=True" if image_to_image else ""
    return (
        f"# {_title(schedule)}\n"
        f"# diffusers, where art_env is installed: pipe(..., num_inference_steps={schedule.num_steps})\n"
        "from art_env import Schedule\n"
        "from art_env.export import learned_scheduler\n\n"
        f"schedule = Schedule({_numbers(schedule.sigmas)}, weights={_table(schedule)}, "
        f'space="{schedule.space}")\n'
        f"pipe.scheduler = learned_scheduler(schedule, pipe.scheduler{more})\n"
    )


def _sampler() -> str:
    return inspect.getsource(sample_learned)


def _table(schedule: Schedule) -> str:
    rows: Iterable[Iterable[float]] = () if schedule.weights is None else schedule.weights
    return f"[{', '.join(_numbers(row) for row in rows)}]"


def _title(schedule: Schedule) -> str:
    name = " ".join(schedule.name.split())  # on one line, as a comment must be
    return f"{name}, {schedule.solver}, {schedule.num_steps} steps"
