"""The models that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from art_env._util.names import check_name
from art_env.networks.autoencoder import Autoencoder
from art_env.networks.unet import MODELS_DIR, UNetDenoiser

SCORE_MODELS = (
    "digits-small",
    "digits-base",
    "digits-large",
    "digits-cond",
    "photos-base",
    "photos-latent",
    "mnist",
)
AUTOENCODER = "photos-autoencoder"
FEATURE_MODELS = ("digits-features", "photos-features", "mnist-features")
MODELS = (*SCORE_MODELS, AUTOENCODER, *FEATURE_MODELS)


def weights_path(name: str, folder: str | Path = MODELS_DIR) -> Path:
    """The weight file of a model.

    Raises:
        ValueError: unknown name; suggests the nearest.
    """
    check_name("model", name, MODELS)
    # The first model there was keeps its file name.
    stem = "digits" if name == "digits-base" else name.replace("-", "_")
    return Path(folder) / f"{stem}.safetensors"


def fix_weights(name: str) -> str:
    """What to do if the weight file of a model is missing or broken, for error messages."""
    data = " --data PATH" if name.startswith("mnist") else ""
    return (
        f"restore it from the repository or train it: python -m benchmarks.model_card {name}{data} --seed 0"
    )


def load_bundled(name: str, folder: str | Path = MODELS_DIR) -> UNetDenoiser:
    """A score model by name, frozen; each is good for sigma from 80 down to 0.002.

    Args:
        name: one of ``SCORE_MODELS``. ``digits-cond`` takes labels; ``photos-latent`` lives in the latent
            space of ``load_autoencoder()``.
        folder: where the weight files are.

    Raises:
        FileNotFoundError, ValueError: unknown name (suggests the nearest), or the file is missing or broken;
            the message has the command that trains the model.
    """
    check_name("model", name, SCORE_MODELS)
    return UNetDenoiser.load(weights_path(name, folder), fix=fix_weights(name))


def load_autoencoder(folder: str | Path = MODELS_DIR) -> Autoencoder:
    """The autoencoder of photo patches, frozen.

    Raises:
        FileNotFoundError, ValueError: as ``load_bundled``.
    """
    return Autoencoder.load(weights_path(AUTOENCODER, folder), fix=fix_weights(AUTOENCODER))
