"""What the site does beside MkDocs' own: pages from the top of the repository, links out of docs/, formulas."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages of the site that stand at the top of the repository, and where they are on the site.
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Pages that the navigation has a place for, and that not every checkout has.
OPTIONAL = ("experiments.md", "leaderboard.md", "libraries.md", "scaling.md")

_LINK_OUT = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)\)")
# GitHub begins a list without an empty line before it, Python-Markdown does not.
_LIST_AFTER_TEXT = re.compile(r"^([^\s\-|#>`<].*)\n(?=- )", re.MULTILINE)
_FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave optional pages out of the navigation that are not there."""
    config.nav = _there(config.nav)
    return config


def _there(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = []
    for entry in entries:
        ((title, page),) = entry.items()
        if isinstance(page, list):
            kept.append({title: _there(page)})
        elif page not in OPTIONAL or (DOCS / page).is_file():
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's top."""
    for name, page in TOP.items():
        files.append(File.generated(config, page, content=top_page(name)))
    return files


def top_page(name: str) -> str:
    """A page of the repository's top, with links that lead from docs/ instead of from there."""
    return (ROOT / name).read_text("utf-8").replace("](docs/", "](")


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Write a link to a file that is not on the site, such as a test, as the name of the file.

    Raises:
        PluginError: there is no such file.
    """
    path = page.file.src_uri

    def name(match: re.Match[str]) -> str:
        text, target = match.groups()
        if not (DOCS / path).parent.joinpath(target).exists():
            raise PluginError(f"{path}: {match[0]}: there is no such file; mend the link")
        return text

    return _LIST_AFTER_TEXT.sub(r"\1\n\n", _LINK_OUT.sub(name, markdown))


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Write formulas as MathML, which browsers show without a script.

    Raises:
        PluginError: a formula that is not LaTeX.
    """
    converter = LatexToMathML(fancy_error=False)

    def mathml(match: re.Match[str]) -> str:
        bracket, formula = match.groups()
        try:
            return converter.convert_with_local_state(html.unescape(formula), displaystyle=bracket == "[")
        except LatexError as error:
            raise PluginError(f"{page.file.src_uri}: {formula}: {error}; mend the formula") from error

    return _FORMULA.sub(mathml, content)
