"""Schedules by name: the text ``edm:rho=3`` to a ``Schedule`` for a problem, a solver and K."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from art_env._util.names import unknown_name
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, get_solver, require_deterministic
from art_env.problems.problem import Problem
from art_env.schedules.cma_es import evolve, require_cma
from art_env.schedules.gradient import gradient_search
from art_env.schedules.handcrafted import HANDCRAFTED, ZEROS, check_zero, edm, log_snr
from art_env.schedules.model_lists import MODEL_LISTS, TABLES
from art_env.schedules.optimal import closed_form, dynamic_programming, final_rmse
from art_env.schedules.published import dmn, gits, sdm
from art_env.schedules.schedule import Schedule, check_num_steps
from art_env.schedules.transfer import adapted, universal
from art_env.schedules.universal import LIST, STEPS, WEIGHTS, universal_table

# Where log-SNR ends on a problem that runs to 0, which it cannot reach (the paper's table 1). Others that need a
# lowest noise level above 0 have this one.
LOG_SNR_END = 1e-4
# Trajectories that the closed form, dynamic programming and others read.
PILOT_NOISES = 256


def check_fit(schedule: Schedule, problem: Problem) -> None:
    """Refuse a schedule made for another noise range than the problem's (see ``Evaluator.check``).

    Raises:
        ValueError: its first or last noise level is not the problem's.
    """
    end = problem.sigma_end
    if schedule.name == "log_snr" and problem.sigma_min == 0 and schedule.sigma_end > 0:
        end = LOG_SNR_END
    schedule.check_range(problem.sigma_max, end)


# Baselines by name

COMPUTED = (
    "edm_tuned",
    "closed_form",
    "dp",
    "gits",
    "sdm",
    "dmn",
    "cma",
    "universal",
    "universal_clock",
    "adapted",
    "oracle",
)
# Those with weights.
UNIVERSAL = ("universal", "universal_clock", "adapted")
# Those of COMPUTED that minimise an error to the exact trajectory of the same noise.
PAIRED = ("edm_tuned", "dp", "cma", "oracle")
BY_HAND: dict[str, Callable[..., Schedule]] = {**HANDCRAFTED, **MODEL_LISTS}
SCHEDULES = (*BY_HAND, *COMPUTED)
# Those that need a lowest noise level above 0.
ABOVE_ZERO = ("log_snr", "polyexponential", *MODEL_LISTS)
# Options that are one of some words; all others are positive numbers.
_CHOICES = {"zero": ZEROS, "table": tuple(TABLES)}
# name -> its options
_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(HANDCRAFTED, ("zero",)),
    "edm": ("rho", "zero"),
    "polyexponential": ("rho", "zero"),
    "arctan": ("c", "zero"),
    "edm_tuned": ("zero",),
    **dict.fromkeys(("simple", "beta", "sgm_uniform"), ("table",)),
    "dp": ("coefficient",),
    "gits": ("coefficient",),
    "sdm": ("q",),
    "cma": ("max_evaluations",),
    "universal_clock": ("noises",),
    "adapted": ("evaluations",),
}
# Options that count something, and the range of all.
WHOLE, OPTION_RANGE = ("max_evaluations", "noises", "evaluations"), (1e-6, 1e6)


class _Spec(NamedTuple):
    name: str
    options: dict[str, Any]
    file: Schedule | None


def check_spec(spec: str, problem: Problem, solver: str | Solver | None = None) -> None:
    """Refuse a text that ``make_schedule`` would refuse, without computing anything.

    Raises:
        ValueError: unknown name (suggests the nearest) or option, a file that is not a schedule for this problem, or
            a schedule that is computed from paired errors, which a stochastic solver does not have.
        FileNotFoundError: no such file.
        ImportError: ``cma`` without its extra.
    """
    _parse(spec, problem, solver)


def is_file_spec(spec: str) -> bool:
    """Whether ``make_schedule`` reads this text as a path."""
    return spec.endswith(".json") or "/" in spec or os.sep in spec or Path(spec).is_file()


def load_for(path: str, problem: Problem) -> Schedule:
    """The schedule of a file, for this problem.

    Raises:
        ValueError: it is no schedule, or one for another noise range; the file's name is in front.
        FileNotFoundError: no such file; says how to finish an unfinished run.
    """
    folder = Path(path).parent
    if not Path(path).exists() and (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no schedule file at {path!r}: the run is unfinished; finish it with train.py --resume {folder}"
        )
    schedule = Schedule.load(path)
    try:
        check_fit(schedule, problem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return schedule


def _parse(spec: str, problem: Problem, solver: str | Solver | None) -> _Spec:
    if is_file_spec(spec):
        schedule = load_for(spec, problem)
        return _Spec(schedule.name, {}, schedule)
    name, _, text = spec.partition(":")
    if name not in SCHEDULES:
        raise ValueError(f"{unknown_name('schedule', name, SCHEDULES)}, or the path of a schedule.json")
    options = _parse_options(spec, name, text)
    if "zero" in options:
        check_zero(problem.final_sigmas_type, options["zero"])
    if name == "cma":
        require_cma()
    if solver is not None and name in UNIVERSAL:
        check_universal(solver)
    if solver is not None and name in PAIRED:
        require_deterministic(solver, f"schedule {name!r}")
    return _Spec(name, options, None)


def _parse_options(spec: str, name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    known = _OPTIONS.get(name)
    for part in text.split(",") if text else []:
        key, _, value = part.partition("=")
        if known is None:
            raise ValueError(f"schedule {spec!r}: {name} has no options; write {name!r}")
        if key not in known:
            why, example = unknown_name("option", key, known), _CHOICES.get(known[0], ("2",))[-1]
            raise ValueError(f"schedule {spec!r}: {why}, as in {name}:{known[0]}={example}")
        if key in _CHOICES:
            if value not in _CHOICES[key]:
                raise ValueError(f"schedule {spec!r}: {unknown_name(key, value, _CHOICES[key])}")
            options[key] = value
            continue
        try:
            options[key] = float(value)
        except ValueError:
            raise ValueError(f"schedule {spec!r}: {key} = {value!r} is not a number") from None
        if not (math.isfinite(options[key]) and options[key] > 0):
            raise ValueError(f"schedule {spec!r}: {key} = {value} must be a positive number")
        low, high = OPTION_RANGE
        if not low <= options[key] <= high:
            raise ValueError(f"schedule {spec!r}: {key} = {value} must lie between {low:g} and {high:g}")
        if key in WHOLE and not options[key].is_integer():
            raise ValueError(f"schedule {spec!r}: {key} = {value} must be a whole number")
    return options


def make_schedule(
    spec: str,
    problem: Problem,
    num_steps: int,
    solver: str | Solver = "heun",
    reference: ReferenceFlow | None = None,
    starts: Iterable[Schedule] = (),
) -> Schedule:
    """A schedule from a text.

    Args:
        spec: ``uniform``, ``edm``, ``edm:rho=3``, ``log_snr``, ``cosine``, ``arctan`` (c: the data's
            standard deviation), ``arctan:c=0.5``, ``vp``, ``polyexponential:rho=2``, ``edm_tuned`` (the best rho for
            this solver and K), each of them with ``zero=replace`` too (K steps to ``sigma_min``, whose last level is
            then called 0), as in ``edm:rho=3,zero=replace``; ``simple``, ``beta``, ``sgm_uniform`` (a table of noise
            levels, ``beta:table=vp``), ``ays_sd15``, ``ays_sdxl``, ``ays_svd``; ``closed_form``, ``dp``,
            ``dp:coefficient=1.15``, ``gits``, ``gits:coefficient=1.15``, ``sdm``, ``sdm:q=0.1``, ``dmn``, ``cma``,
            ``cma:max_evaluations=2000`` (the final errors it may compute), ``universal`` and ``universal_clock``
            (``Schedule.universal``; ``universal_clock:noises=64``: trajectories that the model's clock is made of,
            16 unless given), ``adapted`` (to this model; ``adapted:evaluations=5000``, 1,000 unless given),
            ``oracle`` or the path of a schedule file, which is resampled if its K is another.
        problem: whose noise range it is for.
        num_steps: K.
        solver: what ``edm_tuned``, ``dp``, ``dmn``, ``cma`` and ``oracle`` are computed for.
        reference: exact trajectories for ``oracle``: those that it is scored on (``Evaluator.reference()``), so
            that nothing can be better there. Default the problem's own pool, which all others that are
            computed always read, as a learner does.
        starts: more grids for ``oracle`` to start from, beside the hand-crafted ones; those with another end
            are left out.

    Raises:
        ValueError, FileNotFoundError, ImportError: as ``check_spec``, or ``num_steps < 1``.
    """
    made = _make(spec, problem, check_num_steps(num_steps), solver, reference, starts)
    return replace(made, space=problem.space)


def _make(
    spec: str,
    problem: Problem,
    K: int,
    solver: str | Solver,
    reference: ReferenceFlow | None,
    starts: Iterable[Schedule],
) -> Schedule:
    """``make_schedule``, without the schedule's space."""
    name, options, file = _parse(spec, problem, solver)
    if file is not None:
        return file.resample(K, keep_zero=False)
    if name in BY_HAND:
        return _by_hand(name, problem, K, options)
    if name == "oracle":
        # The error has several local minima: the search starts from every named grid, so that none is better.
        named = [make_schedule(name, problem, K, solver) for name in (*BY_HAND, "edm_tuned")]
        usable = [s for s in (*starts, *named) if _fits(s, problem)]
        known = reference or problem.reference()
        effort = problem.effort
        return gradient_search(
            problem.denoiser,
            known,
            K,
            solver,
            starts=usable,
            num_searches=effort.oracle_searches,
            screen_noises=effort.oracle_screen_noises,
            with_dp=effort.oracle_with_dp,
        )
    if name == "dmn":
        return dmn(K, problem.sigma_floor, problem.sigma_max, final_sigmas_type=problem.final_sigmas_type)
    if name == "cma":
        known = problem.reference(
            problem.effort.cma_noises and min(problem.effort.cma_noises, problem.num_noises)
        )
        return evolve(
            problem.denoiser, known, K, solver, options.get("max_evaluations", problem.effort.cma_evaluations)
        )
    if name == "adapted":
        return adapted(problem, K, solver, **options)
    if name in UNIVERSAL:
        return universal(problem, K, solver, on_clock=name == "universal_clock", **options)
    pilot = problem.reference(min(problem.num_noises, PILOT_NOISES))
    if name == "edm_tuned":
        return edm_tuned(
            problem, pilot.first(problem.effort.rho_noises or PILOT_NOISES), K, solver, **options
        )
    if name == "closed_form":
        return closed_form(pilot, K)
    if name == "sdm":
        return sdm(pilot, K, **options)
    candidates, coefficient = max(64, 2 * K), options.get("coefficient", 1.0)
    if name == "gits":
        return gits(problem.denoiser, pilot, K, coefficient, candidates)
    return dynamic_programming(problem.denoiser, pilot, K, solver, candidates, coefficient)


def _by_hand(name: str, problem: Problem, num_steps: int, options: dict[str, Any]) -> Schedule:
    low, high, end = problem.sigma_min, problem.sigma_max, problem.final_sigmas_type
    if name == "log_snr" and low == 0 and not options:
        return log_snr(num_steps, LOG_SNR_END, high, final_sigmas_type="sigma_min")
    if low == 0 and name in ABOVE_ZERO:
        low = LOG_SNR_END
    if name == "arctan":
        options = {"c": float(problem.denoiser.sigma_data), **options}
    return BY_HAND[name](num_steps, low, high, final_sigmas_type=end, **options)


def check_universal(solver: str | Solver, num_steps: int = STEPS[0]) -> None:
    """Refuse a solver without weights, and numbers of steps that there is no table for.

    Raises:
        ValueError: says what to use instead.
    """
    rule = get_solver(solver)
    if not rule.num_weights:
        raise ValueError(
            f"universal schedules have weights, which solver = {rule.name!r} does not take; use "
            "solver='learned_2m' or 'learned_3m'"
        )
    universal_table(LIST, num_steps, WEIGHTS[0])


def edm_tuned(
    problem: Problem, pilot: ReferenceFlow, num_steps: int, solver: str | Solver, zero: str = ZEROS[0]
) -> Schedule:
    """EDM's family with the rho that has the least final error on the pilot noises (20 values, 1 to 100)."""
    rhos = [float(rho) for rho in np.geomspace(1.0, 100.0, 20)]
    low, high, end = problem.sigma_min, problem.sigma_max, problem.final_sigmas_type
    family = [edm(num_steps, low, high, rho, final_sigmas_type=end, zero=zero) for rho in rhos]
    errors = [final_rmse(problem.denoiser, pilot, s.sigmas, solver) for s in family]
    best = int(np.argmin(errors))
    name = "edm_tuned" if zero == ZEROS[0] else f"edm_tuned:zero={zero}"
    return Schedule(family[best].sigmas, name, {"rho": rhos[best]})


def _fits(schedule: Schedule, problem: Problem) -> bool:
    try:
        schedule.check_range(problem.sigma_max, problem.sigma_end)
    except ValueError:
        return False
    return True
