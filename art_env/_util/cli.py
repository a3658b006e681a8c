"""The parts that the command lines of this project share: the model's options, parsing, and exit codes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from art_env._util.termination import Terminated, handled

_parsing: ContextVar[bool] = ContextVar("parsing", default=False)


@dataclass(frozen=True)
class CheckedSettings:
    """Frozen settings that are checked once, when they are made."""

    def __post_init__(self) -> None:
        if not _parsing.get():
            self.check()

    def check(self) -> None:
        """Refuse bad values.

        Raises:
            ValueError: names the field, the value and the fix.
        """


def parse(kind: Any, argv: Sequence[str] | None, description: str | None, prog: str | None = None) -> Any:
    """Settings from a command line (None: this program's own).

    tyro shows an error of a check in a box of several lines. Here the checks come after it, so that a bad value is
    an exception, which ``run_command`` shows in one line.

    Args:
        kind: a subclass of ``CheckedSettings``, or a union of subcommands.
        argv: the arguments.
        description: shown by ``--help``.
        prog: what usage messages call the program.

    Raises:
        ValueError: as ``check``.
    """
    token = _parsing.set(True)
    try:
        settings = tyro.cli(kind, args=argv, description=description, prog=prog)
    finally:
        _parsing.reset(token)
    return dataclasses.replace(settings)


@dataclass(frozen=True)
class ModelOptions(CheckedSettings):
    """The problem, by name or around a model of the caller's.

    Raises:
        ValueError: a problem and a model, or a condition without a model.
    """

    problem: str = "digits"
    """gaussian-1d, mixture-1d, mixture-2d, digits, digits-small, digits-large, digits-class, digits-inpaint,
    photos, photos-latent or mnist; random-mixtures: another mixture for each initial noise."""
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
        """Arguments of ``model_problem``, beside ``trust_pickle``; None if the problem is one by name."""
        if self.model is None:
            return None
        own: dict[str, Any] = {"guidance": self.guidance, "class_label": self.class_label}
        own["prompt_embeds"] = None if self.prompt_embeds is None else str(self.prompt_embeds)
        return {"path": self.model, **{k: v for k, v in own.items() if v is not None}}

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        conditions = ("guidance", "class_label", "prompt_embeds")
        given = {name: getattr(self, name) for name in conditions if getattr(self, name) is not None}
        if self.model is None and given:
            shown = ", ".join(f"{k} = {str(v) if isinstance(v, Path) else v!r}" for k, v in given.items())
            raise ValueError(f"{shown}: conditions of a model of your own; give --model too")
        # A problem around a model has the model's name.
        if self.model is not None and self.problem not in (ModelOptions.problem, Path(self.model).stem):
            raise ValueError(f"model = {self.model!r} and problem = {self.problem!r}: give one of them")


def run_command(program: str, command: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run ``command`` and return the exit code: 0, 2 after bad input, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        program: what messages begin with.
        command: does the work.
        interrupted: what to say after Ctrl-C or SIGTERM.
    """
    try:
        with handled():
            command()
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Terminated) as stop:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0
