"""The results of a training as text and as files: table, pictures, schedule, and last of all summary.json."""

from __future__ import annotations

import json
from typing import Any

from agents.training.training import Result
from art_env._util.files import atomic_path, write_text
from art_env.adapters.counting import counting
from art_env.evaluation.plots import samples_figure, schedule_figure
from art_env.evaluation.results import format_table, write_csv


def report(result: Result) -> str:
    """The text that train.py prints at the end."""
    lines = [format_table(result.rows).rstrip("\n"), ""]
    lines.append(f"reference: own error {result.evaluator.reference_error():.2g} (steps of half the length)")
    for floor in result.evaluator.floor():
        lines.append(f"{floor.metric} of exact data against data: {floor.mean:.4g}")
    if result.oracle is not None:
        change = result.oracle.meta["last_change"]
        lines.append(f"oracle: the last restart of the search changed it by {change:.2%}")
    lines.append(
        f"training: {result.seconds:.0f} s, {result.env_steps:,} env steps, "
        f"{result.denoiser_evals:,} denoiser evaluations"
    )
    counted = ", ".join(f"{rows:,} {purpose}" for purpose, rows in result.evaluations.items() if rows)
    lines.append(f"rows through the network: {counted}")
    lines.append("sigmas: " + " ".join(f"{s:.5g}" for s in result.schedule.sigmas))
    if result.schedule.weights is not None:
        steps = (" ".join(f"{w:.3g}" for w in row) for row in result.schedule.weights[1:])
        lines.append("weights of the steps after the first: " + " | ".join(steps))
    return "\n".join(lines)


def write(result: Result) -> None:
    """The files of the run folder; summary.json last, as the sign that the others are there."""
    run = result.run
    write_csv(result.rows, run.folder / "results.csv")
    draw(result)
    result.schedule.save(run.schedule)
    write_text(run.summary, json.dumps(summary(result), indent=2) + "\n")


def draw(result: Result) -> None:
    """The pictures."""
    evaluator, schedule = result.evaluator, result.schedule
    K, n = schedule.num_steps, evaluator.problem.effort.pictures
    title = f"{evaluator.problem.name}, {evaluator.solver.name}, K = {K}, {evaluator.nfe(K)} NFE"
    copied = result.copied
    with counting(result.training.counter, "pictures"):
        sets = {"exact": evaluator.exact_samples(n), schedule.name: evaluator.samples(schedule, n)}
        for other in result.classical or [evaluator]:
            sets[f"{copied.name}, {other.solver.name}, {other.nfe(K)} NFE"] = other.samples(copied, n)
    pictures = {
        "schedule": schedule_figure(result.shown, title, highlight=schedule.name),
        "samples": samples_figure(sets, title),
    }
    for name, figure in pictures.items():
        with atomic_path(result.run.folder / f"{name}.png") as temporary:
            figure.savefig(temporary)


def summary(result: Result) -> dict[str, Any]:
    """One number a metric."""
    settings, K = result.training.settings, result.schedule.num_steps
    algorithm = result.schedule.name

    def of(name: str) -> dict[str, float]:
        return {row.metric: row.mean for row in result.rows if row.schedule == name}

    scores: dict[str, float | None] = {"ratio": None, "rmse": None, **of(algorithm)}
    if result.training.acts_on_samples:
        policy = {"ratio": None, "rmse": None, **of(f"{settings.algorithm} policy")}
        scores |= {f"policy_{metric}": value for metric, value in policy.items()}
    return {
        "problem": result.evaluator.problem.name,
        "algorithm": algorithm,
        "solver": settings.solver,
        "final_sigmas_type": result.schedule.final_sigmas_type,
        "num_steps": K,
        "nfe": result.evaluator.nfe(K),
        "reward": settings.reward,
        "seed": settings.seed,
        **scores,
        "seconds": round(result.seconds, 2),
        "denoiser_evals": result.denoiser_evals,
        "evaluations": {**result.evaluations, "total": sum(result.evaluations.values())},
        "env_steps": result.env_steps,
    }
