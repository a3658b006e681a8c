"""Every table and figure of README.md and docs/results.md, from an empty folder.

python -m benchmarks.core --out runs/core --workers 2

Runs the benchmarks at K = 5 alone into a folder of results, and ends with ``benchmarks.report``. With two workers
(extra ``[ray]``) on two cores of a shared virtual machine it took two and a half hours, beside other jobs. A stage
that has ended is not run again, nor in most stages what has been recorded, so that an interrupted core goes on.
``--budget 0.02`` tries all of it with short trainings.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from art_env._util.cli import run_command
from art_env._util.files import write_text
from benchmarks import (
    efficiency,
    images,
    leaderboard,
    noises,
    order,
    report,
    second_control,
    solvers,
    state_policies,
)
from benchmarks.board_tables import CORE_METHODS, CORE_STEPS, SEARCHES
from benchmarks.records import RECORDS, Cell
from benchmarks.tasks import Tasks

MNIST = "mnist"
# On MNIST a training takes minutes: one seed, and searches with one evaluation a step alone.
ONE_SEED = (0,)
MNIST_METHODS = {"dpmpp_2m": CORE_METHODS, "heun": tuple(m for m in CORE_METHODS if m not in SEARCHES)}
LARGEST = max(efficiency.MIXTURE)


@dataclass
class Args:
    """Run the core of the benchmarks into a folder, and write its pages."""

    out: Path
    """Folder that gets results/, runs/, README.md and docs/."""
    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits", "digits-class", MNIST)
    """Of those that the pages have."""
    workers: int = 1
    """Benchmarks at once; more than one takes Ray (extra [ray])."""
    budget: float = 1.0
    """Part of the default length of each training; the largest budgets of evaluations are cut by it too."""

    @property
    def results(self) -> Path:
        """The folder of records."""
        return self.out / "results"

    @property
    def runs(self) -> Path:
        """The folder of what benchmarks keep."""
        return self.out / "runs"

    def of(self, *names: str) -> tuple[str, ...]:
        """Those problems that are asked for."""
        return tuple(name for name in names if name in self.problems)

    def cells(self, options: tuple[str, ...]) -> tuple[str, ...]:
        """The cells of the core among some, as options name them."""
        known = ((option, Cell.parse(option)) for option in options)
        return tuple(o for o, cell in known if cell.problem in self.problems and cell.num_steps == CORE_STEPS)


def lists(args: Args) -> None:
    """The leaderboard of two mixtures and of digits."""
    leaderboard.main(
        leaderboard.Args(
            args.of("mixture-1d", "mixture-2d", "digits"),
            steps=(CORE_STEPS,),
            methods=CORE_METHODS,
            budget=args.budget,
            records=args.results / RECORDS.name,
            oracles=args.runs / "oracles",
            runs=args.runs / "lists",
        )
    )


def mnist(args: Args) -> None:
    """The leaderboard of MNIST."""
    for solver, methods in MNIST_METHODS.items():
        leaderboard.main(
            leaderboard.Args(
                args.of(MNIST),
                (solver,),
                (CORE_STEPS,),
                methods,
                few_seeds=ONE_SEED,
                budget=args.budget,
                records=args.results / second_control.MNIST,
                oracles=args.runs / "mnist_oracles",
                runs=args.runs / "mnist",
            )
        )


def weights(args: Args) -> None:
    """Lists with weights."""
    for problems, few_seeds in (
        (args.of("mixture-1d", "mixture-2d", "digits"), (0, 1, 2)),
        (args.of(MNIST), ONE_SEED),
    ):
        second_control.run(
            second_control.Args(
                problems,
                (CORE_STEPS,),
                few_seeds=few_seeds,
                budget=args.budget,
                results=args.results,
                runs=args.runs / "weights",
            )
        )


def other_solvers(args: Args) -> None:
    """The oracles of UniPC and DEIS, and of lists with all weights."""
    solvers.run(
        solvers.Args(
            args.of("mixture-1d", "mixture-2d", "digits"),
            steps=(CORE_STEPS,),
            records=args.results / solvers.FILE,
            runs=args.runs / "solvers",
        )
    )


def policies(args: Args) -> None:
    """Policies that see the sample."""
    default = state_policies.Args()
    state_policies.main(
        state_policies.Args(
            args.cells(default.cells),
            single=(),
            budget=args.budget,
            runs=args.runs / "policies",
            out=args.results / state_policies.FILE,
        )
    )


def prices(args: Args) -> None:
    """What each way to find a list costs."""
    cells = args.cells(efficiency.Args().cells)
    out, largest = args.results / efficiency.FILE, round(args.budget * LARGEST)
    efficiency.main(efficiency.Args(cells, args.runs / "prices", largest, out))


def picture(args: Args) -> None:
    """README's picture of digits, from what the weights recorded."""
    if args.of("digits"):
        images.main(images.Args(("picture",), runs=args.runs / "images", out=args.results, page=args.out))


# The longest first, so that the last one does not run alone for long.
STAGES: tuple[Callable[[Args], None], ...] = (policies, lists, weights, mnist, prices, other_solvers)


def run_stage(stage: Callable[[Args], None], args: Args) -> float:
    """Run a stage in its own process, unless it has ended before; returns its seconds."""
    path = args.runs / f"{stage.__name__}.json"
    options = {"problems": list(args.problems), "budget": args.budget}
    if path.is_file():
        kept = json.loads(path.read_text("utf-8"))
        if kept["options"] == options:
            return kept["seconds"]
    torch.set_num_threads(1)
    began = time.perf_counter()
    stage(args)
    seconds = time.perf_counter() - began
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"options": options, "seconds": seconds}) + "\n")
    return seconds


def run(args: Args) -> Iterator[tuple[str, float]]:
    """Run all stages, some at once; yields the name and the seconds of each."""
    args.results.mkdir(parents=True, exist_ok=True)
    tasks = Tasks(args.workers)
    started = {stage.__name__: tasks.submit(run_stage, stage, args) for stage in STAGES}
    for name, seconds in started.items():
        yield name, seconds()


def main(args: Args) -> None:
    """Run all stages, score the lists on other noises, draw the picture, and write the pages."""
    began = time.perf_counter()
    for name, seconds in run(args):
        print(f"{name}: {seconds:,.0f} s", flush=True)
    records = args.results / RECORDS.name
    fresh = noises.Fresh(
        args.of(*noises.Fresh().problems), records=records, out=args.results / noises.FRESH_FILE
    )
    noises.main(fresh)
    picture(args)
    order.main(order.Args(results=args.results, oracles=args.runs / "order", workers=args.workers))
    report.main(report.Args(args.results, args.out))
    print(f"the core took {time.perf_counter() - began:,.0f} s")


if __name__ == "__main__":
    program = "python -m benchmarks.core"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
