"""The core of the benchmarks: from an empty folder to its pages."""

from __future__ import annotations

import pytest

from benchmarks import core
from benchmarks.lengths import shorter
from benchmarks.records import RECORDS, RESULTS, ROOT, Cell, Leaderboard
from benchmarks.second_control import FOUND
from benchmarks.tables import LEADERBOARD_PAGE, README, RESULTS_PAGE, stale

OPTIONS = {"problem": "gaussian-1d", "solver": "euler", "num_steps": 4, "seed": 3}


def test_a_part_of_a_training() -> None:
    whole = shorter(1, "art", **OPTIONS)
    assert whole == OPTIONS
    assert shorter(0.5, "art", **OPTIONS) == {**OPTIONS, "total_timesteps": 256 * 300 * 4 // 2}
    assert shorter(1e-9, "art", **OPTIONS)["total_timesteps"] == 256 * 4
    with pytest.raises(ValueError, match="budget = 0 must be above 0; 1 is the default length"):
        shorter(0, "art", **OPTIONS)


def test_cells_of_some_problems(tmp_path) -> None:
    args = core.Args(tmp_path, problems=("digits",))
    assert args.of("mixture-1d", "digits") == ("digits",)
    assert args.cells(("digits:heun:5", "digits:heun:10", "mixture-1d:heun:5")) == ("digits:heun:5",)


def test_a_stage_that_has_ended_is_not_run_again(tmp_path) -> None:
    args, runs = core.Args(tmp_path, problems=("digits",)), []

    def stage(given: core.Args) -> None:
        runs.append(given.budget)
        if len(runs) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        core.run_stage(stage, args)
    seconds = core.run_stage(stage, args)
    assert core.run_stage(stage, args) == seconds
    assert len(runs) == 2
    core.run_stage(stage, core.Args(tmp_path, problems=("digits",), budget=0.5))  # other trainings
    assert runs == [1.0, 1.0, 0.5]


def test_what_follows_the_stages(tmp_path, monkeypatch) -> None:
    """Other noises, the order and the pages, from a few of the project's own records."""
    args = core.Args(tmp_path, problems=("mixture-1d",))
    args.results.mkdir()
    cells = {RECORDS.name: Cell("mixture-1d", "euler", 5), FOUND: Cell("mixture-1d", "learned_2m", 5)}
    for name, cell in cells.items():
        lines = [record.to_json() for record in Leaderboard.read(RESULTS / name).records(cell=cell)]
        (args.results / name).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(core, "run", lambda _: iter([("lists", 1.0)]))
    core.main(args)
    text = (tmp_path / RESULTS_PAGE).read_text("utf-8")
    assert "| method | mixture-1d (euler) |" in text
    assert "| mixture-1d | 0.380 | (-) | 0.0414" in text
    assert "No records." in text  # nothing has trained policies
    assert "| schedule search | 1 | 1.000 |" in (tmp_path / LEADERBOARD_PAGE).read_text("utf-8")
    assert not stale(core.report.page_tables(args.results), tmp_path)


@pytest.mark.slow
def test_from_an_empty_folder_to_the_pages(tmp_path) -> None:
    args = core.Args(tmp_path, problems=("mixture-1d",), workers=1, budget=0.01)
    core.main(args)
    board = Leaderboard.read(args.results / "leaderboard.jsonl")
    assert {m for m in core.CORE_METHODS if "zero" not in m} == set(board.methods)
    text = (tmp_path / RESULTS_PAGE).read_text("utf-8")
    assert "| method | mixture-1d |" in text
    assert (tmp_path / LEADERBOARD_PAGE).is_file()
    assert (tmp_path / README).is_file()
    assert {"efficiency.png", "ratios.png"} <= {p.name for p in (tmp_path / "docs" / "figures").iterdir()}
    assert not stale(core.report.page_tables(args.results), tmp_path)
    # Nothing of the project was touched.
    assert ROOT.resolve() not in tmp_path.resolve().parents
