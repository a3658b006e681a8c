"""The log of a run: progress.csv and TensorBoard's events, which go on where a resumed run goes on."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import CSVOutputFormat, HParam, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from art_env._util.files import write_text

STEP = "time/total_timesteps"


class RunLogger(Logger):
    """SB3's logger to progress.csv and events in a folder; its errors name the folder.

    Args:
        folder: where they are.
        first_step: env steps of the first line that comes. Lines that a killed run has written from there on are
            dropped, and earlier ones stay.

    Attributes:
        steps_before: env steps of the run before those that SB3 counts; it is added to the steps of each line.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        formats = [Progress(folder / "progress.csv", first_step), Events(folder, first_step)]
        super().__init__(str(folder), list(formats))
        self.steps_before = 0

    def dump(self, step: int = 0) -> None:
        """As its parent.

        Raises:
            OSError: the disk is full, or the folder is gone; names the folder.
        """
        if STEP in self.name_to_value:
            self.name_to_value[STEP] += self.steps_before
        try:
            super().dump(step + self.steps_before)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"cannot write the log in {self.dir!r} ({error.strerror or error}); see to that, then go on with "
                f"--resume {self.dir}",
            ) from error


class Events(TensorBoardOutputFormat):
    """SB3's TensorBoard format; readers drop what was written for ``first_step`` and later before.

    Args:
        folder: of the events.
        first_step: env steps of the first line that comes.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        threading.excepthook = _once
        self.writer = SummaryWriter(str(folder), purge_step=first_step)
        self._is_closed = False


_report = threading.excepthook


def _once(args: threading.ExceptHookArgs) -> None:
    """Leave out what TensorBoard's writer meets in its thread: it raises the same error where the log is written."""
    if not issubclass(args.exc_type, OSError) or type(args.thread).__name__ != "_AsyncWriterThread":
        _report(args)


class Progress(CSVOutputFormat):
    """SB3's CSV format, which goes on with the file that is there.

    Args:
        path: of the file.
        first_step: env steps of the first line that comes; lines from there on, and half a line, are dropped.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.separator, self.quotechar = ",", '"'
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        rows = csv.DictReader(lines)
        kept = [
            line
            for line, row in zip(lines[1:], rows, strict=True)
            if line.endswith("\n") and (row.get(STEP) or "").isdigit() and int(row[STEP]) < first_step
        ]
        self.keys = list(rows.fieldnames or []) if kept else []
        if not lines or len(kept) < len(lines) - 1:
            write_text(path, "".join([lines[0], *kept]) if kept else "")
        self.file = path.open("r+", encoding="utf-8")
        self.file.seek(0, io.SEEK_END)


def draw_lines(folder: Path, lines: Mapping[str, Mapping[str, float]], last_step: int) -> None:
    """Write constants that TensorBoard shows as runs of their own, in the same charts as the run itself.

    Args:
        folder: of the run; each line gets a folder in it, unless that is there.
        lines: values by name of the line and tag of the chart.
        last_step: where they end; they begin at 0.
    """
    for name, values in lines.items():
        if (folder / name).exists():
            continue
        with SummaryWriter(str(folder / name)) as writer:
            for tag, value in values.items():
                for step in (0, last_step):
                    writer.add_scalar(tag, value, step)


def hyperparameters(settings: Mapping[str, Any], metrics: Sequence[str]) -> HParam:
    """The settings of a run as TensorBoard's table of hyperparameters takes them.

    Args:
        settings: by name; those that are not set are left out, and lists become text.
        metrics: tags whose last values stand beside them.
    """
    plain = {
        name: value if isinstance(value, bool | int | float | str) else " ".join(map(str, value))
        for name, value in settings.items()
        if value not in (None, (), []) and name != "run_dir"
    }
    return HParam(plain, dict.fromkeys(metrics, 0.0))
