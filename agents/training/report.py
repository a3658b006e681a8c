"""What a training leaves behind: the table, the pictures, the schedules, and last of all summary.json."""

from __future__ import annotations

import json
from typing import Any

from agents.training.training import Result
from art_env._util.files import atomic_path, write_text
from art_env.evaluation.plots import samples_figure, schedule_figure
from art_env.evaluation.results import format_table, write_csv


def report(result: Result) -> str:
    """The text that train.py prints at the end."""
    lines = [format_table(result.rows).rstrip("\n"), ""]
    lines.append(f"reference: own error {result.evaluator.reference_error():.2g} (steps of half the length)")
    for floor in result.evaluator.floor():
        lines.append(f"{floor.metric} of exact data against data: {floor.mean:.4g}")
    for oracle in result.oracles.values():
        lines.append(f"limit: the last restart of the search changed it by {oracle.meta['last_change']:.2%}")
    lines.append(
        f"training: {result.seconds:.0f} s, {result.model.num_timesteps:,} env steps, "
        f"{result.denoiser_evals:,} denoiser evaluations"
    )
    for schedule in result.schedules.values():
        lines.append("sigmas: " + " ".join(f"{s:.5g}" for s in schedule.sigmas))
    return "\n".join(lines)


def write(result: Result) -> None:
    """The files of the run folder; summary.json last, as the sign that the others are there."""
    run = result.run
    write_csv(result.rows, run.folder / "results.csv")
    for K, schedule in result.schedules.items():
        draw(result, K)
        schedule.save(run.path("schedule", K, ".json"))
    write_text(run.summary, json.dumps(summary(result), indent=2) + "\n")


def draw(result: Result, num_steps: int) -> None:
    """The pictures of one K."""
    evaluator, schedule, shown = result.evaluator, result.schedules[num_steps], result.shown(num_steps)
    title = (
        f"{evaluator.problem.name}, {evaluator.solver.name}, K = {num_steps}, {evaluator.nfe(num_steps)} NFE"
    )
    n = evaluator.problem.effort.pictures
    edm = next(s for s in shown if s.name == "edm")
    sets = {
        "exact": evaluator.exact_samples(n),
        schedule.name: evaluator.samples(schedule, n),
        "edm": evaluator.samples(edm, n),
    }
    pictures = {
        "schedule": schedule_figure(shown, title, highlight=schedule.name),
        "samples": samples_figure(sets, title),
    }
    for name, figure in pictures.items():
        with atomic_path(result.run.path(name, num_steps, ".png")) as temporary:
            figure.savefig(temporary)


def summary(result: Result) -> dict[str, Any]:
    """One number a metric, with several K one for each."""
    settings, budgets = result.training.settings, result.training.budgets

    def each(values: dict[int, Any]) -> Any:
        return (
            values[budgets[0]] if len(budgets) == 1 else {str(K): values[K] for K in budgets if K in values}
        )

    def found(name: str, metric: str) -> Any:
        own = {r.num_steps: r.mean for r in result.rows if r.schedule == name and r.metric == metric}
        return each(own) if own else None

    algorithm = settings.algorithm
    metrics = dict.fromkeys(["gap", "rmse", *(r.metric for r in result.rows if r.schedule == algorithm)])
    scores = {metric: found(algorithm, metric) for metric in metrics}
    if result.training.acts_on_samples:
        scores |= {f"policy_{metric}": found(f"{algorithm} policy", metric) for metric in metrics}
    return {
        "problem": result.evaluator.problem.name,
        "algorithm": algorithm,
        "solver": settings.solver,
        "terminal": result.schedule.terminal,
        "num_steps": budgets[0] if len(budgets) == 1 else list(budgets),
        "nfe": each({K: result.evaluator.nfe(K) for K in budgets}),
        "reward": settings.reward,
        "seed": settings.seed,
        **scores,
        "seconds": round(result.seconds, 2),
        "denoiser_evals": result.denoiser_evals,
        "env_steps": result.model.num_timesteps,
    }
