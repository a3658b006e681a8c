"""The records in leaderboard.jsonl: their one reader and writer, and how tables write methods and numbers.

python -m benchmarks.report --records benchmarks/results/leaderboard.jsonl
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from art_env._util.files import write_text
from art_env.schedules import Schedule

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECORDS = RESULTS / "leaderboard.jsonl"
OURS, EVOLUTION, ORACLE = "search", "evolution", "oracle"
# How tables call solvers; others by their own name.
SOLVERS = {
    "euler": "Euler",
    "heun": "Heun",
    "dpmpp_2m": "DPM-Solver++",
    "ipndm": "iPNDM",
    "unipc_2": "UniPC-2",
    "unipc_3": "UniPC-3",
}
TITLES = {
    "uniform": "uniform",
    "log_snr": "log-SNR",
    "cosine": "cosine",
    "arctan": "arctan",
    "edm": "EDM (rho = 7)",
    "vp": "VP",
    "simple": "simple, SD's table",
    "simple:table=vp": "simple, DDPM's table",
    "beta": "beta, SD's table",
    "beta:table=vp": "beta, DDPM's table",
    "sgm_uniform": "sgm_uniform, SD's table",
    "ays_sd15": "AYS of SD 1.5, stretched",
    "ays_sdxl": "AYS of SDXL, stretched",
    "ays_svd": "AYS of SVD, stretched",
    "log_snr:zero=replace": "log-SNR, last level 0",
    "edm:zero=replace": "EDM (rho = 7), last level 0",
    "edm_tuned:zero=replace": "EDM, rho tuned, last level 0",
    "edm_tuned": "EDM, rho tuned",
    "closed_form": "closed form",
    "gits": "GITS",
    "gits:coefficient=1.15": "GITS (1.15)",
    "sdm": "SDM",
    "dmn": "DMN",
    "dp": "dynamic programming",
    "cma": "CMA-ES",
    "gradient": "gradients (training noises)",
    "evolution": "search by evolution",
    "search": "schedule search",
    "art": "ART-RL",
    "ppo": "PPO",
    "ppo:noise_groups=16": "PPO with group baseline",
    "sac": "SAC",
    "oracle": "oracle",
}


class Cell(NamedTuple):
    """A problem, a solver and a number of steps: what a ratio is relative to."""

    problem: str
    solver: str
    num_steps: int

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read ``problem:solver:K``, as options name a cell.

        Raises:
            ValueError: another text.
        """
        parts = text.split(":")
        if len(parts) != 3 or not parts[2].isdecimal():
            raise ValueError(f"cells: {text!r} must be problem:solver:K, such as mixture-1d:heun:5")
        return cls(parts[0], parts[1], int(parts[2]))

    @property
    def option(self) -> str:
        """The text that ``parse`` reads."""
        return ":".join(map(str, self))

    def __str__(self) -> str:
        return ", ".join(map(str, self))


@dataclass(frozen=True)
class CellLine:
    """The columns that a CSV file of results begins with."""

    problem: str
    solver: str
    num_steps: int

    @property
    def cell(self) -> Cell:
        """Problem, solver and number of steps."""
        return Cell(self.problem, self.solver, self.num_steps)


@dataclass(frozen=True)
class FreshLine(CellLine):
    """What ``benchmarks.noises fresh`` has measured of one method in one cell.

    ``ratio``: of the run with the median ratio, on the leaderboard's noises; ``fresh``: its RMSE over that of the
    oracle on all other sets together; ``low``, ``high``: on a single one of them.
    """

    method: str
    noises: int
    ratio: float
    fresh: float
    low: float
    high: float


@dataclass(frozen=True)
class Record:
    """One schedule found by one run of one method; NaN is what nobody has measured.

    ``curve`` has a point ``(env steps, evaluations, ratio)`` for each schedule logged during a training; ``weights``
    has a row for each step, if the solver takes weights.
    """

    cell: Cell
    nfe: int
    method: str
    seed: int
    error: float
    ratio: float
    evaluations: float
    seconds: float
    env_steps: float = math.nan
    curve: tuple[tuple[float, ...], ...] = ()
    sigmas: tuple[float, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def parse(cls, entry: Any) -> Record:
        """Read the JSON of a line.

        Raises:
            ValueError, TypeError: a field is missing or is no number in range.
        """
        if not isinstance(entry, dict):
            raise ValueError(f"a record is an object, not {entry!r}")
        needed = (*Cell._fields, "nfe", "method", "error", "ratio")
        missing = [name for name in needed if entry.get(name) is None]
        if missing:
            raise ValueError(f"a record without {', '.join(missing)}")
        names = ("error", "ratio", "evaluations", "seconds", "env_steps")
        numbers = {name: _parse_number(entry.get(name)) for name in names}
        if not numbers["ratio"] > 0:
            raise ValueError(f"ratio = {entry['ratio']} must be a positive number")
        curve = tuple(tuple(map(_parse_number, point)) for point in entry.get("curve") or ())
        if any(len(point) != 3 for point in curve):
            raise ValueError("curve must be a list of [env_steps, evaluations, ratio]")
        return cls(
            Cell(str(entry["problem"]), str(entry["solver"]), int(entry["num_steps"])),
            int(entry["nfe"]),
            str(entry["method"]),
            int(entry.get("seed") or 0),
            **numbers,
            curve=curve,
            sigmas=tuple(map(float, entry.get("sigmas") or ())),
            weights=tuple(tuple(map(float, row)) for row in entry.get("weights") or ()),
        )

    def to_json(self) -> str:
        """The line of the record; what is not known is left out."""
        body = {**self.cell._asdict(), **vars(self)}
        del body["cell"]
        body["curve"] = [[None if math.isnan(v) else v for v in point] for point in self.curve]
        return json.dumps(
            {k: v for k, v in body.items() if v not in ([], ()) and v == v}
        )  # NaN is not itself

    def schedule(self) -> Schedule:
        """The schedule, under the name of its method."""
        weights = np.array(self.weights) if self.weights else None
        return Schedule(np.array(self.sigmas), self.method, {"seconds": self.seconds}, weights)


def _parse_number(value: Any) -> float:
    """A number as it is, so that an integer is written as one again; NaN for null."""
    if isinstance(value, int):
        return value
    return math.nan if value is None else float(value)


class Leaderboard:
    """The records of a file, by cell and method; every change is written at once.

    Attributes:
        runs: the records of each cell and method, by seed.
        headers: what made the records, a dict for each header line.
        cells, methods, problems: those that have records.
    """

    def __init__(self, path: Path, records: Iterable[Record] = ()) -> None:
        self.path = path
        self.headers: list[dict[str, Any]] = []
        self._keep(records)

    @classmethod
    def read(cls, path: Path) -> Leaderboard:
        """Read a file; if a cell, method and seed come twice, the later line counts.

        Raises:
            ValueError: a line is not a record; the text has its number.
        """
        headers, records = [], []
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line)
                    if isinstance(entry, dict) and "header" in entry:
                        headers.append(dict(entry["header"]))
                    else:
                        records.append(Record.parse(entry))
                except (ValueError, TypeError, AttributeError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
        board = cls(path, records)
        board.headers = headers
        return board

    def _keep(self, records: Iterable[Record]) -> None:
        latest = {(r.cell, r.method, r.seed): r for r in records}
        self.runs: dict[tuple[Cell, str], list[Record]] = {}
        for key in sorted(latest):
            self.runs.setdefault(key[:2], []).append(latest[key])
        self.cells = sorted({cell for cell, _ in self.runs})
        found = {method for _, method in self.runs}
        self.methods = [m for m in TITLES if m in found] + sorted(found - set(TITLES))
        self.problems = list(dict.fromkeys(cell.problem for cell in self.cells))

    def records(self, method: str | None = None, cell: Cell | None = None) -> list[Record]:
        """All records, or those of a method, of a cell, or of both."""
        chosen = [r for (c, m), r in self.runs.items() if method in (None, m) and cell in (None, c)]
        return [record for runs in chosen for record in runs]

    def cells_of(self, method: str, also: str | None = None) -> list[Cell]:
        """The cells that a method has a run in, or two methods have."""
        return [
            c for c in self.cells if (c, method) in self.runs and (also is None or (c, also) in self.runs)
        ]

    def ratios(self, cell: Cell, method: str) -> np.ndarray:
        """The ratio of every run; empty if there is none."""
        return np.array([r.ratio for r in self.runs.get((cell, method), [])])

    def has(self, cell: Cell, method: str, seed: int) -> bool:
        """Whether this run is there."""
        return any(r.seed == seed for r in self.runs.get((cell, method), []))

    def oracle(self, cell: Cell) -> Schedule | None:
        """The oracle of a cell, if it is there."""
        runs = self.runs.get((cell, ORACLE))
        return runs[0].schedule() if runs else None

    def add(self, record: Record) -> None:
        """Keep a record, in the place of an older one of the same run."""
        self._write([*self.records(), record])

    def rebase(self, cell: Cell, error: float) -> None:
        """Measure the ratios of a cell anew, from another error of its oracle."""

        def based(r: Record) -> Record:
            old = r.error / r.ratio
            return replace(
                r, ratio=r.error / error, curve=tuple((a, b, g * old / error) for a, b, g in r.curve)
            )

        self._write([based(r) if r.cell == cell else r for r in self.records()])

    def drop(self, cell: Cell) -> None:
        """Forget a cell."""
        self._write([r for r in self.records() if r.cell != cell])

    def _write(self, records: Iterable[Record]) -> None:
        self._keep(records)
        lines = [json.dumps({"header": header}) for header in self.headers]
        lines += [record.to_json() for record in self.records()]
        write_text(self.path, "\n".join(lines) + "\n")


def title(method: str) -> str:
    """How a table calls a method."""
    return TITLES.get(method, method)


def number(value: float) -> str:
    """Write about four digits; a dash for what is not known."""
    if math.isnan(value):
        return "-"
    digits = 3 if abs(value) < 2 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def amount(value: float) -> str:
    """Write a count or a time in two or three digits: 850, 12k, 3.1M."""
    if math.isnan(value):
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def rounded(values: Iterable[float]) -> list[float]:
    """Round to the five digits that a file of results keeps."""
    return [float(f"{value:.5g}") for value in values]
