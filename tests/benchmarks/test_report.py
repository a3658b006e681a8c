"""The report of the leaderboard, on small records made by hand."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules import Schedule
from art_env.schedules.registry import make_schedule
from benchmarks import board_tables, figures, leaderboard, noises, report, statistics
from benchmarks.records import Cell, FreshLine, Leaderboard, Record, amount, number
from benchmarks.tables import LEADERBOARD_PAGE, RESULTS_PAGE

ROOT = Path(__file__).parents[2]


def _record(
    method: str, ratio: float, seed: int = 0, cell: str = "mixture-1d:heun:5", **more: object
) -> dict:
    problem, solver, K = cell.split(":")
    fields = {"problem": problem, "solver": solver, "num_steps": int(K), "nfe": 2 * int(K) - 1}
    fields |= {"method": method, "seed": seed, "error": 0.1 * ratio, "ratio": ratio}
    return {**fields, "evaluations": 1000, "seconds": 2.0, **more}


def _write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def read(tmp_path):
    return lambda records: Leaderboard.read(_write(tmp_path / "records.jsonl", records))


def _curve(ratio: float) -> list[list[float]]:
    return [[0, 0, 50.0], [100, 200, 3 * ratio], [200, 400, 2 * ratio], [400, 800, ratio]]


def _small() -> list[dict]:
    """Two cells; the schedule search with four seeds, PPO in one cell only, a method that nobody knows."""
    records = [{"header": {"command": "make it", "versions": {"numpy": "2"}}}]
    for cell, shift in (("mixture-1d:heun:5", 0.0), ("digits:euler:3", 0.1)):
        records += [_record("oracle", 1.0, cell=cell), _record("edm", 5 + shift, cell=cell)]
        records += [_record("new one", 1.025 + shift, cell=cell, evaluations=0)]
        for seed, ratio in enumerate((1.01, 1.02, 1.03, 1.04)):
            more = {"env_steps": 400, "curve": _curve(ratio + shift)}
            records.append(_record("search", ratio + shift, seed, cell, evaluations=3_100_000, **more))
    return records + [_record("ppo", ratio, seed) for seed, ratio in enumerate((1.02, 1.5))]


def _page(folder: Path) -> str:
    return (folder / LEADERBOARD_PAGE).read_text()


def _block(text: str, name: str) -> str:
    return text.split(f"<!-- table:{name} -->")[1].split("<!-- end -->")[0].strip()


def _run(results: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.report", "--results", str(results), "--out", str(out), *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)


def test_summary(read):
    found = {s.method: s for s in statistics.summarize(read(_small()))}
    ours, edm, ppo, new = (found[m] for m in ("search", "edm", "ppo", "new one"))
    # Middle half of 1.01 1.02 1.03 1.04 1.11 1.12 1.13 1.14.
    assert ours.iqm == pytest.approx((1.03 + 1.04 + 1.11 + 1.12) / 4)
    assert ours.median == pytest.approx((1.025 + 1.125) / 2)
    assert ours.interval is not None
    assert ours.interval[0] < ours.iqm < ours.interval[1]
    assert math.isnan(ours.improvement)
    assert (edm.improvement, edm.interval, edm.iqm) == (1.0, None, pytest.approx(5.05))
    assert new.improvement == pytest.approx(0.5)
    assert (new.evaluations, ours.evaluations, new.seconds) == (0, 3_100_000, 2.0)
    # Only in the first cell: 1.02 loses to one, ties with one; 1.5 loses to all four.
    assert (ppo.cells, ppo.runs) == (1, 2)
    assert ppo.improvement == pytest.approx((1 + 0.5 + 4) / 8)
    assert ppo.ours == pytest.approx((1.02 + 1.03) / 2)
    assert min(found.values(), key=lambda s: s.iqm).method == next(iter(found)) == "oracle"


def test_misses(read):
    records = [_record("oracle", 1.0)]
    records += [
        _record("search", ratio, s) for s, ratio in enumerate((1.04, 1.06, 1.07))
    ]  # median above 1.05
    records += [_record("search", 1.14, s, "digits:heun:10") for s in range(3)]  # below 1.15
    records += [_record("search", 1.16, 0, "photos:heun:18"), _record("dp", 1.0, 0, "photos:heun:18")]
    records += [_record("edm", 1.065, 0), _record("dp", 1.2, 0), _record("cma", 1.14, 0, "digits:heun:10")]
    records += [_record("art", ratio, s) for s, ratio in enumerate((1.01, 1.02, 1.2))]
    made = read(records)
    assert [(str(c), g) for c, g in statistics.high_ratios(made, "search")] == [
        ("mixture-1d, heun, 5", 1.06),
        ("photos, heun, 18", 1.16),
    ]
    assert statistics.high_ratios(made, "art") == []
    # dp is beaten by all; the oracle and K = 18 are left out.
    assert [(str(d.cell), d.method, d.ours, d.theirs) for d in statistics.doubts(made)] == [
        ("digits, heun, 10", "cma", 1.14, 1.14),
        ("mixture-1d, heun, 5", "edm", 1.06, 1.065),
        ("mixture-1d, heun, 5", "art", 1.06, 1.02),
    ]
    assert [d.improvement for d in statistics.doubts(made)] == pytest.approx([0.5, 2 / 3, 1 / 3])
    text = board_tables.table_misses(made)
    assert "ART-RL 0 of 1 cells, schedule search 2 of 3 cells" in text
    assert "| cell | bar | CMA-ES | schedule search | ART-RL |" in text
    assert "| mixture-1d, heun, 5 | 1.05 | - | 1.060 (1.040 - 1.070) | 1.020 (1.010 - 1.200) |" in text
    assert "| photos, heun, 18 | 1.15 | - | 1.160 (1.160 - 1.160) | - |" in text
    lost = board_tables.table_lost(made)
    assert "lower than the schedule search's by more than 1% in 1 of 3 cells" in lost
    assert "| mixture-1d, heun, 5 | 1.060 | ART-RL | 1.020 |" in lost


def test_doubtful_cells_that_are_no_ties(read):
    records = [_record("search", ratio, s) for s, ratio in enumerate((1.04, 1.06, 1.07))]
    records += [_record("search", 1.10, 0, "digits:heun:5"), _record("edm", 1.09, 0, "digits:heun:5")]
    records += [_record("edm", 1.05, 0), _record("dp", 1.02, 0), _record("cma", 1.04, 0)]
    made = read(records)
    # Of three rivals the best; 1.10 against 1.09 is a tie.
    found = [(str(d.cell), d.method, d.ours, d.theirs) for d in statistics.beaten(statistics.doubts(made))]
    assert found == [("mixture-1d, heun, 5", "dp", 1.06, 1.02)]
    assert "| mixture-1d, heun, 5 | 1.060 | dynamic programming | 1.020 |" in board_tables.table_lost(made)


def test_searches_cell_by_cell(read):
    records = [_record("closed_form", 1.3), _record("gradient", 1.005)]
    records += [_record("art", ratio, s) for s, ratio in enumerate((1.0, 1.2, 1.01))]
    records += [_record("closed_form", 1.5, cell="digits:euler:3")]
    text = board_tables.table_searches(read(records))
    assert "| cell | closed form | gradients (training noises) | ART-RL |" in text
    assert "| digits, euler, 3 | **1.500** | - | - |" in text
    assert "| mixture-1d, heun, 5 | 1.300 | **1.005** | **1.010 (1.200)** |" in text


def test_fresh_noises(read):
    """A line a method; what is above the bar there is named, in the table and among the misses."""
    lines = [
        FreshLine("mixture-1d", "heun", 5, "search", 64, 1.2, 0.98, 0.9, 1.3),
        FreshLine("mixture-1d", "rk4", 5, "search", 64, 1.01, 1.0502, 1.0, 1.1),
        FreshLine("mixture-1d", "heun", 5, "art", 64, 1.1, 1.2, 1.1, 1.3),
    ]
    text = board_tables.table_fresh(lines)
    assert "| schedule search | 2 | 1.105 | 1.015 | 1 | mixture-1d, rk4, 5 (1.050) |" in text
    assert "| ART-RL | 1 | 1.100 | 1.200 | 1 | mixture-1d, heun, 5 (1.200) |" in text
    made = read([_record("search", 1.2), _record("search", 1.01, cell="mixture-1d:rk4:5")])
    misses = board_tables.finding_misses(made, lines).splitlines()
    bars, other = "is above the bar (1.05 up to K = 7, 1.15 beyond) at", "on five other sets of noises at"
    assert misses[0] == f"- **ART-RL** {bars} no cell; {other} mixture-1d, heun, 5 (1.200)."
    assert misses[1] == (
        f"- **schedule search** {bars} mixture-1d, heun, 5 (1.200); {other} mixture-1d, rk4, 5 (1.050)."
    )


def test_fresh_noises_of_a_cell():
    """The oracle on other noises: ratios from the errors of each set, of the run with the median ratio."""
    problem = replace(make_problem("mixture-1d"), num_noises=128)
    evaluators = [Evaluator(problem, "euler", (seed,), metrics=()) for seed in (1, 2)]
    grids = {"oracle": [80.0, 3.0, 0.6, 0.002], "search": [80.0, 2.0, 0.5, 0.002]}
    rows = [_record(name, 1.0, cell="mixture-1d:euler:3", sigmas=grid) for name, grid in grids.items()]
    worse = [_record("search", ratio, seed, "mixture-1d:euler:3") for seed, ratio in ((1, 0.9), (2, 1.1))]
    records = {
        name: [Record.parse(r) for r in rows + worse if r["method"] == name] for name in (*grids, "art")
    }
    (line,) = noises.measure_fresh(evaluators, records)
    oracle, ours = (
        [evaluator.rows(Schedule(grid, name))[0].mean for evaluator in evaluators]
        for name, grid in grids.items()
    )
    assert (line.method, line.noises, line.ratio) == ("search", 256, 1.0)
    assert line.fresh == pytest.approx(math.hypot(*ours) / math.hypot(*oracle), rel=1e-4)
    assert line.low == pytest.approx(min(a / b for a, b in zip(ours, oracle, strict=True)), rel=1e-4)
    assert line.high > line.low


def test_polish_ends_at_the_optimum(tmp_path):
    """On N(0, 1) with Euler there is one minimum, the arctan grid."""
    best = make_schedule("arctan", make_problem("gaussian-1d"), 3, "euler").sigmas.tolist()
    grids = {"oracle": best, "evolution": [best[0], 0.5 * best[1], 0.5 * best[2], best[3]]}
    records = [_record(name, 1.3, cell="gaussian-1d:euler:3", sigmas=grid) for name, grid in grids.items()]
    board = Leaderboard.read(_write(tmp_path / "records.jsonl", records))
    cell = Cell("gaussian-1d", "euler", 3)
    oracle = board.oracle(cell)
    assert oracle is not None
    (line,) = noises.measure_polish(noises.searched(board, cell), oracle)
    assert line.ratio == 1.3
    assert line.training > 1.01
    assert line.training_after == pytest.approx(1.0, abs=1e-4)
    assert line.ratio_after == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="cells = gaussian-1d:heun:3 must have evolution and oracle"):
        noises.searched(board, Cell("gaussian-1d", "heun", 3))


@pytest.mark.parametrize("text", ["mixture-1d", "mixture-1d:heun:five", "mixture-1d:heun:5:0"])
def test_a_bad_name_of_a_cell(text):
    with pytest.raises(ValueError, match="must be problem:solver:K"):
        Cell.parse(text)


def test_tables(tmp_path):
    _write(tmp_path / "leaderboard.jsonl", _small())
    pages = board_tables.page_tables(tmp_path)
    parts, short = pages[LEADERBOARD_PAGE], pages[RESULTS_PAGE]
    names = {"records", "iqm", "searches", "misses", "lost", "seconds", "ratios:mixture-1d", "ratios:digits"}
    assert set(parts) == names
    assert "16 records of 5 methods in 2 cells." in parts["records"]
    assert "command: make it; versions: numpy 2" in parts["records"]
    assert "| PPO | 1 of 2 | 2 | 1.260" in parts["iqm"]
    assert "Not every method is in every cell" in parts["iqm"]
    assert "| heun, ratio | K = 5 (9) |" in parts["ratios:mixture-1d"]
    assert "| **schedule search** | **1.025** |" in parts["ratios:mixture-1d"]
    assert "| EDM (rho = 7) | 5.00 |" in parts["ratios:mixture-1d"]
    assert "PPO" not in parts["ratios:digits"]
    assert "| problem, solver | schedule search | PPO |" in parts["seconds"]
    assert "| digits, euler | 2 (2) | - |" in parts["seconds"]
    assert short["lists-finding"].endswith("beyond): schedule search in 1 of 2 cells.")


def test_the_core_has_one_number_of_steps(read):
    cells = (
        "digits:euler:5",
        "digits:heun:5",
        "digits:heun:3",
        "mnist:heun:5",
        "mnist:euler:5",
        "digits:unipc_2:5",
    )
    records = [_record(m, 1.5, cell=c, seconds=4.0) for c in cells for m in ("closed_form", "oracle")]
    records += [
        _record("search", 1.0 + s / 10, s, c) for c in (*cells[:3], "mnist:euler:5") for s in range(2)
    ]
    made = read(records)
    columns = {problem: [str(c) for c in own] for problem, own in board_tables.core_cells(made).items()}
    assert columns == {"digits": ["digits, euler, 5", "digits, heun, 5"], "mnist": ["mnist, euler, 5"]}
    assert board_tables.table_core(made).splitlines() == [
        "| method | digits (euler, heun) | mnist (euler) | evaluations, digits | seconds, digits |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| closed form | 1.500 | 1.500 | 1k | 4 |",
        "| **schedule search** | **1.050** | **1.050** | **1k** | **2** |",
        "| oracle | 1.500 | 1.500 | 1k | 4 |",
    ]


def test_art_rl_is_a_rival_like_ppo(read):
    records = [r for r in _small() if r.get("method") != "ppo"]
    rival = [{**r, "method": "art", "ratio": 2 * r["ratio"]} for r in records if r.get("method") == "search"]
    made = read(records + rival)
    assert made.methods == ["edm", "search", "art", "oracle", "new one"]
    found = {s.method: s for s in statistics.summarize(made)}
    assert found["art"].improvement == 1.0
    assert "| ART-RL | 2.05 |" in board_tables.table_ratios(made, "mixture-1d")
    assert "| problem, solver | schedule search | ART-RL |" in board_tables.table_seconds(made)
    assert set(leaderboard.LEARNED) <= set(figures.COLORS)


def test_later_lines_count_and_doubtful_ratios_are_told(read):
    made = read([_record("edm", 3.0), _record("oracle", 1.0), _record("edm", 2.0), _record("dp", 0.9)])
    assert made.ratios(Cell("mixture-1d", "heun", 5), "edm").tolist() == [2.0]
    text = board_tables.table_records(made)
    assert "Records below the oracle: 1, the lowest dynamic programming with 0.9000" in text
    assert "The search is in 0 of 1 cells" in text
    assert "Records whose ratio is not" not in text
    stale = read([_record("oracle", 1.0), _record("edm", 2.0, error=0.3)])
    assert (
        "**Records whose ratio is not their error / the oracle's error: 1.**"
        in board_tables.table_records(stale)
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{broken", "line 3"),
        (json.dumps({"problem": "digits"}), "line 3: a record without solver, num_steps"),
        (json.dumps(_record("edm", -1.0)), "line 3: ratio = -1.0"),
        (json.dumps(_record("edm", 2.0, curve=[[1, 2]])), "line 3: curve"),
        (json.dumps(_record("edm", 2.0, error="much")), "line 3: could not convert"),
        ("[1]", "line 3: a record is an object"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, why):
    path = _write(tmp_path / "records.jsonl", [_record("edm", 2.0)])
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=why):
        Leaderboard.read(path)


def test_nothing_to_report(tmp_path):
    _write(tmp_path / "leaderboard.jsonl", [{"header": {}}])
    with pytest.raises(ValueError, match="no records"):
        report.main(report.Args(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_numbers():
    assert [number(v) for v in (1.0004, 2.345, 12.34, 1234.5, math.nan, math.inf)] == [
        "1.000",
        "2.35",
        "12.3",
        "1,234",
        "-",
        "inf",
    ]
    assert [amount(v) for v in (0, 850, 12_345, 999_999, 3.1e6, math.nan)] == [
        "0",
        "850",
        "12.3k",
        "1M",
        "3.1M",
        "-",
    ]


def test_missing_and_infinite_values(tmp_path):
    records = [
        _record("edm", math.inf, error=math.inf),
        _record("search", 1.2, evaluations=None, seconds=None),
    ]
    records += [_record("uniform", 40.0, 0, "gaussian-1d:euler:2")]
    _write(tmp_path / "leaderboard.jsonl", records)
    report.main(report.Args(tmp_path, tmp_path))
    text = _page(tmp_path)
    assert "| EDM (rho = 7) | 1 of 2 | 1 | inf | 1.200 | inf | 1.000 | 1k | 2 |" in text
    assert "The search is in 1 of 2 cells (runs to a cell: 1 in 1)." in text


def test_pages_figures_and_files(tmp_path, capsys):
    records = _write(tmp_path / "leaderboard.jsonl", _small())
    args = report.Args(tmp_path, tmp_path)
    report.main(args)
    assert f"wrote {tmp_path / LEADERBOARD_PAGE}" in capsys.readouterr().out
    text = _page(tmp_path)
    assert "| **schedule search** |" in text
    docs = tmp_path / "docs"
    for name in ("ratios", "heat", "steps"):
        assert (docs / "figures" / f"{name}.png").stat().st_size > 5000
        assert f"(figures/{name}.png)" in text
    with (docs / "leaderboard.csv").open(newline="") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert float(lines["search"]["iqm"]) == pytest.approx(1.075)
    assert (lines["edm"]["iqm_low"], lines["edm"]["improvement"], lines["ppo"]["cells"]) == ("", "1", "1")
    with (docs / "leaderboard_cells.csv").open(newline="") as file:
        cells = {(line["problem"], line["method"]): line for line in csv.DictReader(file)}
    assert len(cells) == 9
    assert cells["digits", "search"]["ratio"] == "1.125"
    assert cells["mixture-1d", "ppo"]["improvement"] == "0.6875"
    # Tables whose files are not there say so.
    assert _block(text, "solvers") == "No records."
    assert _block((tmp_path / RESULTS_PAGE).read_text(), "order") == "No records."

    # Again, with other records and a text of one's own.
    page = tmp_path / RESULTS_PAGE
    page.write_text(page.read_text().replace("## Where do we lose?", "## Mine"))
    report.check(args)
    _write(records, [*_small(), _record("edm", 7.0)])
    stale = "leaderboard.md: iqm, leaderboard.md: ratios:mixture-1d, leaderboard.csv.*steps.png"
    with pytest.raises(ValueError, match=f"stale: {stale}.*; run python -m benchmarks.report"):
        report.check(args)
    report.main(replace(args, figures=False))
    assert "## Mine" in page.read_text()
    assert "| EDM (rho = 7) | 7.00 |" in _block(_page(tmp_path), "ratios:mixture-1d")


def test_the_leaderboard_is_written_whole(tmp_path):
    _write(tmp_path / "leaderboard.jsonl", _small())
    args = report.Args(tmp_path, tmp_path, figures=False)
    report.main(args)
    page = tmp_path / LEADERBOARD_PAGE
    text = page.read_text()
    page.write_text(text.replace("do not edit it", "edited"))
    with pytest.raises(ValueError, match=r"stale: leaderboard.md, "):
        report.check(args)
    report.main(args)
    assert page.read_text() == text


def test_command_line_errors(tmp_path):
    (tmp_path / "leaderboard.jsonl").write_text("{broken\n")
    done = _run(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("python -m benchmarks.report: error:")
    assert "line 1" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_oracle_in_the_records_is_not_searched_again(tmp_path) -> None:
    sigmas = [3.0, 1.0, 0.0]
    records = _write(
        tmp_path / "r.jsonl", [_record("oracle", 1.0, cell="gaussian-1d:euler:2", sigmas=sigmas)]
    )
    args = leaderboard.Args(records=records, oracles=tmp_path / "oracles", runs=tmp_path / "runs")
    board = Leaderboard.read(records)
    runner = leaderboard.CellRunner(make_problem("gaussian-1d"), "euler", 2, args, board)
    assert runner.oracle.sigmas.tolist() == sigmas
    assert list(tmp_path.iterdir()) == [records]
    # Another cell has none there: it is searched and kept.
    found = leaderboard.CellRunner(make_problem("gaussian-1d"), "euler", 3, args, board).oracle
    assert (
        Schedule.load(tmp_path / "oracles" / "gaussian-1d__euler__3.json").num_steps == found.num_steps == 3
    )


def test_records_are_written_as_they_were_read(tmp_path):
    more = {"env_steps": 400, "curve": [[100, 200, 3.0], [400, 800, 1.5]], "sigmas": [3.0, 1.0, 0.0]}
    lines = [{"header": {"command": "make it"}}, _record("edm", 2.0, evaluations=0)]
    lines += [_record("search", 1.5, **more), _record("search", 1.25, 1)]
    path = _write(tmp_path / "records.jsonl", lines)
    before, board = path.read_text(), Leaderboard.read(path)
    board.add(board.records("edm")[0])
    assert path.read_text() == before

    board.add(replace(board.records("edm")[0], ratio=4.0))  # in the place of the older one
    cell = Cell("mixture-1d", "heun", 5)
    board.rebase(cell, 0.05)
    board.add(Record(Cell("digits", "heun", 5), 9, "edm", 0, 0.1, 1.0, 0, 1.0))
    again = Leaderboard.read(path)
    assert again.runs == board.runs
    assert again.ratios(cell, "search") == pytest.approx([3.0, 2.5])
    assert again.ratios(cell, "edm") == pytest.approx([4.0])
    assert [point[2] for point in again.records("search")[0].curve] == pytest.approx([6.0, 3.0])
    assert again.has(cell, "search", 1)
    again.drop(cell)
    assert Leaderboard.read(path).cells == [Cell("digits", "heun", 5)]
