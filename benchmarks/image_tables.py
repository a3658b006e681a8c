"""The tables of docs/images.md, from the files that ``benchmarks.images`` has left.

python -m benchmarks.report
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from art_env.evaluation.results import Score, read_csv
from benchmarks.images import MNIST_STEPS, MODELS, SIZES, saving
from benchmarks.records import RESULTS
from benchmarks.tables import IMAGES_PAGE, Pages, markdown

SOLVERS = ("heun", "euler", "dpmpp_2m", "rk4")
LEARNED = "evolution (global reward)"
# How the page calls schedules.
NAMES = {
    "uniform": "uniform",
    "log_snr": "log-SNR",
    "edm": "EDM (rho = 7)",
    "edm_tuned": "EDM, rho tuned",
    "closed_form": "closed form",
    LEARNED: "**learned**",
}
MNIST_SOLVERS = {"euler": "Euler", "dpmpp_2m": "DPM-Solver++ 2M", "heun": "Heun"}


class Scores:
    """The means of a file, by what they are of.

    Attributes:
        rows: all of them.
    """

    def __init__(self, path: Path) -> None:
        self.rows = read_csv(path, Score)
        self._means = {(r.problem, r.solver, r.schedule, r.num_steps, r.metric): r for r in self.rows}

    def text(self, problem: str, solver: str, schedule: str, K: int, metric: str) -> str:
        """Three digits of a mean; a dash if it is not there."""
        row = self._means.get((problem, solver, schedule, K, metric))
        return f"{row.mean:#.3g}".rstrip(".") if row else "-"

    def steps(self, schedule: str) -> dict[int, int]:
        """Every K of a schedule, and its evaluations."""
        return dict(sorted({r.num_steps: r.nfe for r in self.rows if r.schedule == schedule}.items()))

    def floor(self, metric: str) -> Score:
        """Real images against real ones."""
        return next(r for r in self.rows if r.schedule == "floor" and r.metric == metric)


def solver_table(results: Path, solver: str) -> str:
    """Frechet distances of digits with one solver, and the RMSE of two schedules."""
    scores = Scores(results / f"images_{solver}.csv")
    steps = scores.steps("edm")
    header = ["Frechet distance", *(f"K = {K} ({nfe})" for K, nfe in steps.items())]
    lines = [(name, title, "frechet") for name, title in NAMES.items()]
    lines += [(name, f"{NAMES[name]}, RMSE", "rmse") for name in ("edm", LEARNED)]
    rows = [
        [title, *(scores.text("digits", solver, name, K, metric) for K in steps)]
        for name, title, metric in lines
    ]
    return markdown(header, rows)


def floors(results: Path) -> str:
    """What real images score against real ones, in a sentence."""
    digits, mnist = (Scores(results / f"images_{name}.csv").floor("frechet") for name in ("heun", "mnist"))
    return (
        f"Frechet distance of real images to real ones: digits {digits.mean:.3f} +- {digits.sd:.3f}, "
        f"MNIST {mnist.mean:.3f} +- {mnist.sd:.3f}."
    )


def saved_table(results: Path) -> str:
    """Evaluations saved at the quality of EDM's schedule at K = 10."""
    rows = []
    for name in SIZES:
        own = [r for r in Scores(results / "images_saved.csv").rows if r.problem == name]
        goals = {r.metric: r for r in own if r.schedule == "edm"}
        texts = (
            f"{goals[m].mean:.4g} at {goals[m].nfe}; learned {saving(own, m)}" for m in ("rmse", "frechet")
        )
        rows.append((name, *texts))
    return markdown(("EDM's schedule", "RMSE", "Frechet distance"), rows)


def steps_table(results: Path) -> str:
    """RMSE of one schedule, trained at K = 18, at other K."""
    scores, name = Scores(results / "images_steps.csv"), "evolution, K = 18 resampled"
    steps = scores.steps(name)
    rows = [
        (title, *(scores.text("digits", "heun", schedule, K, "rmse") for K in steps))
        for schedule, title in (("edm", NAMES["edm"]), (name, "learned at K = 18, resampled"))
    ]
    return markdown(("RMSE", *(f"K = {K}" for K in steps)), rows)


def inpaint_table(results: Path) -> str:
    """RMSE with half of a digit given."""
    scores = Scores(results / "images_inpaint.csv")
    steps = scores.steps("edm")
    names = {
        "edm": NAMES["edm"],
        "evolution of digits": "learned on whole digits",
        "evolution": "learned for it",
    }
    rows = [
        (title, *(scores.text("digits-inpaint", "heun", name, K, "rmse") for K in steps))
        for name, title in names.items()
    ]
    return markdown(("RMSE", *(f"K = {K}" for K in steps)), rows)


def models_table(results: Path) -> str:
    """RMSE on other models, K by K, of EDM's list and of what was learned on digits; bold: worse than EDM's."""
    scores, steps = Scores(results / "images_models.csv"), (3, 5, 7, 10)
    names = {
        "edm": "EDM",
        "evolution of digits": "list of digits",
        "actions of digits": "policy of digits",
        "evolution of its own": "trained there",
    }
    rows = []
    for model in MODELS:
        edm = [scores.text(model, "heun", "edm", K, "rmse") for K in steps]
        row = [model]
        for name in names:
            own = [scores.text(model, "heun", name, K, "rmse") for K in steps]
            row.append(" / ".join(_worse(own, edm) if name != "edm" else own))
        rows.append(row)
    return markdown((f"K = {' / '.join(map(str, steps))}", *names.values()), rows)


def _worse(texts: Iterable[str], rivals: Iterable[str]) -> list[str]:
    pairs = zip(texts, rivals, strict=True)
    return [f"**{text}**" if text != "-" and float(text) > float(rival) else text for text, rival in pairs]


def mnist_table(results: Path) -> str:
    """RMSE and Frechet distance on MNIST."""
    scores = Scores(results / "images_mnist.csv")
    rows = []
    for solver, K in ((solver, K) for solver, steps in MNIST_STEPS.items() for K in steps):
        nfe = next(r.nfe for r in scores.rows if (r.solver, r.num_steps) == (solver, K))
        texts = (
            scores.text("mnist", solver, s, K, m) for m in ("rmse", "frechet") for s in ("edm", "closed_form")
        )
        rows.append((MNIST_SOLVERS[solver], str(K), str(nfe), *texts))
    header: Sequence[str] = (
        "solver",
        "K",
        "evaluations",
        "RMSE: EDM",
        "closed form",
        "Frechet: EDM",
        "closed form",
    )
    return markdown(header, rows)


def page_tables(results: Path = RESULTS) -> Pages:
    """The tables of docs/images.md."""
    tables = {
        **{f"images:{solver}": solver_table(results, solver) for solver in SOLVERS},
        "images-floors": floors(results),
        "images-saved": saved_table(results),
        "images-steps": steps_table(results),
        "images-inpaint": inpaint_table(results),
        "images-models": models_table(results),
        "images-mnist": mnist_table(results),
    }
    return {IMAGES_PAGE: tables}
