"""The physics: denoisers, the flow they define, and solvers that follow it."""

from art_env.diffusion.analytic import GaussianDenoiser, GaussianMixtureDenoiser
from art_env.diffusion.denoiser import CheckedDenoiser, Denoiser, DenoiserError
from art_env.diffusion.ode import ReferenceFlow, curvature, velocity
from art_env.diffusion.solvers import SOLVERS, Solver, edm_churn, get_solver, sample
from art_env.diffusion.stochastic import Churn

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
    "curvature",
    "edm_churn",
    "get_solver",
    "sample",
    "velocity",
]
