"""A schedule in other programs: functions that give it the form that each of them takes."""

from art_env.export.diffusers import diffusers_kwargs, to_diffusers
from art_env.export.formats import to_comfyui, to_diff_sampler, to_edm, to_flow, to_k_diffusion
from art_env.export.k_diffusion import learned_sampler, sample_learned
from art_env.export.learned import learned_scheduler
from art_env.export.scripts import comfyui_node, edm_script

__all__ = [
    "comfyui_node",
    "diffusers_kwargs",
    "edm_script",
    "learned_sampler",
    "learned_scheduler",
    "sample_learned",
    "to_comfyui",
    "to_diff_sampler",
    "to_diffusers",
    "to_edm",
    "to_flow",
    "to_k_diffusion",
]
