"""Other people's models as denoisers; importing this package imports no diffusers."""

from art_env.adapters.callables import CallableDenoiser, FlowDenoiser
from art_env.adapters.conditional import InpaintingDenoiser, LabelledDenoiser
from art_env.adapters.counting import CountedDenoiser, counting
from art_env.adapters.diffusers import DiffusersDenoiser
from art_env.adapters.edm import EDMDenoiser
from art_env.adapters.guidance import GuidedDenoiser
from art_env.adapters.load import load_model

__all__ = [
    "CallableDenoiser",
    "CountedDenoiser",
    "DiffusersDenoiser",
    "EDMDenoiser",
    "FlowDenoiser",
    "GuidedDenoiser",
    "InpaintingDenoiser",
    "LabelledDenoiser",
    "counting",
    "load_model",
]
