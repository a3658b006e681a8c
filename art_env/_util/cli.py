"""What the command lines of this project share: whose model, and how they end (bad input is one line on stderr)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class ModelOptions:
    """The problem, by name or around a model of the caller's."""

    problem: str = "digits"
    """gaussian-1d, mixture-1d, mixture-2d, digits, digits-small, digits-large, digits-class, digits-inpaint,
    photos or photos-latent."""
    model: str | None = None
    """Instead of a problem, a model of your own: a folder that diffusers wrote, a hub id, an EDM pickle, or a
    .safetensors file of art_env.networks."""
    trust_pickle: bool = False
    """Allow --model to be a pickle: loading one runs code that it contains."""
    guidance: float | None = None
    """Classifier-free guidance of --model."""
    class_label: int | None = None
    """Class of every sample of --model."""
    prompt_embeds: Path | None = None
    """A .safetensors file with the embedded prompt (tensor prompt_embeds) of --model."""

    def model_arguments(self) -> dict[str, Any] | None:
        """What ``model_problem`` takes, beside ``trust_pickle``; None if the problem is one by name.

        Raises:
            ValueError: a problem and a model, or a condition without a model.
        """
        own: dict[str, Any] = {"guidance": self.guidance, "class_label": self.class_label}
        own["prompt_embeds"] = None if self.prompt_embeds is None else str(self.prompt_embeds)
        own = {name: value for name, value in own.items() if value is not None}
        if self.model is None:
            if own:
                given = ", ".join(f"{name} = {value!r}" for name, value in own.items())
                raise ValueError(f"{given}: conditions of a model of your own; give --model too")
            return None
        # A problem around a model has the model's name.
        if self.problem not in (ModelOptions.problem, Path(self.model).stem):
            raise ValueError(f"model = {self.model!r} and problem = {self.problem!r}: give one of them")
        return {"path": self.model, **own}


def run_command(program: str, command: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run ``command`` and return the exit code: 0, 2 after bad input, 130 after Ctrl-C.

    Args:
        program: what messages begin with.
        command: does the work.
        interrupted: what to say after Ctrl-C.
    """
    try:
        command()
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 130
    return 0
