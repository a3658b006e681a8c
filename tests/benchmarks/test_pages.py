"""Every table and measured sentence in README.md and docs/ is what the files of results say."""

from __future__ import annotations

import re

import pytest

from benchmarks import report
from benchmarks.records import ROOT
from benchmarks.tables import (
    README,
    RESULTS_PAGE,
    begin,
    block,
    loose_numbers,
    marked,
    merged,
    replace_tables,
    stale,
)


def test_no_number_is_stale(capsys) -> None:
    report.main(report.Args(check=True))
    assert "every number is what the files of results say" in capsys.readouterr().out


def test_a_stale_table_is_named(monkeypatch) -> None:
    text = (ROOT / README).read_text("utf-8")
    assert begin("headline") in text
    known = report.page_tables(report.RESULTS)
    changed = merged([known, {README: {"headline": "another table"}}])
    monkeypatch.setattr(report, "page_tables", lambda _: changed)
    with pytest.raises(ValueError, match=r"stale: README.md: headline; run python -m benchmarks.report"):
        report.check(report.Args())
    assert (ROOT / README).read_text("utf-8") == text


def test_a_mark_that_nobody_knows(monkeypatch) -> None:
    known = report.page_tables(report.RESULTS)
    fewer = {name: text for name, text in known[RESULTS_PAGE].items() if name != "order"}
    with pytest.raises(ValueError, match=r"results.md: no table 'order'; there are: "):
        report.texts({RESULTS_PAGE: fewer}, report.RESULTS, ROOT)


def test_numbers_outside_the_marks_are_found() -> None:
    text = "K = 5, 2 cells, `0.5`, [x](a-1.5.md), learned_2m; better by 3.5 and 12%.\n" + block("a", "0.123")
    assert loose_numbers(text) == ["3.5", "12%"]
    for page, facts in report.MEASURED.items():
        assert set(loose_numbers((ROOT / page).read_text("utf-8"))) == facts


def test_only_the_text_between_marks_changes() -> None:
    page = "Mine \\1.\n<!-- table:iqm -->\nold\n<!-- end -->\nAlso mine.\n" + block("other", "kept")
    filled = replace_tables(page, {"iqm": r"new \1"})
    assert filled == "Mine \\1.\n" + block("iqm", r"new \1") + "\nAlso mine.\n" + block("other", "kept")
    assert replace_tables(filled, {"iqm": r"new \1"}) == filled
    assert replace_tables(filled, {}, "gone") == "Mine \\1.\n" + block(
        "iqm", "gone"
    ) + "\nAlso mine.\n" + block("other", "gone")


def test_a_mark_without_its_end() -> None:
    with pytest.raises(ValueError, match="table:iqm --> has no <!-- end -->"):
        marked("<!-- table:iqm -->\n<!-- table:misses -->\n<!-- end -->\n")


def test_a_page_that_is_not_there_is_stale_nowhere(tmp_path) -> None:
    (tmp_path / README).write_text(block("headline", "x"))
    assert stale({README: {"headline": "x"}}, tmp_path) == []
    assert stale({README: {"headline": "y"}}, tmp_path) == ["README.md: headline"]


def test_the_results_are_two_pages() -> None:
    text = (ROOT / RESULTS_PAGE).read_text("utf-8")
    assert len(text.splitlines()) <= 165
    assert all(heading.endswith("?") for heading in re.findall(r"^## (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```[\s\S]*?```", "", text)):
        if link.startswith(("http", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{page}: {link}"


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
