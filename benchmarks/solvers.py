"""What does the solver matter, once each has its best list? Oracles of every rule with one evaluation a step.

python -m benchmarks.solvers

UniPC and DEIS beside the solvers of ``benchmarks.leaderboard``, with the schedules that people copy; and the limit of
its kind, a grid together with all coefficients: ``learned_Km`` in K steps, whose slope has a weight for each earlier
one, found by gradients (as BNS, Shaul et al. 2024, arXiv 2403.01329, but the weights of a step add up to 1). Prints
the RMSE of the oracles; what is in the records already is not run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import leaderboard
from benchmarks.records import ORACLE, RECORDS, RESULTS, Cell, Leaderboard, Record, title
from benchmarks.tables import LEADERBOARD_PAGE, Pages, markdown

FILE = "solvers.jsonl"
CLASSICAL = ("euler", "dpmpp_2m", "ipndm")
NEW = ("unipc_2", "unipc_3", "deis_2", "deis_3")
METHODS = (
    ORACLE,
    *("log_snr", "edm", "simple", "beta", "ays_sdxl", "log_snr:zero=replace", "edm:zero=replace"),
    *("closed_form", "gits", "dmn"),
)

# Lists that somebody wrote down, but that look at the model or at exact trajectories of it.
LOOKING = ("closed_form", "gits", "sdm", "dp", "edm_tuned")


@dataclass
class Args:
    """Run what is missing, and print the table."""

    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits")
    solvers: tuple[str, ...] = NEW
    steps: tuple[int, ...] = (3, 5, 7, 10)
    all_weights: bool = True
    """Run the grid with all coefficients too."""
    records: Path = RESULTS / FILE
    classical: Path = RECORDS
    """The records of the leaderboard."""
    runs: Path = Path("runs/solvers")


def run(args: Args) -> None:
    """Fill the records, number of steps by number of steps."""
    for problem in args.problems:
        for K in args.steps:
            plans: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(args.solvers, METHODS)]
            if args.all_weights:
                plans.append(((all_weights(K),), (ORACLE,)))
            for solvers, methods in plans:
                leaderboard.main(
                    leaderboard.Args(
                        (problem,),
                        solvers,
                        (K,),
                        methods,
                        records=args.records,
                        oracles=args.runs / "oracles",
                        runs=args.runs,
                    )
                )


def all_weights(num_steps: int) -> str:
    """The learned solver that looks back at every earlier slope."""
    return f"learned_{max(num_steps, 2)}m"


def table(found: Leaderboard, classical: Leaderboard) -> str:
    """RMSE of each solver's oracle, a row for each problem and K; bold: the least of the classical rules."""
    rows = []
    for problem, K in dict.fromkeys((c.problem, c.num_steps) for c in found.cells_of(ORACLE)):
        errors = {
            solver: board.records(ORACLE, Cell(problem, solver, K))
            for board, solvers in ((classical, CLASSICAL), (found, (*NEW, all_weights(K))))
            for solver in solvers
        }
        known = {solver: records[0].error for solver, records in errors.items() if records}
        least = min((e for solver, e in known.items() if solver in (*CLASSICAL, *NEW)), default=None)
        texts = [
            "-"
            if solver not in known
            else f"{known[solver]:#.3g}"
            if known[solver] != least
            else f"**{least:#.3g}**"
            for solver in errors
        ]
        rows.append((problem, str(K), *texts))
    return markdown(("problem", "K", *CLASSICAL, *NEW, "grid and all weights"), rows)


def needs_nothing(record: Record) -> bool:
    """Whether the list was made without a look at the model."""
    return record.evaluations == 0 and record.method.partition(":")[0] not in (ORACLE, *LOOKING)


def free_table(found: Leaderboard, classical: Leaderboard) -> str:
    """The least RMSE of a list that needs nothing, a row for each problem and K; bold: the least of all solvers."""
    rows = []
    for problem, K in dict.fromkeys((c.problem, c.num_steps) for c in found.cells_of(ORACLE)):
        best: dict[str, Record] = {}
        for board, solvers in ((classical, CLASSICAL), (found, NEW)):
            for solver in solvers:
                free = [r for r in board.records(cell=Cell(problem, solver, K)) if needs_nothing(r)]
                best |= {solver: min(free, key=lambda r: r.error)} if free else {}
        least = min(r.error for r in best.values())
        texts = {s: f"{r.error:#.3g}" if r.error != least else f"**{r.error:#.3g}**" for s, r in best.items()}
        shown = (f"{texts[s]} {title(best[s].method)}" if s in best else "-" for s in (*CLASSICAL, *NEW))
        rows.append((problem, str(K), *shown))
    return markdown(("problem", "K", *CLASSICAL, *NEW), rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The tables of docs/leaderboard.md."""
    found, classical = (Leaderboard.read(results / name) for name in (FILE, RECORDS.name))
    tables = {"solvers": table(found, classical), "free-lists": free_table(found, classical)}
    return {LEADERBOARD_PAGE: tables}


def main(args: Args) -> None:
    """Run what is missing, and print the table."""
    run(args)
    print(table(Leaderboard.read(args.records), Leaderboard.read(args.classical)))


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python -m benchmarks.solvers", description=__doc__))
