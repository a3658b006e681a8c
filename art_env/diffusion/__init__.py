"""The physics: denoisers, the flow they define, and solvers that follow it."""

from art_env.diffusion.analytic import GaussianDenoiser, GaussianMixtureDenoiser
from art_env.diffusion.denoiser import CheckedDenoiser, Denoiser, DenoiserError
from art_env.diffusion.flow import ReferenceFlow, curvature, curvature_secant, velocity
from art_env.diffusion.solvers import SOLVERS, Churn, Solver, edm_churn, get_solver, sample
from art_env.diffusion.unet import UNetDenoiser, load_digits_denoiser

__all__ = [
    "SOLVERS",
    "CheckedDenoiser",
    "Churn",
    "Denoiser",
    "DenoiserError",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "ReferenceFlow",
    "Solver",
    "UNetDenoiser",
    "curvature",
    "curvature_secant",
    "edm_churn",
    "get_solver",
    "load_digits_denoiser",
    "sample",
    "velocity",
]
