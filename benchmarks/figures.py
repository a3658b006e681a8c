"""How the leaderboard looks: every function returns a matplotlib Figure.

python -m benchmarks.report

Axes of ratios are log scales of the distance from the oracle, ratio - 1, labelled with the ratio: 1.01 and 1.1 are
as far apart as 2 and 11. What is nearer than 1.001, or below the oracle, is drawn at 1.001.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.records import ORACLE, OURS, Cell, Leaderboard, amount, number, title
from benchmarks.statistics import Summary

DPI = 120
RED = "#c8102e"
COLORS = {
    OURS: RED,
    "uniform": "#9a9a9a",
    "log_snr": "#b8860b",
    "cosine": "#c9b037",
    "arctan": "#8c6d31",
    "edm": "#1f4e9e",
    "edm_tuned": "#5b9bd5",
    "closed_form": "#2e7d32",
    "gits": "#7b1fa2",
    "sdm": "#c2185b",
    "dmn": "#6d4c41",
    "dp": "#8bc34a",
    "cma": "#00838f",
    "gradient": "#455a64",
    "art": "#111111",
    "evolution": "#e07a8b",
    "ppo": "#ef6c00",
    "ppo:noise_groups=16": "#8e24aa",
    "sac": "#3949ab",
}
# The smallest distance from the oracle that a figure shows.
NEAREST = 1e-3
RATIO_TICKS = (1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2, 4, 10, 30, 100, 300, 1000, 3000, 10000)
STEPS_METHODS = (
    "uniform",
    "log_snr",
    "edm",
    "edm_tuned",
    "closed_form",
    "gits",
    "dmn",
    "dp",
    "cma",
    "gradient",
    "ppo",
    "art",
    OURS,
)
# The schedule that every method begins with: a level of the figure of sample efficiency.
START = "closed_form"
MARKERS = {
    "gradient": "P",
    "cma": "X",
    "evolution": "<",
    OURS: "s",
    "art": "o",
    "ppo": "^",
    "ppo:noise_groups=16": "v",
    "sac": "D",
}


class Band(NamedTuple):
    """Runs of one method at several budgets: evaluations and least, median and largest ratio, ``[budgets]`` each."""

    evaluations: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def drawers(board: Leaderboard, found: Sequence[Summary]) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that the records are enough for, by file name."""
    figures: dict[str, Callable[[], Figure]] = {
        "ratios": partial(ratios, found, len(board.cells)),
        "steps": partial(steps, board),
    }
    if board.cells_of(OURS):
        figures["heat"] = partial(heat, board)
    return figures


def color(methods: Sequence[str], method: str) -> tuple[float, ...] | str:
    """The color of a method, the same in every figure; the search's is red."""
    if method in COLORS:
        return COLORS[method]
    others = [m for m in methods if m not in COLORS and m != ORACLE]
    palette = colormaps["Dark2"].colors  # type: ignore[attr-defined]
    return palette[others.index(method) % len(palette)]


def ratios(found: Sequence[Summary], num_cells: int) -> Figure:
    """Interquartile mean of every method with its interval, the best on top."""
    rows = [s for s in found if s.method != ORACLE and math.isfinite(s.iqm)]
    figure = Figure(figsize=(7.5, 1.1 + 0.32 * len(rows)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for y, s in enumerate(rows):
        paint = RED if s.method == OURS else "#33618f"
        axes.plot([1, s.iqm], [y, y], ":", color=paint, alpha=0.6, linewidth=1)
        if s.interval is not None:
            axes.plot(
                drawn(s.interval), [y, y], "|-", color=paint, linewidth=2, markersize=12, markeredgewidth=1.5
            )
        whole = s.cells == num_cells
        axes.plot(
            drawn(s.iqm), y, "o", color=paint, markerfacecolor=paint if whole else "white", markersize=7
        )
        high = s.interval[1] if s.interval and math.isfinite(s.interval[1]) else s.iqm
        right = max(1 + NEAREST, s.iqm, high)
        text = number(s.iqm) if whole else f"{number(s.iqm)}  ({s.cells} of {num_cells} cells)"
        axes.annotate(
            text, (right, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=paint
        )
    axes.set_yticks(range(len(rows)), [title(s.method) for s in rows])
    for label, s in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if s.method == OURS else "normal")
    axes.invert_yaxis()
    ends = [v for s in rows for v in (s.iqm, *(s.interval or ())) if math.isfinite(v)]
    low, high = ratio_axis(axes, "x", ends)
    # Room for the numbers.
    axes.set_xlim(low, 1 + (high - 1) * ((high - 1) / (low - 1)) ** 0.3)
    axes.set_xlabel("ratio to the oracle, interquartile mean over cells and seeds, 95% interval")
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def efficiency(panels: Mapping[Cell, Mapping[str, Band]]) -> Figure:
    """Ratio against denoiser evaluations, a panel a cell: medians, and bands from the least to the largest run."""
    figure = Figure(figsize=(0.8 + 5.2 * len(panels), 5.2), dpi=DPI, layout="constrained")
    handles: dict[str, Artist] = {}
    for axes, (cell, bands) in zip(
        figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True
    ):
        for method in (*MARKERS, *sorted(set(bands) - set(MARKERS))):
            if method not in bands:
                continue
            band, paint = bands[method], color(list(bands), method)
            if method == START:
                level = float(drawn(band.middle[0]))
                handles[method] = axes.axhline(level, color=paint, linestyle="--", linewidth=1.2)
                continue
            (handles[method],) = axes.plot(
                band.evaluations,
                drawn(band.middle),
                color=paint,
                marker=MARKERS.get(method, "."),
                linewidth=1.8,
            )
            # Bands lie over each other: a thin edge tells whose they are.
            axes.fill_between(
                band.evaluations,
                drawn(band.low),
                drawn(band.high),
                facecolor=(paint, 0.08),
                edgecolor=(paint, 0.5),
                linewidth=0.6,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        ratio_axis(axes, "y", [v for band in bands.values() for v in (*band.low, *band.high)])
        axes.set_title(f"{cell.problem}, {cell.solver}, K = {cell.num_steps}")
        axes.set(xlabel="denoiser evaluations", ylabel="ratio to the oracle")
        axes.grid(alpha=0.25)
    names = [m for m in (*MARKERS, START) if m in handles]
    figure.legend(
        [handles[m] for m in names],
        [title(m) for m in names],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure


def heat(board: Leaderboard) -> Figure:
    """The median ratio of the search, a row a problem and solver, a column a K."""
    cells = board.cells_of(OURS)
    rows = list(dict.fromkeys((c.problem, c.solver) for c in board.cells))
    columns = sorted({c.num_steps for c in board.cells})
    table = np.full((len(rows), len(columns)), np.nan)
    for c in cells:
        middle = np.median(board.ratios(c, OURS))
        table[rows.index((c.problem, c.solver)), columns.index(c.num_steps)] = middle
    figure = Figure(
        figsize=(3.2 + 0.85 * len(columns), max(3.0, 1.2 + 0.36 * len(rows))), dpi=DPI, layout="constrained"
    )
    axes = figure.subplots()
    norm = LogNorm(0.003, 1, clip=True)
    excess = np.ma.masked_invalid(np.clip(table - 1, NEAREST, None))
    image = axes.imshow(excess, cmap=colormaps["YlOrRd"], norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        text = "-" if math.isnan(value) else number(value)
        axes.text(
            j, i, text, ha="center", va="center", fontsize=9, color="white" if value > 1.15 else "black"
        )
    axes.set_xticks(range(len(columns)), [f"K = {k}" for k in columns])
    axes.set_yticks(range(len(rows)), [f"{problem}, {solver}" for problem, solver in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axes, extend="both", label="median ratio of the schedule search", aspect=25
    )
    bar.ax.yaxis.set_minor_locator(NullLocator())
    ticks = [tick for tick in RATIO_TICKS if 1.003 <= tick <= 2]
    bar.set_ticks([tick - 1 for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    return figure


def steps(board: Leaderboard) -> Figure:
    """Median ratio against K: a row a problem, a column a solver."""
    solvers = list(dict.fromkeys(c.solver for c in board.cells))
    problems = board.problems
    width = max(6.0, 1.2 + 2.7 * len(solvers))
    figure = Figure(figsize=(width, 1.2 + 2.1 * len(problems)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(problems), len(solvers), squeeze=False, sharex=True)
    known = [m for m in STEPS_METHODS if m in board.methods]
    ticks = sorted({c.num_steps for c in board.cells})
    panelled = {(c.problem, c.solver) for c in board.cells}
    handles = {}
    for i, problem in enumerate(problems):
        shown: list[float] = []
        for j, solver in enumerate(solvers):
            axes = panels[i, j]
            cells = [c for c in board.cells if (c.problem, c.solver) == (problem, solver)]
            if not cells:
                axes.set_axis_off()
                continue
            for method in known:
                there = [c for c in cells if (c, method) in board.runs]
                middle = [float(np.median(board.ratios(c, method))) for c in there]
                shown += [v for v in middle if math.isfinite(v)]
                thick, size, order = (2.2, 4.0, 4) if method == OURS else (1.1, 2.5, 2)
                (handles[method],) = axes.plot(
                    [c.num_steps for c in there], drawn(middle), "o-", color=color(board.methods, method)
                )
                handles[method].set(linewidth=thick, markersize=size, zorder=order)
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(ticks, [str(k) for k in ticks])
            axes.grid(alpha=0.25)
            axes.tick_params(labelleft=False, labelbottom=False)
        row = [panels[i, j] for j, solver in enumerate(solvers) if (problem, solver) in panelled]
        for axes in row:
            ratio_axis(axes, "y", shown)
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(f"{problem}\nratio")
    for j, solver in enumerate(solvers):
        column = [i for i, problem in enumerate(problems) if (problem, solver) in panelled]
        panels[column[0], j].set_title(solver)
        panels[column[-1], j].tick_params(labelbottom=True)
        panels[column[-1], j].set_xlabel("K")
    figure.legend(
        [handles[m] for m in known if m in handles],
        [title(m) for m in known if m in handles],
        loc="outside lower center",
        ncols=min(int(width / 1.9), len(known)),
        frameon=False,
    )
    return figure


def ratio_axis(axes: Axes, which: str, values: Sequence[float]) -> tuple[float, float]:
    """Make an axis one of ratios, wide enough for ``values``; return its ends."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    distances = np.clip(np.array([v for v in values if math.isfinite(v)] or [2.0]) - 1, NEAREST, None)
    room = (distances.max() / distances.min()) ** 0.06 * 1.1
    ends = 1 + float(distances.min() / room), 1 + float(distances.max() * room)
    functions = (
        lambda ratio: np.log10(np.clip(np.asarray(ratio, float) - 1, NEAREST / 10, None)),
        lambda place: 1 + 10.0 ** np.asarray(place, float),
    )
    if which == "x":
        axes.set_xscale("function", functions=functions)
        axes.set_xlim(ends)
    else:
        axes.set_yscale("function", functions=functions)
        axes.set_ylim(ends)
    axis.set_major_locator(FixedLocator([t for t in RATIO_TICKS if ends[0] <= t <= ends[1]]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return ends


def drawn(values: object) -> np.ndarray:
    """Move ratios to where a figure can show them."""
    return np.clip(np.asarray(values, float), 1 + NEAREST, None)
