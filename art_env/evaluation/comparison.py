"""Schedules side by side: every one at every number of steps, and the pictures of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from art_env._util.files import atomic_path
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.plots import quality_figure, samples_figure
from art_env.evaluation.results import Score, format_table, write_csv
from art_env.schedules.registry import make_schedule
from art_env.schedules.schedule import Schedule

# The reference's own error, relative to the smallest error that is reported.
TOLERANCE = 0.01


@dataclass
class Comparison:
    """The results of a comparison.

    Attributes:
        evaluator: what scored it.
        rows: of every schedule.
        grids: the schedules by K.
        floor: rows of exact data against data.
        reference_error: how exact the exact trajectories are.
        notes: what the reader should know, such as which schedules were resampled.
    """

    evaluator: Evaluator
    rows: list[Score] = field(default_factory=list)
    grids: dict[int, list[Schedule]] = field(default_factory=dict)
    floor: list[Score] = field(default_factory=list)
    reference_error: float = 0.0
    notes: list[str] = field(default_factory=list)

    def report(self) -> str:
        """The table as text, and how far it can be trusted."""
        rows = [*self.floor, *self.rows]
        lines = [
            f"{rows[-1].problem}, {rows[-1].solver}, mean +- sd over {len(self.evaluator.seeds)} seed set(s)",
            format_table(rows),
        ]
        if self.floor:
            lines.append("floor: as many real samples against the real data")
        if any(row.metric == "ratio" for row in self.rows):
            lines.append("ratio: rmse over that of the oracle, on the first seed set")
        if len({row.final_sigmas_type for row in self.rows}) > 1:
            lines.append("note: some schedules end at 0 and some above it (column final_sigmas_type)")
        errors = [row.mean for row in self.rows if row.metric == "rmse"]
        if not errors:
            lines.append("a stochastic solver: distances between distributions, no paired error")
        elif self.reference_error == 0:
            lines.append("reference: exact")
        else:
            share = self.reference_error / min(errors) if min(errors) > 0 else float("inf")
            lines.append(
                f"reference: own error {self.reference_error:.2g} by halving its steps, "
                f"{100 * share:.2g}% of the smallest rmse"
            )
            if share > TOLERANCE:
                lines.append(
                    f"warning: that is above {TOLERANCE:.0%}: do not trust the last digits of the smallest errors"
                )
        return "\n".join(lines)

    def write(self, folder: Path) -> list[str]:
        """Write quality.png, samples_K.png for each K, and results.csv, the sign that the others are there.

        Returns:
            their names.
        """
        figures = {"quality.png": quality_figure(self.rows, self.floor)}
        n = self.evaluator.problem.effort.pictures
        for K, grids in self.grids.items():
            sets = {"exact": self.evaluator.exact_samples(n)}
            sets |= {s.name: self.evaluator.samples(s, n) for s in grids}
            title = f"{self.evaluator.problem.name}, {self.evaluator.solver.name}, K = {K}"
            figures[f"samples_{K}.png"] = samples_figure(sets, title)
        for name, figure in figures.items():
            with atomic_path(folder / name) as temporary:
                figure.savefig(temporary, dpi=150)
        write_csv([*self.rows, *self.floor], folder / "results.csv")
        return [*figures, "results.csv"]


def compare(
    evaluator: Evaluator,
    num_steps: Sequence[int],
    names: Sequence[str],
    given: Sequence[Schedule] = (),
    progress: Callable[[str], None] = lambda text: None,
    more: Callable[[int, Schedule | None], list[Score]] | None = None,
) -> Comparison:
    """Score schedules by name and given ones at every number of steps.

    Args:
        evaluator: problem, solver and held-out noises.
        num_steps: every K.
        names: texts that ``art_env.schedules.registry`` knows; with ``oracle`` among them there are ratios.
        given: further schedules, resampled to each K.
        progress: called with what has just been finished, ``len(num_steps) (len(names) + len(given)) + 1`` times.
        more: called with each K and its oracle (None: there is none), for further rows.

    Raises:
        ValueError, FileNotFoundError, ImportError: as ``make_schedule``.
    """
    found = Comparison(evaluator)
    found.reference_error = evaluator.reference_error()
    found.floor = evaluator.floor()
    progress("reference")
    for K in sorted(set(num_steps)):
        plain = [n for n in dict.fromkeys(names) if n != "oracle"]
        grids = [make_schedule(name, evaluator.problem, K, evaluator.solver) for name in plain]
        for schedule in given:
            if schedule.num_steps != K:
                note = f"note: {schedule.name} was made for K={schedule.num_steps}; resampled to K={K}"
                found.notes.append(note)
            grids.append(schedule.resample(K))
        oracle = None
        if "oracle" in names:
            # Last, from the noises it is scored on and from all others: nothing can be below it.
            oracle = make_schedule(
                "oracle", evaluator.problem, K, evaluator.solver, evaluator.reference(), grids
            )
            if oracle.meta["last_change"] > 1e-3:
                found.notes.append(f"warning: the oracle at K={K} was still moving when it stopped")
            grids.append(oracle)
        for schedule in grids:
            found.rows += evaluator.rows(schedule, oracle)
            progress(f"{schedule.name} K={K}")
        if more is not None:
            found.rows += more(K, oracle)
        found.grids[K] = grids
    return found


def with_own_names(schedules: Sequence[Schedule], taken: Sequence[str]) -> list[Schedule]:
    """The same schedules under names that no two share, nor one of ``taken``."""
    used, out = set(taken), []
    for schedule in schedules:
        name, i = schedule.name, 2
        while name in used:
            name, i = f"{schedule.name} ({i})", i + 1
        used.add(name)
        out.append(replace(schedule, name=name))
    return out
