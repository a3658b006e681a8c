"""The tables of policies that see the sample."""

from __future__ import annotations

import math

from art_env.evaluation.results import write_csv
from benchmarks.state_policies import BEST, FEATURES, Line, page_tables, spread
from benchmarks.tables import END, LEADERBOARD_PAGE, RESULTS_PAGE, begin, stale, write_pages


def test_spread() -> None:
    assert spread([]) == ""
    assert spread([math.nan]) == ""
    assert spread([0.5]) == "0.500"
    assert spread([0.3, 0.1, 0.2]) == "0.200 (0.100 to 0.300)"


def test_tables_go_between_the_marks(tmp_path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for page, name in ((LEADERBOARD_PAGE, "policies"), (RESULTS_PAGE, "policies-5")):
        (tmp_path / page).write_text(f"before\n{begin(name)}\nold\n{END}\nafter\n")
    cell, label = ("mixture-1d", "heun", 5), f"policy, {' '.join(FEATURES)}"
    lines = [Line(*cell, BEST, 0, 9.0, 0.15, 1.0, 0.0)]
    lines += [Line(*cell, label, seed, 9.0, 0.1, 0.5 + seed / 10, 60.0, 2.0) for seed in range(3)]
    write_csv(lines, tmp_path / "state.csv", Line)
    tables = page_tables(tmp_path)
    assert stale(tables, tmp_path) == ["leaderboard.md: policies", "results.md: policies-5"]
    write_pages(tables, tmp_path)
    assert not stale(tables, tmp_path)
    for page in (LEADERBOARD_PAGE, RESULTS_PAGE):
        text = (tmp_path / page).read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert "0.600 (0.500 to 0.700)" in text
    assert "| mixture-1d, Heun |  | 0.600 (0.500 to 0.700) |  |  | 60 |" in text
    (tmp_path / RESULTS_PAGE).write_text(text.replace("0.600", "0.500"))
    assert stale(tables, tmp_path) == ["results.md: policies-5"]
