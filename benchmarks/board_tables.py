"""The tables of the leaderboard: over all cells, cell by cell, misses, seconds, and the core at K = 5.

python -m benchmarks.report
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from art_env.evaluation.results import read_csv
from benchmarks.noises import FRESH_FILE
from benchmarks.records import (
    EVOLUTION,
    ORACLE,
    OURS,
    RECORDS,
    RESULTS,
    Cell,
    FreshLine,
    Leaderboard,
    amount,
    number,
    title,
)
from benchmarks.second_control import read_classical
from benchmarks.statistics import (
    FEW_STEPS,
    FEW_STEPS_BAR,
    MANY_STEPS_BAR,
    TIE,
    Interval,
    Summary,
    bar,
    beaten,
    cells_iqm,
    doubts,
    high_ratios,
    is_search,
    median,
    summarize,
)
from benchmarks.tables import LEADERBOARD_PAGE, RESULTS_PAGE, Pages, markdown, median_and_range

AGENTS = ("art", OURS)
# Of one table: the best list that needs no search, and everything that searches or learns.
COMPARED = ("closed_form", "gradient", "cma", "ppo", "sac", EVOLUTION, OURS, "art")
SEARCHES = ("gradient", "cma", EVOLUTION, OURS, "art")
# Of the table of docs/results.md: the number of steps, and the strongest lists of each kind.
CORE_STEPS, CORE_SOLVERS = 5, ("euler", "heun", "dpmpp_2m", "ipndm")
CORE_METHODS = (
    *("edm", "edm:zero=replace", "simple", "ays_svd", "closed_form", "gits", "dmn"),
    *SEARCHES,
    ORACLE,
)
# The problem whose evaluations and seconds that table has.
COST_PROBLEM = "digits"


def between(interval: Interval, form: str = "") -> str:
    """Write an interval as `` [low, high]``, or nothing."""
    if interval is None:
        return ""
    low, high = (format(v, form) if form else number(v) for v in interval)
    return f" [{low}, {high}]"


def strong(method: str, text: str) -> str:
    """Set a text in bold in the line of the search."""
    return f"**{text}**" if method == OURS else text


def table_records(board: Leaderboard) -> str:
    """How many cells and runs are in, and how they were made."""
    records = board.records()
    ours = board.cells_of(OURS)
    lines = [f"{len(records):,} records of {len(board.methods)} methods in {len(board.cells)} cells."]
    for problem in board.problems:
        cells = [c for c in board.cells if c.problem == problem]
        solvers = ", ".join(dict.fromkeys(c.solver for c in cells))
        steps = ", ".join(str(k) for k in sorted({c.num_steps for c in cells}))
        lines.append(f"- {problem}: {len(cells)} cells ({solvers}; K = {steps})")
    lines[-1] += "\n"
    seeds = Counter(len(board.runs[c, OURS]) for c in ours)
    text = ", ".join(f"{n} in {count}" for n, count in sorted(seeds.items(), reverse=True))
    lines.append(
        f"The search is in {len(ours)} of {len(board.cells)} cells{f' (runs to a cell: {text})' if text else ''}."
    )
    below = [r for r in records if r.ratio < 0.9995]
    if below:
        least = min(below, key=lambda r: r.ratio)
        lines.append(
            f"Records below the oracle: {len(below)}, the lowest {title(least.method)} with {least.ratio:.4f} "
            f"at {least.cell}: there the oracle is not the best there is."
        )
    off = disagreements(board)
    if off:
        lines.append(f"**Records whose ratio is not their error / the oracle's error: {off}.**")
    for header in board.headers:
        lines.append("\n" + "; ".join(f"{key}: {text_of(value)}" for key, value in header.items()))
    return "\n".join(lines)


def text_of(value: object) -> str:
    """Write a header's value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {text_of(v)}" for k, v in value.items())
    return ", ".join(map(text_of, value)) if isinstance(value, list) else str(value)


def disagreements(board: Leaderboard) -> int:
    """Records whose ratio is not their error over the oracle's, to a percent."""
    count = 0
    for (cell, _), runs in board.runs.items():
        oracle = board.runs.get((cell, ORACLE))
        if oracle:
            count += sum(
                math.isfinite(r.ratio) and abs(r.error / oracle[0].error - r.ratio) > 0.01 * r.ratio
                for r in runs
            )
    return count


def table_iqm(board: Leaderboard, found: Sequence[Summary]) -> str:
    """The methods over all cells."""
    header = [
        "method",
        "cells",
        "runs",
        "IQM of the ratio [95%]",
        "search in the same cells",
        "median",
        "P(search is better) [95%]",
        "evaluations",
        "seconds",
    ]
    rows = []
    for s in found:
        chance = "-"
        if not math.isnan(s.improvement):
            chance = f"{s.improvement:.3f}" + between(s.improvement_interval, ".3f")
        cells = [
            title(s.method),
            f"{s.cells} of {len(board.cells)}",
            f"{s.runs:,}",
            number(s.iqm) + between(s.interval),
            number(s.ours),
            number(s.median),
            chance,
            amount(s.evaluations),
            amount(s.seconds),
        ]
        rows.append([strong(s.method, cell) if cell != "-" else cell for cell in cells])
    text = markdown(header, rows)
    if any(s.cells < len(board.cells) for s in found):
        text += "\n\nNot every method is in every cell: compare such a row with the search in the same cells only."
    return text


def table_ratios(board: Leaderboard, problem: str) -> str:
    """Median ratios of one problem, a table for each solver."""
    parts = []
    for solver in dict.fromkeys(c.solver for c in board.cells if c.problem == problem):
        cells = [c for c in board.cells if (c.problem, c.solver) == (problem, solver)]
        methods = [m for m in board.methods if any((c, m) in board.runs for c in cells)]
        texts = {
            (c, m): number(float(np.median(board.ratios(c, m)))) if (c, m) in board.runs else "-"
            for c in cells
            for m in methods
        }
        best: dict[Cell, str] = {}
        for c in cells:
            rivals = [m for m in methods if m != ORACLE and (c, m) in board.runs]
            if rivals:
                best[c] = texts[c, min(rivals, key=lambda m: float(np.median(board.ratios(c, m))))]
        rows = []
        for m in methods:
            line = [
                f"**{texts[c, m]}**" if m != ORACLE and texts[c, m] == best.get(c) else texts[c, m]
                for c in cells
            ]
            rows.append([strong(m, title(m)), *line])
        nfe = [board.records(cell=c)[0].nfe for c in cells]
        header = [f"{solver}, ratio"] + [f"K = {c.num_steps} ({n})" for c, n in zip(cells, nfe, strict=True)]
        parts.append(markdown(header, rows))
    return "\n\n".join(parts) + "\n\nMedian over seeds; in brackets evaluations a sample; bold: the lowest."


def table_searches(board: Leaderboard) -> str:
    """Every method that searches or learns, in every cell."""
    methods = [m for m in COMPARED if m in board.methods]
    rows = []
    for cell in board.cells:
        there = {m: board.ratios(cell, m) for m in methods if (cell, m) in board.runs}
        least = min((float(np.median(ratios)) for m, ratios in there.items()), default=math.nan)
        line = [str(cell)]
        for m in methods:
            middle = float(np.median(there[m])) if m in there else math.nan
            text = number(middle)
            if m in there and len(there[m]) > 1:
                text += f" ({number(float(there[m].max()))})"
            line.append(f"**{text}**" if middle <= TIE * least else text)
        rows.append(line)
    text = markdown(["cell", *map(title, methods)], rows)
    return text + f"\n\nMedian (largest) over seeds; bold: within {TIE - 1:.0%} of the lowest."


def table_misses(board: Leaderboard) -> str:
    """Cells where an agent is above the bar."""
    agents = [m for m in AGENTS if m in board.methods]
    high = {m: dict(high_ratios(board, m)) for m in agents}
    counts = ", ".join(f"{title(m)} {len(high[m])} of {len(board.cells_of(m))} cells" for m in agents)
    text = f"Median ratio above the bar ({FEW_STEPS_BAR} up to K = {FEW_STEPS}, {MANY_STEPS_BAR} beyond): {counts}."
    shown = [m for m in SEARCHES if m in board.methods]
    rows = []
    for cell in board.cells:
        if any(cell in found for found in high.values()):
            ratios = (board.ratios(cell, m) for m in shown)
            spreads = (median_and_range(r, "-") if len(r) else "-" for r in ratios)
            rows.append([str(cell), f"{bar(cell):.2f}", *spreads])
    if not rows:
        return text
    table = markdown(["cell", "bar", *map(title, shown)], rows)
    return f"{text}\n\n{table}\n\nMedian (lowest - largest) over seeds."


def table_lost(board: Leaderboard) -> str:
    """Cells where a rival has a lower median than the schedule search, by more than a tie."""
    lost = beaten(doubts(board))
    text = (
        f"The best rival has a median ratio lower than the schedule search's by more than {TIE - 1:.0%} in "
        f"{len(lost)} of {len(board.cells_of(OURS))} cells."
    )
    if not lost:
        return text
    rows = [(str(d.cell), number(d.ours), title(d.method), number(d.theirs)) for d in lost]
    return f"{text}\n\n" + markdown(("cell", "schedule search", "best rival", "its ratio"), rows)


def table_fresh(lines: Sequence[FreshLine]) -> str:
    """Ratios on the leaderboard's noises and on others, a line a method, and the cells above the bar there."""
    rows = []
    for method in dict.fromkeys(line.method for line in lines):
        own = [line for line in lines if line.method == method]
        iqms = (cells_iqm([np.array([getattr(x, of)]) for x in own]) for of in ("ratio", "fresh"))
        above = [f"{x.cell} ({number(x.fresh)})" for x in own if x.fresh > bar(x.cell)]
        rows.append((title(method), str(len(own)), *map(number, iqms), f"{len(above)}", "; ".join(above)))
    header = ("method", "cells", "the leaderboard's noises", "other noises", "above the bar", "where")
    return markdown(header, rows)


def table_seconds(board: Leaderboard) -> str:
    """Median and largest seconds of the methods that learn or search."""
    methods = [m for m in board.methods if is_search(board, m)]
    rows = []
    for problem, solver in dict.fromkeys((c.problem, c.solver) for c in board.cells):
        line = [f"{problem}, {solver}"]
        for method in methods:
            known = [
                r.seconds
                for r in board.records(method)
                if (r.cell.problem, r.cell.solver) == (problem, solver) and not math.isnan(r.seconds)
            ]
            line.append(f"{amount(median(known))} ({amount(max(known))})" if known else "-")
        rows.append(line)
    if not methods:
        return "No method learns or searches."
    text = markdown(["problem, solver", *map(title, methods)], rows)
    return text + "\n\nMedian (largest) over K and seeds."


def core_cells(board: Leaderboard) -> dict[str, list[Cell]]:
    """The cells of the core by problem: those with the schedule search, or where it never ran those with a list."""
    known = board.cells_of("closed_form", ORACLE)
    cells = [c for c in known if c.num_steps == CORE_STEPS and c.solver in CORE_SOLVERS]
    found = {}
    for problem in dict.fromkeys(c.problem for c in cells):
        own = [c for c in cells if c.problem == problem]
        found[problem] = [c for c in own if (c, OURS) in board.runs] or own
    return found


def table_core(board: Leaderboard) -> str:
    """Interquartile mean of the ratio of each method, a column a problem; evaluations and seconds on one of them."""
    cells = core_cells(board)
    columns = {
        problem: {
            m: cells_iqm([board.ratios(c, m) for c in own]) for m in CORE_METHODS if _in_all(board, m, own)
        }
        for problem, own in cells.items()
    }
    rows = []
    for method in (m for m in CORE_METHODS if any(m in column for column in columns.values())):
        ratios = [number(column.get(method, math.nan)) for column in columns.values()]
        runs = [r for c in cells.get(COST_PROBLEM, ()) for r in board.records(method, c)]
        spent = (median(getattr(r, of) for r in runs) for of in ("evaluations", "seconds"))
        rows.append([strong(method, text) for text in (title(method), *ratios, *map(amount, spent))])
    names = [
        f"{problem} ({', '.join(c.solver for c in own)})" if len(own) < len(CORE_SOLVERS) else problem
        for problem, own in cells.items()
    ]
    return markdown(["method", *names, f"evaluations, {COST_PROBLEM}", f"seconds, {COST_PROBLEM}"], rows)


def _in_all(board: Leaderboard, method: str, cells: Sequence[Cell]) -> bool:
    return all((c, method) in board.runs for c in cells)


def finding_lists(board: Leaderboard) -> str:
    """In how many cells of the whole leaderboard each method is near the oracle, in a sentence."""
    counts = []
    for method in ("closed_form", *SEARCHES):
        cells = board.cells_of(method)
        if cells:
            counts.append(
                f"{title(method)} in {len(cells) - len(high_ratios(board, method))} of {len(cells)}"
            )
    return (
        "Over all K of the [leaderboard](leaderboard.md#cell-by-cell), the median ratio is within the bar "
        f"({FEW_STEPS_BAR} up to K = {FEW_STEPS}, {MANY_STEPS_BAR} beyond): {', '.join(counts)} cells."
    )


def finding_misses(board: Leaderboard, fresh: Sequence[FreshLine]) -> str:
    """The misses of the two agents over the whole leaderboard, a line each."""
    bars = f"the bar ({FEW_STEPS_BAR} up to K = {FEW_STEPS}, {MANY_STEPS_BAR} beyond)"
    lines = []
    for method in AGENTS:
        high = [f"{c} ({number(ratio)})" for c, ratio in high_ratios(board, method)]
        text = f"- **{title(method)}** is above {bars} at {'; '.join(high) or 'no cell'}"
        if fresh:
            above = [x for x in fresh if x.method == method and x.fresh > bar(x.cell)]
            elsewhere = "; ".join(f"{x.cell} ({number(x.fresh)})" for x in above)
            text += f"; on five other sets of noises at {elsewhere or 'no cell'}"
        lines.append(f"{text}.")
    lost = len(beaten(doubts(board)))
    lines.append(
        f"- Some rival is more than {TIE - 1:.0%} better than the {title(OURS)} in {lost} of "
        f"{len(board.cells_of(OURS))} cells ([which](leaderboard.md#misses))."
    )
    return "\n".join(lines)


def read_board(results: Path = RESULTS) -> Leaderboard:
    """The records of the leaderboard."""
    return Leaderboard.read(results / RECORDS.name)


def page_tables(results: Path = RESULTS) -> Pages:
    """The tables of docs/leaderboard.md, and the core of docs/results.md.

    Raises:
        ValueError: the file has no records.
    """
    board = read_board(results)
    if not board.runs:
        raise ValueError(f"{board.path} has no records")
    path = results / FRESH_FILE
    fresh = read_csv(path, FreshLine) if path.is_file() else []
    whole = {
        "records": table_records(board),
        "iqm": table_iqm(board, summarize(board)),
        "searches": table_searches(board),
        "misses": table_misses(board),
        "lost": table_lost(board),
        "seconds": table_seconds(board),
        **{f"ratios:{problem}": table_ratios(board, problem) for problem in board.problems},
    }
    if fresh:
        whole["fresh"] = table_fresh(fresh)
    short = {
        "core": table_core(read_classical(results)),
        "lists-finding": finding_lists(board),
        "misses-finding": finding_misses(board, fresh),
    }
    return {LEADERBOARD_PAGE: whole, RESULTS_PAGE: short}
