"""The tables of policies that see the sample."""

from __future__ import annotations

import math

from art_env.evaluation.results import write_csv
from benchmarks import state_policies
from benchmarks.state_policies import BEST, FEATURES, Line, page_tables, spread
from benchmarks.tables import END, POLICIES, begin, stale, write_pages


def test_spread() -> None:
    assert spread([]) == ""
    assert spread([math.nan]) == ""
    assert spread([0.5]) == "0.500"
    assert spread([0.3, 0.1, 0.2]) == "0.200 (0.100 to 0.300)"


def test_tables_go_between_the_marks(tmp_path, monkeypatch) -> None:
    pages = [tmp_path / "results.md"]
    monkeypatch.setattr(state_policies, "RESULTS_PAGE", pages[0])
    for page in pages:
        page.write_text(f"before\n{begin(POLICIES)}\nold\n{END}\nafter\n")
    cell, label = ("mixture-1d", "heun", 5), f"policy, {' '.join(FEATURES)}"
    lines = [Line(*cell, BEST, 0, 9.0, 0.15, 1.0, 0.0)]
    lines += [Line(*cell, label, seed, 9.0, 0.1, 0.5 + seed / 10, 60.0, 2.0) for seed in range(3)]
    write_csv(lines, tmp_path / "state.csv", Line)
    tables = page_tables(tmp_path / "state.csv")
    assert stale(tables) == ["results.md: policies"]
    write_pages(tables)
    assert not stale(tables)
    for page in pages:
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert "mixture-1d, Heun, K = 5" in text
        assert "0.600 (0.500 to 0.700)" in text
    pages[0].write_text(pages[0].read_text().replace("0.600", "0.500"))
    assert stale(tables) == ["results.md: policies"]
