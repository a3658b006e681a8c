"""One library call from settings to a trained agent and its schedule."""

from agents.training.settings import (
    COMMANDS,
    ArtPaperSettings,
    ArtSettings,
    EvolutionSettings,
    ListSearchSettings,
    PpoSettings,
    SacSettings,
    SearchSettings,
    Settings,
)
from agents.training.training import Result, Training, train

__all__ = [
    "COMMANDS",
    "ArtPaperSettings",
    "ArtSettings",
    "EvolutionSettings",
    "ListSearchSettings",
    "PpoSettings",
    "Result",
    "SacSettings",
    "SearchSettings",
    "Settings",
    "Training",
    "train",
]
