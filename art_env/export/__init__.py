"""A schedule in other programs: functions that give it the form that each of them takes."""

from art_env.export.diffusers import diffusers_kwargs, to_diffusers
from art_env.export.formats import to_comfyui, to_diff_sampler, to_edm, to_flow, to_k_diffusion

__all__ = [
    "diffusers_kwargs",
    "to_comfyui",
    "to_diff_sampler",
    "to_diffusers",
    "to_edm",
    "to_flow",
    "to_k_diffusion",
]
