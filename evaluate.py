"""Compare schedules on one problem: a table, and with --out a CSV file and pictures.

Example:
    python evaluate.py --problem mixture-1d --steps 5 10 --schedules edm dp limit --out results/mixture
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import tyro
from tqdm import tqdm

from art_env._util.cli import ModelOptions, parse, run_command
from art_env._util.files import atomic_path
from art_env.evaluation.evaluator import Scorer
from art_env.evaluation.fid import InceptionFID
from art_env.evaluation.plots import samples_figure
from art_env.evaluation.results import Row, format_table, write_csv
from art_env.problems.custom import model_problem
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules import Schedule
from art_env.schedules.registry import baseline, check_fit, check_spec, is_file_spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_PICTURES = 12
TOLERANCE = 0.01  # the reference's own error, relative to the smallest error that is reported


# One schedule, to be resampled, or one for each number of steps.
Family = list[Schedule]


@dataclass(frozen=True)
class Args(ModelOptions):
    """Score noise schedules: paired error to the exact solution, distance to the data, gap to the limit."""

    solver: str | None = None
    """euler, heun, rk4, dpmpp_2m or ipndm; stochastic: euler_maruyama or edm_churn (no rmse, no limit). By default
    heun (euler on gaussian-1d)."""
    steps: tuple[int, ...] = (3, 5, 7, 10)
    """Numbers of steps K."""
    schedules: tuple[str, ...] = ("uniform", "log_snr", "edm", "closed_form", "limit")
    """uniform, edm, edm:rho=3, edm_tuned, log_snr, cosine, arctan, arctan:c=0.5, closed_form, dp,
    dp:coefficient=1.15, gits, gits:coefficient=1.15, sdm, sdm:q=0.1, dmn, cma (extra [cma]), cma:budget=2000, limit,
    or the path of a schedule.json. The limit is a search: seconds on analytic problems, minutes a K on networks; the
    gap column needs it."""
    agents: tuple[str, ...] = ()
    """Trained agents (model.zip); each is distilled into a schedule. One of another problem acts on this one as it
    is, in this one's clock: no further training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seed sets; the table shows mean and standard deviation over them."""
    terminal: str | None = None
    """zero or sigma_min: where schedules end; by default the problem's own."""
    metrics: tuple[str, ...] | None = None
    """Beside the paired error: w2, sliced_w2 or frechet, where the problem has them; by default its first. Images
    have fid too (Inception features, extra [fid])."""
    fid_weights: Path | None = None
    """File of torch-fidelity's Inception weights; by default they are downloaded."""
    num_images: int = 2000
    """Samples per seed set for the metrics of images."""
    out: Path | None = None
    """Folder for results.csv, quality.png and, for images, samples_K.png for each K."""
    overwrite: bool = False
    """Replace an earlier results.csv in --out."""
    threads: Annotated[int, tyro.conf.arg(help="Torch threads.")] = 1
    device: str = "cpu"
    """cpu, cuda, cuda:0, ..."""


@dataclass
class Results:
    """What one evaluation found."""

    rows: list[Row] = field(default_factory=list)
    grids: dict[int, list[Schedule]] = field(default_factory=dict)
    floor: list[Row] = field(default_factory=list)
    reference_error: float = 0.0


def evaluate(args: Args) -> None:
    """Check everything, compute, print, write.

    Raises:
        ValueError, OSError: a setting or a file that cannot be used, before anything long has begun.
    """
    problem, scorer, learned = check(args)
    results = compute(args, problem, scorer, learned)
    report(args, results)
    if args.out is not None:
        write(args.out, scorer, results)


def check(args: Args) -> tuple[Problem, Scorer, list[Family]]:
    """The problem, its scorer, and the schedules that come from files and agents."""
    if args.threads < 1:
        raise ValueError(f"--threads {args.threads} must be at least 1")
    torch.set_num_threads(args.threads)
    if not args.steps or min(args.steps) < 1:
        raise ValueError(f"--steps {' '.join(map(str, args.steps))}: give whole numbers of at least 1")
    if not args.schedules and not args.agents:
        raise ValueError("nothing to score: give --schedules or --agents")
    problem = build_problem(args)
    solver = args.solver or ("euler" if problem.linear else "heun")
    for spec in args.schedules:
        check_spec(spec, problem, solver)
    for path in args.agents:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no agent file at {path!r}")
    metrics = problem.metrics[:1] if args.metrics is None else args.metrics
    fid = InceptionFID(args.fid_weights) if "fid" in metrics else None
    scorer = Scorer(problem, solver, args.seeds, args.num_images, metrics=metrics, fid=fid)
    if args.out is not None:
        check_out(args.out, args.overwrite)
    learned = [[Schedule.load(spec)] for spec in args.schedules if is_file_spec(spec)]
    learned += [load_and_distill(path, problem, args.steps, args.trust_pickle) for path in args.agents]
    return problem, scorer, with_own_names(learned, args.schedules)


def build_problem(args: Args) -> Problem:
    """The named problem, or one around the caller's model."""
    model = args.model_arguments()
    if model is None:
        return make_problem(args.problem, terminal=args.terminal, device=args.device)
    terminal = args.terminal or "zero"
    return model_problem(**model, trust_pickle=args.trust_pickle, terminal=terminal, device=args.device)


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds results already, or cannot be made or written; makes it."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file; give a folder")
    if (out / "results.csv").exists() and not overwrite:
        raise FileExistsError(f"--out {out} holds a results.csv already; use --overwrite or another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"--out {out} cannot be made ({error.strerror}); use another folder") from error
    try:
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise type(error)(f"--out {out} cannot be written ({error.strerror}); use another folder") from error


def load_and_distill(path: str, problem: Problem, steps: Sequence[int], trust_pickle: bool = False) -> Family:
    """The schedule of a trained agent, or if it was trained with several K that of each of ``steps``."""
    from agents.checkpoint import load_agent
    from agents.distill import distill

    policy, dynamics = load_agent(path, trust_pickle=trust_pickle, problem=problem)
    name = Path(path).stem if Path(path).stem != "model" else Path(path).resolve().parent.name
    budgets = sorted(set(steps)) if len(dynamics.budgets) > 1 else dynamics.budgets
    schedules = [distill(policy, dynamics, name=name, num_steps=K) for K in budgets]
    check_fit(schedules[0], problem)
    return schedules


def with_own_names(families: list[Family], taken: Sequence[str]) -> list[Family]:
    """The same schedules under names that no two families share."""
    used, out = set(taken), []
    for family in families:
        name, i = family[0].name, 2
        while name in used:
            name, i = f"{family[0].name} ({i})", i + 1
        used.add(name)
        out.append([Schedule(s.sigmas, name, s.meta) for s in family])
    return out


def compute(args: Args, problem: Problem, scorer: Scorer, learned: list[Family]) -> Results:
    """Every row of the table."""
    names = [s for s in dict.fromkeys(args.schedules) if not is_file_spec(s)]
    steps = sorted(set(args.steps))
    results = Results()
    total = len(steps) * (len(names) + len(learned)) + 1
    # disable=None: no bar in a log file.
    with tqdm(total=total, file=sys.stderr, leave=False, dynamic_ncols=True, disable=None) as bar:
        bar.set_description("reference")
        results.reference_error = scorer.reference_error()
        results.floor = scorer.floor()
        bar.update()
        for K in steps:
            grids: list[Schedule] = []
            for name in names:
                if name != "limit":
                    bar.set_description(f"{name} K={K}")
                    grids.append(baseline(name, problem, K, scorer.solver))
            for family in learned:
                schedule = next((s for s in family if s.num_steps == K), family[0])
                if schedule.num_steps != K:
                    note(f"note: {schedule.name} was made for K={schedule.num_steps}; resampled to K={K}")
                grids.append(schedule.resample(K))
            limit = None
            if "limit" in names:
                # Last, from the noises it is scored on and from all others: nothing can be below it.
                bar.set_description(f"limit K={K}")
                limit = baseline("limit", problem, K, scorer.solver, scorer.reference(), grids)
                if limit.meta["last_change"] > 1e-3:
                    note(f"warning: the limit at K={K} was still moving when it stopped")
                grids.append(limit)
            for schedule in grids:
                bar.set_description(f"{schedule.name} K={K}")
                results.rows += scorer.rows(schedule, limit)
                bar.update()
            results.grids[K] = grids
    return results


def note(text: str) -> None:
    """A line on stderr, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


def report(args: Args, results: Results) -> None:
    """Print the table and what it can be trusted for."""
    rows = [*results.floor, *results.rows]
    first = rows[-1]
    print(f"{first.problem}, {first.solver}, mean +- sd over {len(args.seeds)} seed set(s)")
    print(format_table(rows))
    if results.floor:
        print("floor: as many real samples against the real data")
    if "limit" in args.schedules:
        print("gap: rmse over that of the limit, on the first seed set")
    if len({row.terminal for row in results.rows}) > 1:
        print("note: some schedules end at 0 and some above it (column terminal)")
    errors = [row.mean for row in results.rows if row.metric == "rmse"]
    if not errors:
        print("a stochastic solver: distances between distributions, no paired error")
        return
    smallest = min(errors)
    if results.reference_error == 0:
        print("reference: exact")
        return
    share = results.reference_error / smallest if smallest > 0 else float("inf")
    print(f"reference: own error {results.reference_error:.2g} by halving its steps, ", end="")
    print(f"{100 * share:.2g}% of the smallest rmse")
    if share > TOLERANCE:
        print(f"warning: that is above {TOLERANCE:.0%}: do not trust the last digits of the smallest errors")


def write(out: Path, scorer: Scorer, results: Results) -> None:
    """The files of ``--out``; the CSV last, as the sign that the others are there."""
    save(draw_quality(results), out / "quality.png")
    names = ["quality.png"]
    if scorer.problem.is_image:
        for K, grids in results.grids.items():
            sets = {"exact": scorer.exact_samples(NUM_PICTURES)}
            sets |= {s.name: scorer.samples(s, NUM_PICTURES) for s in grids}
            title = f"{scorer.problem.name}, {scorer.solver.name}, K = {K}"
            names.append(f"samples_{K}.png")
            save(samples_figure(sets, title), out / names[-1])
    write_csv([*results.rows, *results.floor], out / "results.csv")
    print(f"wrote {', '.join([*names, 'results.csv'])} to {out}")


def save(figure: Figure, path: Path) -> None:
    """Write a picture in one piece."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_quality(results: Results) -> Figure:
    """Each metric against NFE, one line a schedule."""
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    metrics = list(dict.fromkeys(row.metric for row in results.rows))
    names = list(dict.fromkeys(row.schedule for row in results.rows))
    figure = Figure(figsize=(4.6 * len(metrics) + 1.8, 4.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    some = results.rows[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for i, name in enumerate(names):
            line = [r for r in results.rows if r.metric == metric and r.schedule == name]
            style = {"color": "black", "linewidth": 2.0} if name == "limit" else {"color": f"C{i % 10}"}
            panel.errorbar(
                [r.nfe for r in line],
                [r.mean for r in line],
                [r.sd if r.sd > 0 else 0.0 for r in line],
                marker="os^Dv<>Pphx"[i % 11],
                markersize=5,
                capsize=2,
                label=name,
                **style,
            )
        for row in (row for row in results.floor if row.metric == metric):
            panel.axhline(row.mean, color="0.5", linestyle=":", label="floor (real data)")
        panel.set_xscale("log")
        panel.set_yscale("log")
        ticks = sorted({r.nfe for r in results.rows})
        panel.set_xticks(ticks, [str(n) for n in ticks])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
        panel.set(xlabel="NFE", title=LABELS.get(metric, metric))
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    figure.suptitle(f"{some.problem}, {some.solver}")
    return figure


LABELS = {
    "rmse": "RMSE to the exact solution",
    "w2": "Wasserstein-2 to the data",
    "sliced_w2": "sliced Wasserstein-2 to the data",
    "frechet": "Frechet distance to the data",
    "fid": "FID to the data (Inception features)",
    "gap": "RMSE over that of the limit",
}


def main() -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    return run_command(
        "evaluate.py", lambda: evaluate(parse(Args, None, __doc__)), "interrupted; nothing was written"
    )


if __name__ == "__main__":
    sys.exit(main())
