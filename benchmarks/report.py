"""The leaderboard as a page: statistics, tables and figures, from the records that its methods left.

python -m benchmarks.report

Writes ``results.md`` (only between its ``<!-- table:NAME -->`` and ``<!-- end -->`` marks: the text around them is
kept), ``leaderboard.csv``, ``leaderboard_cells.csv`` and ``figures/*.png`` into --out.

A record is a line of JSON: problem, solver, num_steps, nfe, method, seed, error, ratio, evaluations, seconds and
perhaps env_steps and curve, a list of [env_steps, evaluations, ratio]. A cell is a problem, a solver and num_steps.
If a cell, method and seed come twice, the later line counts. A line ``{"header": {...}}`` says how records were made.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from art_env._util.cli import run_command
from art_env._util.files import atomic_path, write_text
from art_env.evaluation.results import read_csv
from benchmarks import figures, headline, libraries, many_models, second_control, state_policies, universal
from benchmarks.records import (
    EVOLUTION,
    ORACLE,
    OURS,
    RECORDS,
    ROOT,
    Cell,
    FreshLine,
    Leaderboard,
    amount,
    number,
    title,
)
from benchmarks.statistics import (
    FEW_STEPS,
    FEW_STEPS_BAR,
    IMPROVEMENT_STEPS,
    LEAST_IMPROVEMENT,
    MANY_STEPS_BAR,
    TIE,
    Interval,
    Summary,
    bar,
    beaten,
    doubts,
    high_ratios,
    improvement,
    is_search,
    median,
    summarize,
)
from benchmarks.tables import (
    OTHERS,
    Pages,
    begin,
    block,
    markdown,
    marked,
    median_and_range,
    replace_tables,
    stale,
)

PROGRAM = "python -m benchmarks.report"
AGENTS = ("art", OURS)
# Of one table: the best list that needs no search, and everything that searches or learns.
COMPARED = ("closed_form", "gradient", "cma", "ppo", "sac", EVOLUTION, OURS, "art")
TEMPLATE = """# Leaderboard

Ratio: the RMSE of a schedule divided by that of the oracle, the best fixed schedule on these held-out noises; 1 is
optimal. A cell is a problem, a solver and a number of steps K. The text between the marks is written by
`python -m benchmarks.report`. In the figures the scale of a ratio is the logarithm of ratio - 1; a ratio below 1.001
is drawn at 1.001.

<!-- table:records -->
<!-- end -->

## Over all cells

Interquartile mean of the ratio over cells and seeds, with the 95% bootstrap interval (runs resampled within each
cell; a method with one run a cell has none), as in [Agarwal et al. 2021](https://arxiv.org/abs/2108.13264). P(search
is better): the probability that a run of the schedule search has a lower ratio than a run of the method, mean over
the cells that both have; a tie is half. Evaluations of the network and seconds to find the schedule: medians over
cells.

<!-- table:iqm -->
<!-- end -->

![Interquartile mean of the ratio, by method](figures/ratios.png)

## Cell by cell

<!-- table:searches -->
<!-- end -->

## Misses

<!-- table:misses -->
<!-- end -->

![Ratio of the schedule search in every cell](figures/heat.png)

## Seconds to find a schedule

<!-- table:seconds -->
<!-- end -->

## Ratio against K

![Ratio against K](figures/steps.png)
"""


@dataclass
class Args:
    """Read the records, print and write statistics, tables and figures."""

    records: Path = RECORDS
    """A file of JSON lines."""
    out: Path = ROOT / "docs"
    """Folder that gets results.md, two CSV files and figures/."""
    figures: bool = True
    """Draw the figures."""
    check: bool = False
    """Write nothing, and fail if a table in README.md or docs/ is not what the files of results say."""
    fresh: Path | None = None
    """Results of ``benchmarks.noises fresh``; default fresh_noises.csv beside the records, if it is there."""


# Tables


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


def table_misses(board: Leaderboard, fresh: Mapping[Cell, FreshLine]) -> str:
    """Cells where an agent is above the bar, and those where the search is behind a rival."""
    agents = [m for m in AGENTS if m in board.methods]
    high = {m: dict(high_ratios(board, m)) for m in agents}
    counts = ", ".join(f"{title(m)} {len(high[m])} of {len(board.cells_of(m))} cells" for m in agents)
    text = f"Median ratio above the bar ({FEW_STEPS_BAR} up to K = {FEW_STEPS}, {MANY_STEPS_BAR} beyond): {counts}."
    cells = [c for c in board.cells if any(c in found for found in high.values())]
    if cells:
        rows = []
        for cell in cells:
            line = [str(cell), f"{bar(cell):.2f}"]
            for m in agents:
                ratios = board.ratios(cell, m)
                line.append(median_and_range(ratios, "-") if len(ratios) else "-")
            rows.append([*line, *([fresh_text(fresh.get(cell))] if fresh else [])])
        header = ["cell", "bar", *map(title, agents)] + (
            ["evolution, fresh noises (single sets)"] if fresh else []
        )
        text += "\n\n" + markdown(header, rows)
        text += "\n\nMedian (lowest - largest) over seeds."
    if fresh:
        for name, of in (("search by evolution", "fresh"), ("ART-RL", "art")):
            known = {c: getattr(f, of) for c, f in sorted(fresh.items()) if not math.isnan(getattr(f, of))}
            above = [f"{c} ({number(ratio)})" for c, ratio in known.items() if ratio > bar(c)]
            text += (
                f"\n\nFresh noises, {name}: the error of the run with the median ratio over the oracle's, on noises "
                f"that neither has seen, is above the bar in {len(above)} of {len(known)} cells"
                f"{': ' + '; '.join(above) if above else ''}."
            )
    short = [c for c in board.cells_of(OURS) if c.num_steps <= IMPROVEMENT_STEPS]
    found = doubts(board)
    text += (
        f"\n\nThe search is better than every rival with a probability of {LEAST_IMPROVEMENT} in "
        f"{len(short) - len({d.cell for d in found})} of {len(short)} cells up to K = {IMPROVEMENT_STEPS}; most "
        "others are ties."
    )
    lost = [f"{d.cell} ({number(d.ours)}; {title(d.method)} {number(d.theirs)})" for d in beaten(found)]
    return text + (
        f" The best rival has a median ratio lower by more than {TIE - 1:.0%} in {len(lost)} of them"
        f"{': ' + '; '.join(lost) if lost else ''}."
    )


def fresh_text(fresh: FreshLine | None) -> str:
    """Write the ratio on all fresh noises, and its range over sets."""
    return f"{number(fresh.fresh)} ({number(fresh.low)} - {number(fresh.high)})" if fresh else "-"


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


def tables(board: Leaderboard, found: Sequence[Summary], fresh: Mapping[Cell, FreshLine]) -> dict[str, str]:
    """Every generated part of results.md, by the name in its mark."""
    parts = {
        "records": table_records(board),
        "iqm": table_iqm(board, found),
        "searches": table_searches(board),
        "misses": table_misses(board, fresh),
        "seconds": table_seconds(board),
    }
    return {**parts, **{f"ratios:{problem}": table_ratios(board, problem) for problem in board.problems}}


def fill(text: str, parts: dict[str, str]) -> str:
    """Replace what is between the marks; a part whose mark is not there goes to the end, with its own heading.

    Raises:
        ValueError: a mark without its end, or one whose name is not known. Marks of problems without records are
            emptied, since an old table would be wrong.
    """
    names = marked(text)
    for name in names:
        if name not in parts and name not in OTHERS and not name.startswith("ratios:"):
            raise ValueError(f"{begin(name)}: no such table; known: {', '.join(parts)}")
    gone = {name: "No records." for name in names if name.startswith("ratios:")}
    text = replace_tables(text, {**gone, **parts})
    for name, part in parts.items():
        if name not in names:
            heading = name.removeprefix("ratios:")
            text = text.rstrip("\n") + f"\n\n### {heading}\n\n{block(name, part)}\n"
    return text


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


def fresh_of(args: Args) -> dict[Cell, FreshLine]:
    """The results on fresh noises, if there are any."""
    beside = args.records.with_name("fresh_noises.csv")
    if args.fresh is None and not beside.is_file():
        return {}
    return {line.cell: line for line in read_csv(args.fresh or beside, FreshLine)}


def check(own: Pages) -> None:
    """Compare every table of the pages with the files of results.

    Raises:
        ValueError: names the tables that are stale.
    """
    old = stale(own)
    for module in (headline, libraries):
        old += [f"{name} (python -m {module.__name__})" for name in stale(module.page_tables())]
    for module in (second_control, state_policies, universal, many_models):
        old += [f"{name} (python -m {module.__name__} --tables-only)" for name in stale(module.page_tables())]
    if old:
        raise ValueError(f"stale: {', '.join(old)}; run {PROGRAM}, or the command in brackets")
    print("every table is what the files of results say")


def main(args: Args) -> None:
    """Read, print, write; or check."""
    board = Leaderboard.read(args.records)
    if not board.runs:
        raise ValueError(f"{args.records} has no records")
    found = summarize(board)
    page = args.out / "results.md"
    parts = tables(board, found, fresh_of(args))
    if args.check:
        check({page: parts})
        return
    text = fill(page.read_text(encoding="utf-8") if page.is_file() else TEMPLATE, parts)
    folder = args.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("records", "iqm", "misses"):
        print(f"{parts[name]}\n")
    write_text(page, text)
    write_text(args.out / "leaderboard.csv", summary_csv(found))
    write_text(args.out / "leaderboard_cells.csv", cells_csv(board))
    print(f"wrote {page} and two CSV files")
    if args.figures:
        for name, figure in figures.draw(board, found).items():
            with atomic_path(folder / f"{name}.png") as path:
                figure.savefig(path)
            print(f"wrote {folder / name}.png")


if __name__ == "__main__":
    sys.exit(run_command(PROGRAM, lambda: main(tyro.cli(Args, prog=PROGRAM, description=__doc__))))
