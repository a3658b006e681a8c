"""Schedules and schedule files of odd values: a clear error, or a schedule that is one."""

from __future__ import annotations

import json

import numpy as np
from fuzzing import HOW_MANY, NUMBERS, ODD, one_line, run
from hypothesis import strategies as st

from art_env.schedules import Schedule, edm

BODY = json.loads(Schedule([80.0, 3.0, 0.5, 0.0], "mine", {"solver": "heun"}).to_json())
WEIGHTED = json.loads(Schedule([80.0, 3.0, 0.0], weights=[[0.0], [0.5]], space="flow").to_json())
LEVELS = st.one_of(
    st.lists(st.floats(0, 1e9), min_size=2, max_size=6, unique=True).map(lambda v: sorted(v, reverse=True)),
    st.lists(st.one_of(NUMBERS, st.booleans(), st.text(max_size=3), st.none()), max_size=5),
    ODD,
)
CHANGES = st.dictionaries(st.sampled_from([*WEIGHTED, "terminal"]), st.one_of(ODD, LEVELS), max_size=3)
TEXTS = st.one_of(
    st.builds(lambda body, change: json.dumps(body | change), st.sampled_from([BODY, WEIGHTED]), CHANGES),
    st.integers(0, 200).map(lambda n: json.dumps(BODY)[:n]),
    st.text(),
)


def check_schedule(schedule: Schedule) -> None:
    """It descends, and comes back from its file as it is."""
    assert np.isfinite(schedule.sigmas).all()
    assert (np.diff(schedule.sigmas) < 0).all()
    assert schedule.sigma_end >= 0
    back = Schedule.from_json(schedule.to_json())
    assert back == schedule
    assert (back.name, back.meta, back.space) == (schedule.name, schedule.meta, schedule.space)


def check_file(text: str) -> None:
    try:
        schedule = Schedule.from_json(text)
    except ValueError as error:
        one_line(error)
        return
    check_schedule(schedule)
    body = json.loads(text)
    assert all(type(s) in (int, float) for s in body["sigmas"])
    assert body.get("final_sigmas_type", schedule.final_sigmas_type) == schedule.final_sigmas_type
    assert type(body["version"]) is int


@HOW_MANY
def test_files(examples):
    run(check_file, TEXTS, examples)


def check_arguments(given: tuple) -> None:
    try:
        schedule = Schedule(*given)
    except ValueError as error:
        one_line(error)
        return
    assert not isinstance(given[0], (str, bool))
    if json_or_none(schedule.meta) is not None:
        check_schedule(schedule)


def json_or_none(meta: object) -> str | None:
    try:
        return json.dumps(meta, allow_nan=False)
    except ValueError:
        return None


@HOW_MANY
def test_arguments(examples):
    names = st.one_of(st.text(), ODD)
    spaces = st.one_of(st.sampled_from(["ve", "flow"]), ODD)
    weights = st.one_of(st.none(), ODD, st.lists(st.lists(NUMBERS, max_size=3), max_size=4))
    run(check_arguments, st.tuples(LEVELS, names, st.one_of(st.just({}), ODD), weights, spaces), examples)


def check_ramp(given: tuple) -> None:
    num_steps, low, high, rho = given
    try:
        schedule = edm(num_steps, low, high, rho)
    except ValueError as error:
        one_line(error)
        return
    assert (schedule.num_steps, schedule.sigma_max) == (num_steps, high)
    check_schedule(schedule)


@HOW_MANY
def test_ramps(examples):
    steps = st.one_of(st.integers(1, 9), ODD)
    run(check_ramp, st.tuples(steps, NUMBERS, NUMBERS, st.one_of(NUMBERS, st.just(7.0))), examples)
