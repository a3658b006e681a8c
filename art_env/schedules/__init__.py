"""The product: schedules by hand, by optimal control, and learned ones as files."""

from art_env.schedules.cma_es import evolve
from art_env.schedules.gradient import gradient_search
from art_env.schedules.handcrafted import (
    HANDCRAFTED,
    arctan,
    cosine,
    edm,
    log_snr,
    polyexponential,
    uniform,
    vp,
)
from art_env.schedules.model_lists import MODEL_LISTS, ays
from art_env.schedules.optimal import closed_form, dynamic_programming, final_rmse
from art_env.schedules.published import dmn, gits, sdm
from art_env.schedules.schedule import Schedule

__all__ = [
    "HANDCRAFTED",
    "MODEL_LISTS",
    "Schedule",
    "arctan",
    "ays",
    "closed_form",
    "cosine",
    "dmn",
    "dynamic_programming",
    "edm",
    "evolve",
    "final_rmse",
    "gits",
    "gradient_search",
    "log_snr",
    "polyexponential",
    "sdm",
    "uniform",
    "vp",
]
