"""The tables of the second control."""

from __future__ import annotations

import math

from benchmarks.records import Cell, Leaderboard, Record
from benchmarks.second_control import (
    FrechetLine,
    best_classical,
    digits,
    frechet_table,
    short_table,
    spread,
    table,
    table_by_steps,
)


def record(cell: Cell, method: str, seed: int, error: float) -> Record:
    weights = ((0.0,), *(((0.5,),) * (cell.num_steps - 1))) if cell.solver == "learned_2m" else ()
    return Record(
        cell, 5, method, seed, error, 1.0, 0, 0.0, sigmas=(3.0, 2.0, 1.0, 0.5, 0.2, 0.0), weights=weights
    )


def boards(tmp_path) -> tuple[Leaderboard, Leaderboard]:
    cell = Cell("digits", "learned_2m", 5)
    found = [record(cell, "oracle", 0, 0.05)]
    found += [record(cell, "search", seed, 0.055 + seed / 1000) for seed in range(3)]
    classical = [
        record(cell._replace(solver=solver), "oracle", 0, error)
        for solver, error in (("euler", 0.13), ("dpmpp_2m", 0.1), ("heun", 0.08))
    ]
    return Leaderboard(tmp_path / "found.jsonl", found), Leaderboard(tmp_path / "classical.jsonl", classical)


def test_tables(tmp_path) -> None:
    found, classical = boards(tmp_path)
    text = table(found, classical)
    row = text.splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "digits", "5", "0.100", "0.0800", "learned_2m", "0.0500", "-", "-", "0.0560 (0.0550 to 0.0570)", "-", "0.56",
    ]  # fmt: skip
    short = short_table(found, classical)
    assert "| digits | 0.100 | (0.0800) | - | - | 0.0560 (0.0550 to 0.0570) | - | 0.0500 | - |" in short
    row = table_by_steps(found, classical).splitlines()[-1]
    assert row == "| 5 | - | - | 1.12 to 1.12 | - | 0.56 to 0.56 |"


def test_the_best_of_those_that_were_measured(tmp_path) -> None:
    _, classical = boards(tmp_path)
    assert best_classical(classical, Cell("digits", "learned_2m", 5)) == (0.1, 0.08)
    best, heun = best_classical(classical, Cell("digits", "learned_2m", 7))
    assert math.isnan(best)
    assert math.isnan(heun)


def test_numbers() -> None:
    assert digits(math.nan) == "-"
    assert digits(0.0104) == "0.0104"
    assert spread([]) == "-"
    assert spread([0.2]) == "0.200"


def test_frechet_table() -> None:
    lines = [FrechetLine("digits", "learned_2m", 5, "search", seed, 5, 0.1 + seed / 10) for seed in range(2)]
    assert "| learned_2m | schedule search | 5 | 0.150 (0.100 to 0.200) |" in frechet_table(lines)


def test_records_keep_weights(tmp_path) -> None:
    found, _ = boards(tmp_path)
    found.add(record(Cell("digits", "learned_2m", 5), "art", 0, 0.06))
    again = Leaderboard.read(found.path)
    schedule = again.records("art")[0].schedule()
    assert schedule.solver == "learned_2m"
    assert schedule.weights is not None
    assert schedule.weights[:, 0].tolist() == [0.0, 0.5, 0.5, 0.5, 0.5]
