"""The figure of sample efficiency: evaluations are counted alike, and runs in the file are not made again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from art_env.problems.library import make_problem
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule
from benchmarks import efficiency
from benchmarks.efficiency import Line, Plan
from benchmarks.records import Cell

CELL = Cell("gaussian-1d", "heun", 3)
NFE = 5


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _line(method: str, budget: int, ratio: float, seed: int = 0, clock: str = "wall") -> Line:
    return Line(*CELL, method, budget, 16, seed, budget + seed, ratio, 1.5, clock)


@pytest.mark.parametrize(
    "method", ["search", "evolution", "art", "ppo", "ppo:noise_groups=16", "cma", "gradient"]
)
def test_every_row_of_the_denoiser_is_counted(method: str, monkeypatch) -> None:
    problem, called = make_problem(CELL.problem), 0
    problem.reference()
    make_schedule("closed_form", problem, 3, "heun")  # integrates exact trajectories, once
    model = type(problem.denoiser)
    plain = model.__call__

    def counting(self, x, sigma):
        nonlocal called
        out = plain(self, x, sigma)
        called += len(x) * (3 if out.requires_grad else 1)
        return out

    monkeypatch.setattr(model, "__call__", counting)
    monkeypatch.setattr(efficiency, "CMA_ERRORS", 20)
    monkeypatch.setattr("benchmarks.running.distill", lambda *_: None)  # it is no part of the training
    rows = 64 if method in efficiency.LEARNERS else 16
    done = efficiency.run(problem, CELL, method, 64 * NFE * 10, rows, 0)
    assert done.evaluations == called
    if method == "search":  # may converge before
        assert 0 < done.evaluations <= 64 * NFE * 10
    elif method in efficiency.LEARNERS:
        assert done.evaluations == pytest.approx(64 * NFE * 10, rel=0.25)
    if method == "cma":
        assert done.evaluations == 20 * 16 * NFE


def test_a_backward_pass_counts_two_more() -> None:
    problem = make_problem(CELL.problem)
    denoiser = efficiency.CountedDenoiser(problem.denoiser)
    noises = efficiency.some_noises(problem.reference(), 8, 0)
    final_rmse(denoiser, noises, make_schedule("edm", problem, 3, "heun").sigmas, "heun")
    assert denoiser.evaluations == 8 * NFE
    denoiser(noises.start, torch.tensor(2.0, requires_grad=True))
    assert denoiser.evaluations == 8 * NFE + 3 * 8


def test_the_seed_chooses_the_noises() -> None:
    reference = make_problem(CELL.problem).reference()
    first, again, other = (efficiency.some_noises(reference, 8, seed) for seed in (0, 0, 1))
    assert torch.equal(first.start, again.start)
    assert not torch.equal(first.start, other.start)
    with pytest.raises(ValueError, match=r"rows = 10000000, but there are .*; use fewer"):
        efficiency.some_noises(reference, 10_000_000, 0)


def test_runs_in_the_file_are_not_made_again(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(efficiency, "PLANS", {CELL: (Plan("cma", {500: 5, 1000: 8}, 2),)})
    monkeypatch.setattr(efficiency, "CMA_ERRORS", 20)
    args = efficiency.Args((CELL.option,), tmp_path, out=tmp_path / "e.csv")
    efficiency.main(args)
    lines = efficiency.read(args.out)
    assert [(line.method, line.budget, line.seed) for line in lines] == [
        ("closed_form", 0, 0),
        *(("cma", budget, seed) for budget in (500, 1000) for seed in (0, 1)),
    ]
    assert all(line.ratio < lines[0].ratio for line in lines[1:])
    assert "| CMA-ES | " in capsys.readouterr().out
    monkeypatch.setattr(efficiency, "make_problem", lambda _: pytest.fail("ran again"))
    efficiency.main(args)
    assert efficiency.read(args.out) == lines
    args.cells = ("digits:euler:5",)
    with pytest.raises(
        ValueError, match="cells: no plan for 'digits:euler:5'; there are: gaussian-1d:heun:3"
    ):
        efficiency.main(args)


def test_bands_and_table() -> None:
    lines = [_line("closed_form", 0, 2.0), *(_line("art", 1000, 1.1 + s / 10, s) for s in range(3))]
    lines += [_line("art", 100, 1.9), _line("cma", 1000, 1.01, clock="processor")]
    band = efficiency.bands(lines)["art"]
    assert [list(part) for part in band] == [
        [100, 1001],
        [1.9, pytest.approx(1.1)],
        [1.9, pytest.approx(1.2)],
        [1.9, pytest.approx(1.3)],
    ]
    assert efficiency.table(lines).splitlines() == [
        "| method | 100 | 1k | seconds |",
        "| --- | ---: | ---: | ---: |",
        "| CMA-ES | - | 1.010 (1.010 to 1.010) | 1.5 |",
        "| ART-RL | 1.900 (1.900 to 1.900) | 1.200 (1.100 to 1.300) | 1.5 (wall) |",
    ]
    figure = efficiency.figure(lines)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["CMA-ES", "ART-RL", "closed form"]


def test_what_it_takes_to_come_near_the_oracle(monkeypatch) -> None:
    monkeypatch.setattr(efficiency, "NEAR", {CELL.problem: 1.01})
    lines = [
        _line("cma", 100, 1.2),
        _line("cma", 1000, 1.004),
        _line("cma", 1000, 1.02, 1),
        _line("cma", 5000, 1.0),
    ]
    assert efficiency.price(lines, 1.02) == (1000.5, 1.5, "wall")
    assert efficiency.price(lines, 1.01) == (5000, 1.5, "wall")
    assert efficiency.price(lines[:1], 1.01) == (math.inf, math.inf, "wall")
    text = efficiency.cheapest_table([*lines, _line("art", 100, 1.5), _line("closed_form", 0, 2.0)])
    assert text.splitlines()[2:] == ["| CMA-ES | 5k | 1.5 (wall) |", "| ART-RL | not reached | not reached |"]
