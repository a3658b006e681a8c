"""How pages are written: tables, and the marks between which a page has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from art_env._util.files import write_text
from benchmarks.records import ROOT, number

README, RESULTS_PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
GENERAL_PAGE = ROOT / "docs" / "generalisation.md"
# For each page the tables that a command writes into it, by the name in their marks.
Pages = Mapping[Path, Mapping[str, str]]

END = "<!-- end -->"
# Tables that commands of their own write; the page of ``benchmarks.report`` has them too.
POLICIES, FEATURES_TABLE, HEADLINE = "policies", "which-features", "headline"
SECOND, SECOND_SHORT, SECOND_FRECHET = "second-control", "second-control-5", "second-control-frechet"
UNIVERSAL_LIST_TABLE, UNIVERSAL_CLOCK_TABLE, MANY_MODELS = "universal-list", "universal-clock", "many-models"
SHAPE_TABLE = "where-data-take-shape"
RESAMPLED, FEW_SHOT = "resampled-weights", "few-shot"
UNIVERSAL_TABLES = (UNIVERSAL_LIST_TABLE, UNIVERSAL_CLOCK_TABLE, MANY_MODELS, SHAPE_TABLE, FEW_SHOT)
OTHERS = (POLICIES, FEATURES_TABLE, SECOND, SECOND_SHORT, SECOND_FRECHET, *UNIVERSAL_TABLES, RESAMPLED)
_BEGIN = r"<!-- table:([^\s>]+) -->"
_BLOCK = re.compile(_BEGIN + rf"\n(?:(?!<!-- table:)[\s\S])*?{END}")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; the first ``left`` columns are flush left."""
    marks = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def median_and_range(values: Sequence[float] | np.ndarray, to: str = "to") -> str:
    """Write ``median (low to high)``."""
    middle, low, high = (number(float(of(values))) for of in (np.median, np.min, np.max))
    return f"{middle} ({low} {to} {high})"


def begin(name: str) -> str:
    """The mark before a table."""
    return f"<!-- table:{name} -->"


def block(name: str, table: str) -> str:
    """A table between its marks."""
    return f"{begin(name)}\n\n{table}\n\n{END}"


def marked(text: str) -> list[str]:
    """The names of the tables that a page has marks for.

    Raises:
        ValueError: a mark without its end.
    """
    names = re.findall(_BEGIN, text)
    closed = [match[1] for match in _BLOCK.finditer(text)]
    for name in names:
        if closed.count(name) != names.count(name):
            raise ValueError(f"{begin(name)} has no {END} after it")
    return names


def replace_tables(text: str, tables: Mapping[str, str]) -> str:
    """Replace what is between the marks of these tables; all else is kept."""
    return _BLOCK.sub(lambda m: block(m[1], tables[m[1]]) if m[1] in tables else m[0], text)


def write_pages(pages: Pages) -> None:
    """Write the tables into their pages."""
    for path, tables in pages.items():
        write_text(path, replace_tables(path.read_text("utf-8"), tables))


def stale(pages: Pages) -> list[str]:
    """``PAGE: TABLE`` for every table that a page does not have as it should."""
    found = []
    for path, tables in pages.items():
        text = path.read_text("utf-8")
        names = [name for name in marked(text) if name in tables]
        found += [f"{path.name}: {name}" for name in names if block(name, tables[name]) not in text]
    return found
