"""Rows of a results table, as CSV and as text."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from rich import box
from rich.console import Console
from rich.table import Table

from art_env._util.files import write_text

Row = TypeVar("Row")


@dataclass(frozen=True)
class Score:
    """One number of a results table.

    Attributes:
        problem, solver: names.
        final_sigmas_type: the schedule's own end, ``"zero"`` or ``"sigma_min"``.
        schedule: its name.
        num_steps: K.
        nfe: network evaluations a sample.
        metric: ``rmse``, ``ratio``, ``w2``, ``sliced_w2``, ``frechet`` or ``fid``.
        mean, sd: over the seed sets; sd (ddof 1) is NaN for a single one, and 0 for an exact figure.
        n: number of seed sets.
    """

    problem: str
    solver: str
    final_sigmas_type: str
    schedule: str
    num_steps: int
    nfe: int
    metric: str
    mean: float
    sd: float
    n: int


def write_csv(rows: Iterable[Any], path: str | os.PathLike[str], kind: type = Score) -> None:
    """Write the rows, all of the dataclass ``kind``, in one piece; columns are its fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f.name for f in fields(kind)])
    writer.writerows(astuple(row) for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: str | os.PathLike[str], kind: type[Row]) -> list[Row]:
    """The rows that ``write_csv`` wrote, of the dataclass ``kind``; its fields are texts and numbers."""
    types = get_type_hints(kind)
    with open(path, newline="", encoding="utf-8") as file:
        return [kind(**{key: types[key](text) for key, text in row.items()}) for row in csv.DictReader(file)]


# Tables


def format_table(rows: Sequence[Score]) -> str:
    """Aligned text: a line for each K and schedule, a column for each metric (mean +- sd over seed sets)."""
    # rmse first, ratio last, whatever comes first in the list.
    metrics = sorted(dict.fromkeys(r.metric for r in rows), key=lambda m: (m == "ratio", m != "rmse"))
    cells: dict[tuple[int, str, str], dict[str, Score]] = {}
    for row in rows:
        cells.setdefault((row.num_steps, row.schedule, row.final_sigmas_type), {})[row.metric] = row
    table = Table(box=box.SIMPLE_HEAD)
    for title, side in (
        ("schedule", "left"),
        ("K", "right"),
        ("NFE", "right"),
        ("final_sigmas_type", "left"),
    ):
        table.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    last = None
    for key in sorted(cells, key=lambda k: k[0]):  # stable: schedules stay in the order given
        K, name, final_sigmas_type = key
        if last not in (None, K):
            table.add_section()
        last = K
        some = next(iter(cells[key].values()))
        texts = [_cell(cells[key].get(m)) for m in metrics]
        nfe = (str(K), str(some.nfe)) if K else ("-", "-")
        table.add_row(name, *nfe, final_sigmas_type, *texts)
    out = io.StringIO()
    Console(file=out, width=400, color_system=None, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"


def _cell(row: Score | None) -> str:
    if row is None:
        return ""
    digits = 2 if row.metric == "ratio" else 4
    text = _number(row.mean, digits)
    # No spread: a single seed set, or an exact figure.
    return f"{text} +- {_number(row.sd, digits)}" if row.sd > 0 else text


def _number(value: float, digits: int) -> str:
    if value and abs(value) < 10.0**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.1f}"
