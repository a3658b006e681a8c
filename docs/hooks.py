"""What MkDocs does besides its own: the repository's pages, links out of docs/, and formulas as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages that are written elsewhere; the navigation has a place for them.
LATER = ("leaderboard.md", "libraries.md")
# Pages of the site that stand at the top of the repository, and where a reader finds them on the site.
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave the pages out of the navigation that are not there yet."""
    config.nav = _written(config.nav)
    return config


def _written(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = []
    for entry in entries:
        ((title, page),) = entry.items()
        if isinstance(page, list):
            kept.append({title: _written(page)})
        elif page not in LATER or (ROOT / "docs" / page).is_file():
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's top, whose links are relative to it."""
    for name, page in TOP.items():
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Write a link to a file that is not on the site, such as a test, as the file's name.

    Raises:
        PluginError: there is no such file.
    """

    def name(match: re.Match[str]) -> str:
        text, target = match.groups()
        if not (ROOT / "docs" / page.file.src_uri).parent.joinpath(target).exists():
            raise PluginError(f"{page.file.src_uri}: {match[0]}: no such file; mend the link")
        return text

    return _LINK.sub(name, markdown)


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Write formulas as MathML, which browsers show without a script.

    Raises:
        PluginError: a formula that is not LaTeX.
    """
    converter = LatexToMathML()

    def mathml(match: re.Match[str]) -> str:
        tag, bracket, formula = match.groups()
        try:
            return converter.convert_with_local_state(html.unescape(formula), displaystyle=bracket == "[")
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: {formula}: {error}") from error

    return _FORMULA.sub(mathml, content)
