"""What a page calls by name is there: files, tests, and names of the packages."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from markdown_pages import PAGES, ROOT, in_sentences

FOLDERS = "art_env|agents|benchmarks|docs|examples|tests"
FILE = re.compile(rf"(?:{FOLDERS})/[\w*./-]+")
NAME = re.compile(r"(?:art_env|agents|benchmarks)(?:\.\w+)+")
TEST = re.compile(r"test_\w+")
_OWN = re.compile(r"(?:art_env|agents|benchmarks)\b")


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, last = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A name in a module, or a module that needs another library.
        return not _OWN.match(str(error.name)) or hasattr(importlib.import_module(module), last)
    return True


def _tests() -> set[str]:
    texts = (path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_a_page_are_there(page: Path) -> None:
    tests = _tests()
    for code in in_sentences(page):
        if FILE.fullmatch(code.text):
            assert list(ROOT.glob(code.text)), f"{code}: no file {code.text}"
        elif NAME.fullmatch(code.text):
            assert _is_there(code.text), f"{code}: no {code.text}"
        elif TEST.fullmatch(code.text):
            assert code.text in tests, f"{code}: no {code.text}"


def test_a_name_that_is_gone_is_found() -> None:
    assert _is_there("art_env.Schedule")
    assert not _is_there("art_env.Schedules")
    assert "test_a_name_that_is_gone_is_found" in _tests()
