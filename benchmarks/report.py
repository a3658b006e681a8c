"""Every table, generated sentence and figure of README.md and docs/, from the files of results.

python -m benchmarks.report            # write them
python -m benchmarks.report --check    # write nothing, and fail if one is stale

A page keeps its text: only what is between ``<!-- table:NAME -->`` and ``<!-- end -->`` is replaced, by what the
``page_tables`` of the benchmark that made the file returns. docs/leaderboard.md and two CSV files are written whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from PIL import Image

from art_env._util.cli import run_command
from art_env._util.files import atomic_path, write_text
from benchmarks import (
    board_tables,
    budgets,
    efficiency,
    few_shot,
    figures,
    headline,
    image_tables,
    libraries,
    many_models,
    noises,
    order,
    resampled_weights,
    scaling,
    second_control,
    solvers,
    state_policies,
    stochastic,
    tuning,
    universal,
)
from benchmarks.records import OURS, RESULTS, ROOT, Leaderboard
from benchmarks.statistics import Summary, improvement, median, summarize
from benchmarks.tables import (
    LEADERBOARD_PAGE,
    README,
    RESULTS_PAGE,
    Pages,
    loose_numbers,
    marked,
    merged,
    replace_tables,
    stale,
)

PROGRAM = "python -m benchmarks.report"
SUMMARY_CSV, CELLS_CSV = Path("docs/leaderboard.csv"), Path("docs/leaderboard_cells.csv")
FIGURES = Path("docs/figures")
# The entry of a figure's file with the digest of its numbers.
SOURCE = "Source"
# Pages whose measured numbers all come from files, and the numbers there that are no measurements: Python's version,
# the range of actions, the paper's number at arXiv, the version of a licence.
MEASURED: dict[Path, set[str]] = {RESULTS_PAGE: set(), README: {"3.10", "1.5", "2601.18681", "3.0"}}
# The text of docs/leaderboard.md.
TEMPLATE = ROOT / "benchmarks" / "leaderboard_template.md"
# What makes tables from the files of a folder.
SOURCES = (
    headline.page_tables,
    board_tables.page_tables,
    second_control.page_tables,
    solvers.page_tables,
    state_policies.page_tables,
    efficiency.page_tables,
    order.page_tables,
    tuning.page_tables,
    noises.page_tables,
    resampled_weights.page_tables,
    scaling.page_tables,
    budgets.page_tables,
    image_tables.page_tables,
    stochastic.page_tables,
    lambda results: universal.page_tables(
        universal.Args(out=results / "universal.csv", out_shapes=results / "universal_shapes.csv")
    ),
    lambda results: many_models.page_tables(many_models.Args(out=results / "many_models.csv")),
    lambda results: libraries.page_tables(results / libraries.FILE),
    lambda results: few_shot.page_tables(few_shot.Args(out=results / few_shot.FILE)),
)


@dataclass
class Args:
    """Read the files of results, and write tables and figures; or check them."""

    results: Path = RESULTS
    """The folder of the files of results."""
    out: Path = ROOT
    """The folder of README.md and docs/; a page that is not there is begun with the project's text."""
    figures: bool = True
    """Draw the figures."""
    check: bool = False
    """Write nothing, and fail if a number in README.md or docs/ is not what the files of results say."""


def page_tables(results: Path) -> Pages:
    """The tables of all pages; of another folder than the project's, those whose files are there."""
    parts = []
    for source in SOURCES:
        try:
            parts.append(source(results))
        except FileNotFoundError:
            if results.resolve() == RESULTS:
                raise
    return merged(parts)


def texts(pages: Pages, results: Path, out: Path) -> dict[Path, str]:
    """Every file that is text, as it should be.

    Raises:
        ValueError: a page has a mark that no benchmark knows.
    """
    found: dict[Path, str] = {}
    for page, tables in pages.items():
        source = out / page if (out / page).is_file() else ROOT / page
        old = (TEMPLATE if page == LEADERBOARD_PAGE else source).read_text("utf-8")
        unknown = [name for name in marked(old) if name not in tables]
        if unknown and results.resolve() == RESULTS:
            raise ValueError(f"{page}: no table {unknown[0]!r}; there are: {', '.join(tables)}")
        found[page] = replace_tables(old, tables, "No records.")
    board = board_tables.read_board(results)
    return {**found, SUMMARY_CSV: summary_csv(summarize(board)), CELLS_CSV: cells_csv(board)}


def summary_csv(found: Sequence[Summary]) -> str:
    """A line for each method."""
    header = ["method", "cells", "runs", "iqm", "iqm_low", "iqm_high", "median", "search_iqm_same_cells"]
    header += ["improvement", "improvement_low", "improvement_high", "evaluations", "seconds"]
    rows: list[list[object]] = []
    for s in found:
        low, high = s.interval or (math.nan, math.nan)
        chances = s.improvement, *(s.improvement_interval or (math.nan, math.nan))
        rows.append([s.method, s.cells, s.runs, s.iqm, low, high, s.median, s.ours, *chances])
        rows[-1] += [s.evaluations, s.seconds]
    return csv_text(header, rows)


def cells_csv(board: Leaderboard) -> str:
    """A line for each cell and method."""
    header = [
        "problem",
        "solver",
        "num_steps",
        "nfe",
        "method",
        "runs",
        "ratio",
        "ratio_min",
        "ratio_max",
        "error",
    ]
    header += ["improvement", "evaluations", "seconds"]
    rows: list[list[object]] = []
    for cell in board.cells:
        ours = board.ratios(cell, OURS)
        for method in board.methods:
            runs = board.runs.get((cell, method))
            if not runs:
                continue
            ratios = board.ratios(cell, method)
            chance = improvement(ours, ratios) if len(ours) and method != OURS else math.nan
            row = [*cell, runs[0].nfe, method, len(runs), np.median(ratios), ratios.min(), ratios.max()]
            row += [median(r.error for r in runs), chance]
            rows.append([*row, median(r.evaluations for r in runs), median(r.seconds for r in runs)])
    return csv_text(header, rows)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write numbers with six digits, and nothing for NaN."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = [f"{v:.6g}" if isinstance(v, float) else v for v in row]
        writer.writerow(["" if v == "nan" else v for v in cells])
    return out.getvalue()


def check(args: Args) -> None:
    """Compare every table and figure, the CSV files and the page that is written whole with the files of results.

    Raises:
        ValueError: names what is stale, or a number of README.md or docs/results.md that stands outside the marks.
    """
    pages = page_tables(args.results)
    old = stale(pages, args.out)
    named = {name.split(":")[0] for name in old}
    for path, text in texts(pages, args.results, args.out).items():
        there = (args.out / path).read_text("utf-8") if (args.out / path).is_file() else ""
        if there != text and path.name not in named:
            old.append(path.name)
    old += stale_figures(args)
    if old:
        raise ValueError(f"stale: {', '.join(old)}; run {PROGRAM}")
    for page in MEASURED.keys() & pages.keys():
        text = (args.out / page).read_text("utf-8")
        loose = [number for number in loose_numbers(text) if number not in MEASURED[page]]
        if loose:
            raise ValueError(
                f"{page.name}: {', '.join(loose)} outside the marks; let page_tables of a benchmark write it"
            )
    print("every number is what the files of results say")


class Drawing(NamedTuple):
    """A figure and the digest of the text that it was drawn from, which its file keeps."""

    figure: Callable[[], figures.Figure]
    digest: str


def drawings(results: Path) -> dict[str, Drawing]:
    """The figures of the pages, by file name; none is drawn yet."""
    board = board_tables.read_board(results)
    found = summarize(board)
    source = _digest(summary_csv(found) + cells_csv(board))
    known = {name: Drawing(figure, source) for name, figure in figures.drawers(board, found).items()}
    path = results / efficiency.FILE
    if path.is_file():
        text = path.read_text("utf-8")
        known["efficiency"] = Drawing(lambda: efficiency.figure(efficiency.read(path)), _digest(text))
    return known


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stale_figures(args: Args) -> list[str]:
    """The figures that were drawn from other numbers, or not at all."""
    paths = {args.out / FIGURES / f"{name}.png": of for name, of in drawings(args.results).items()}
    return [path.name for path, of in paths.items() if not path.is_file() or _source_of(path) != of.digest]


def _source_of(path: Path) -> str | None:
    with Image.open(path) as image:
        return image.info.get(SOURCE)


def main(args: Args) -> None:
    """Write all pages and figures; or check."""
    if args.check:
        check(args)
        return
    for path, text in texts(page_tables(args.results), args.results, args.out).items():
        (args.out / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out / path, text)
        print(f"wrote {args.out / path}")
    if args.figures:
        folder = args.out / FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        for name, drawing in drawings(args.results).items():
            with atomic_path(folder / f"{name}.png") as path:
                drawing.figure().savefig(path, metadata={SOURCE: drawing.digest})
            print(f"wrote {folder / name}.png")


if __name__ == "__main__":
    sys.exit(run_command(PROGRAM, lambda: main(tyro.cli(Args, prog=PROGRAM, description=__doc__))))
