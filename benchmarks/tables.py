"""How pages are written: tables, and the marks between which a page has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from art_env._util.files import write_text
from benchmarks.records import ROOT, number

# Pages, relative to the folder that they are written into.
README, RESULTS_PAGE = Path("README.md"), Path("docs/results.md")
LEADERBOARD_PAGE, EXPERIMENTS_PAGE = Path("docs/leaderboard.md"), Path("docs/experiments.md")
GENERAL_PAGE, IMAGES_PAGE = Path("docs/generalisation.md"), Path("docs/images.md")
# For each page the tables, or sentences, that the files of results make, by the name in their marks.
Pages = Mapping[Path, Mapping[str, str]]

END = "<!-- end -->"
UNIVERSAL_LIST_TABLE, UNIVERSAL_CLOCK_TABLE, MANY_MODELS = "universal-list", "universal-clock", "many-models"
UNIVERSAL_FREE_TABLE, SHAPE_TABLE = "universal-free", "where-data-take-shape"
FEW_SHOT = "few-shot"
_BEGIN = r"<!-- table:([^\s>]+) -->"
_BLOCK = re.compile(_BEGIN + rf"\n(?:(?!<!-- table:)[\s\S])*?{END}")
_CODE = re.compile(r"```[\s\S]*?```|`[^`\n]*`|\]\([^)]*\)")


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


def replace_tables(text: str, tables: Mapping[str, str], otherwise: str | None = None) -> str:
    """Replace what is between the marks of these tables, and between all others by ``otherwise``; None: keep it."""

    def new(match: re.Match[str]) -> str:
        table = tables.get(match[1], otherwise)
        return match[0] if table is None else block(match[1], table)

    return _BLOCK.sub(new, text)


def loose_numbers(text: str) -> list[str]:
    """Decimal numbers and percentages of a page that stand outside the marks, where no file of results backs them."""
    return re.findall(r"(?<![\w.])\d+(?:\.\d+|%)", _CODE.sub("", _BLOCK.sub("", text)))


def merged(parts: Iterable[Pages]) -> Pages:
    """The tables of several commands, by page."""
    pages: dict[Path, dict[str, str]] = {}
    for part in parts:
        for page, tables in part.items():
            pages.setdefault(page, {}).update(tables)
    return pages


def write_pages(pages: Pages, root: Path = ROOT) -> None:
    """Write the tables into the pages below ``root``; a page that is not there is begun with the project's text."""
    for page, tables in pages.items():
        path = root / page
        text = (path if path.is_file() else ROOT / page).read_text("utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, replace_tables(text, tables))


def stale(pages: Pages, root: Path = ROOT) -> list[str]:
    """``PAGE: TABLE`` for every table that a page does not have as it should."""
    found = []
    for page, tables in pages.items():
        text = (root / page).read_text("utf-8")
        names = [name for name in marked(text) if name in tables]
        found += [f"{page.name}: {name}" for name in names if block(name, tables[name]) not in text]
    return found
