"""What the agent observes: names, scales and bounds of the features."""

from __future__ import annotations

import torch
from torch import Tensor

FEATURES = ("log_f", "log_q", "size", "cosine", "x")
DEFAULT_FEATURES = ("log_f", "log_q", "size", "cosine")
MAX_X_FEATURES = 8

# With several numbers of steps the observation holds log2 K over this.
LOG_STEPS = 8.0

# Features hold log10 of a norm between 1e-6 and 1e6, divided by 6.
LOG_SPAN = 6.0


def _log_feature(value: Tensor) -> Tensor:
    return (torch.log10(value.clamp_min(1e-12)) / LOG_SPAN).clamp(-1, 1)


def norm_from_feature(feature: Tensor) -> Tensor:
    """The norm behind a ``log_f`` or ``log_q`` feature, between 1e-6 and 1e6."""
    return torch.pow(10.0, LOG_SPAN * feature)
