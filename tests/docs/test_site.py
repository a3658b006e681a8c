"""What docs/hooks.py does to pages; .ci/run builds the whole site."""

from __future__ import annotations

import importlib.util
from types import ModuleType, SimpleNamespace

import pytest
from markdown_pages import ROOT

mkdocs = pytest.importorskip("mkdocs", reason="needs the extra [docs]")
pytest.importorskip("math_core", reason="needs the extra [docs]")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _page(path: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=path))


def test_the_home_page_is_the_readme(hooks) -> None:
    home = hooks.top_page("README.md")
    assert "](docs/" in (ROOT / "README.md").read_text("utf-8")
    assert "](docs/" not in home
    assert "](samples.png)" in home


def test_the_navigation_has_every_page(hooks) -> None:
    config = mkdocs.config.load_config(str(ROOT / "mkdocs.yml"))
    pages = {name for entry in config.nav for name in _names(entry)}
    assert pages - {*hooks.TOP.values(), *hooks.OPTIONAL} == {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.name not in hooks.OPTIONAL
    }
    there = {name for entry in hooks._there(config.nav) for name in _names(entry)}
    assert pages - there == {name for name in hooks.OPTIONAL if not (ROOT / "docs" / name).exists()}


def _names(entry: dict) -> list[str]:
    ((_, page),) = entry.items()
    return [name for part in page for name in _names(part)] if isinstance(page, list) else [page]


def test_a_link_out_of_docs_becomes_a_name(hooks) -> None:
    text = "In [`test_site.py`](../tests/docs/test_site.py), not in [results](results.md)."
    assert hooks.on_page_markdown(text, _page("theory.md")) == text.replace(
        "[`test_site.py`](../tests/docs/test_site.py)", "`test_site.py`"
    )
    with pytest.raises(
        mkdocs.exceptions.PluginError, match=r"theory.md: .*gone.py.*no such file; mend the link"
    ):
        hooks.on_page_markdown("[x](../tests/gone.py)", _page("theory.md"))


def test_a_list_begins_after_text(hooks) -> None:
    text = "Two cells.\n- one\n  more\n- two\n\n- three\n"
    assert hooks.on_page_markdown(text, _page("a.md")) == text.replace("cells.\n", "cells.\n\n")


def test_formulas_become_mathml(hooks) -> None:
    content = r'<p>If <span class="arithmatex">\(a &lt; \tfrac12\)</span></p><div class="arithmatex">\[J^\ast\]</div>'
    found = hooks.on_page_content(content, _page("theory.md"))
    assert found.count("<math") == found.count("</math>") == 2
    assert "<mfrac" in found
    assert "arithmatex" not in found
    assert 'display="block"' in found.partition("</p>")[2]
    with pytest.raises(mkdocs.exceptions.PluginError, match=r"theory.md: \\what: .*; mend the formula"):
        hooks.on_page_content(r'<span class="arithmatex">\(\what\)</span>', _page("theory.md"))
