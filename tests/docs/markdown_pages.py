"""The code blocks and commands of the README and of docs/, as a reader sees them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The words that a command of a page may begin with; any other piece of code in a sentence is no command.
PROGRAMS = ("python", "python3", "pip", "pytest", "mkdocs", "tensorboard", ".")
SCRIPTS = ("train.py", "evaluate.py")
# A variable that is set for one command.
_VARIABLE = re.compile(r"\w+=.*")


class Code(NamedTuple):
    """A code block of a page, or a piece of code in a sentence.

    Attributes:
        page: where it is.
        line: its first line, counted from 1.
        language: what stands after the backticks; empty in a sentence.
        text: the code.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """A command of a shell: where it stands, and its words."""

    code: Code
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.code}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Code]:
    """Every code block of a page, indented ones too."""
    return [
        Code(page, token.map[0] + 1, token.info, token.content)
        for token in _tokens(page)
        if token.type in ("fence", "code_block") and token.map
    ]


def commands(page: Path) -> list[Command]:
    """Every command in the shell blocks and in the sentences of a page."""
    found = []
    for block in blocks(page):
        if block.language == "bash":
            lines = block.text.replace("\\\n", " ").splitlines()
            found += [Command(block, words) for line in lines for words in _split(line)]
    for code in in_sentences(page):
        words = shlex.split(code.text) if code.text.startswith((*PROGRAMS, *SCRIPTS)) else []
        if len(words) > 1 and words[0] in SCRIPTS:
            words = ["python", *words]
        if len(words) > 1 and words[0] in PROGRAMS:
            found.append(Command(code, tuple(word for word in words if word != "...")))
    return found


def in_sentences(page: Path) -> Iterator[Code]:
    """Every piece of code in the sentences and tables of a page."""
    for token in _tokens(page):
        for child in token.children or ():
            if child.type == "code_inline" and token.map:
                yield Code(page, token.map[0] + 1, "", child.content)


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line, which && may join."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (*lexer, "&&"):
        if word != "&&":
            words.append(word)
        elif words:
            yield tuple(itertools.dropwhile(_VARIABLE.fullmatch, words))
            words = []
