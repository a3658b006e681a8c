"""Lines of a table, each a dataclass, as a CSV file; and the limit that they are measured by."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from art_env.files import write_text
from art_env.schedules import Schedule
from art_env.scoring import Scorer, baseline


def write_lines(lines: Sequence[Any], path: Path) -> None:
    """All lines, of one dataclass, in one piece; columns are its fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(lines[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    write_text(path, text.getvalue())


def kept_limit(scorer: Scorer, K: int, folder: Path) -> Schedule:
    """The best fixed schedule on the very noises of the scorer's first seed set; kept in the folder."""
    path = folder / f"limit__{scorer.problem.name}__{scorer.solver.name}__{K}.json"
    if path.is_file():
        return Schedule.load(path)
    starts = [baseline(name, scorer.problem, K, scorer.solver) for name in ("closed_form", "edm")]
    limit = baseline("limit", scorer.problem, K, scorer.solver, scorer.reference(), starts)
    path.parent.mkdir(parents=True, exist_ok=True)
    limit.save(path)
    return limit
