"""The text of docs/leaderboard.md, which is written completely: a heading and a sentence for each table.

python -m benchmarks.report
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.tables import END, begin, replace_tables

_INTRODUCTION = """# Leaderboard

This page is written completely by `python -m benchmarks.report` from the files in `benchmarks/results`; do not edit it.
[Results](results.md) has the short version, [experiments](experiments.md) what else was tried, and the
[glossary](glossary.md) the words.

The ratio of a schedule is its RMSE divided by that of the oracle, the best fixed schedule on these held-out noises; 1 is
optimal. A cell is a problem, a solver and a number of steps K. In the figures the scale of a ratio is the logarithm of
ratio - 1, and a ratio below 1.001 is drawn at 1.001.

| method | what it knows | differentiates solver and network |
| --- | --- | --- |
| hand-crafted schedules | nothing | no |
| closed form, GITS, SDM, dynamic programming, tuned rho | 256 exact trajectories | no |
| ART-RL, schedule search, search by evolution | the training noises: 16,384 on the mixtures, 1,024 on digits | no |
| CMA-ES | 2,048 of the training noises on the mixtures, 256 on digits | no |
| gradients | the training noises on the mixtures, 256 on digits | yes |
| oracle | the held-out noises | yes |

ART-RL, the searches and CMA-ES have equal budgets: 1,024,000 trajectories of K steps on the mixtures, 76,800 on digits
(ART-RL makes one evaluation more for each). Gradients take what they need, and the schedule search ends when it has
converged. With weights the searches have four and seven times as many on the mixtures and two and three times as many on
digits, and CMA-ES as many as they.

Rivals stand here as their authors run them. "Last level 0" is a list of K steps to sigma_min whose last level is then
called 0, as DPM-Solver, diff-sampler and DMN use EDM's and log-SNR lists; EDM's own convention spends its last evaluation
between sigma_min and 0. `simple`, `beta` and `sgm_uniform` are ComfyUI's on the table of Stable Diffusion (SD) or of DDPM,
and AYS are the published lists of Align Your Steps; both are stretched in log sigma to the range of the problem, which
their authors do not do. Dynamic programming is GITS for every solver with one evaluation a step, and has a row of its own
only with Heun."""
_METHODS = "https://arxiv.org/abs/2108.13264"
# Heading, the text under it, and the names of the tables and figures that follow.
_SECTIONS = (
    ("Records", "", ("records",)),
    (
        "Over all cells",
        "IQM: interquartile mean over cells and seeds, with the 95% bootstrap interval (runs resampled within each cell; a "
        f"method with one run a cell has none), as in [Agarwal et al. 2021]({_METHODS}). P(search is better): the probability "
        "that a run of the schedule search has a lower ratio than a run of the method, mean over the cells that both have; a "
        "tie is half. Evaluations of the network and seconds to find the schedule: medians over cells.",
        ("iqm", "figures/ratios.png"),
    ),
    ("Cell by cell", "", ("searches", "figures/heat.png")),
    ("Misses", "", ("misses", "lost")),
    (
        "On other noises",
        "The run with the median ratio, scored again on five sets of noises that neither it nor the oracle has seen "
        "(`python -m benchmarks.noises fresh`). Interquartile means over cells; the bar is that of the misses.",
        ("fresh",),
    ),
    (
        "Solvers with one evaluation a step",
        "RMSE of the oracle of each solver; bold: the least of the classical ones. The last column is a grid together with "
        "a weight for every earlier slope, found by gradients: the oracle of BNS's class, but that the weights of a step add "
        "up to 1 (`python -m benchmarks.solvers`).",
        ("solvers",),
    ),
    (
        "A second control",
        "RMSE; medians and ranges of the runs (`python -m benchmarks.second_control`). The best classical grid is the least "
        "error of the oracles of the solvers above at as many evaluations; on `mnist` without DEIS and UniPC. `learned_2m` "
        "and `learned_3m` take one and two weights a step. The runs of `mnist` with weights were made on a machine with 16 "
        "cores and one H200, and so were those of the schedule search and of CMA-ES from K = 7 on.",
        ("second-control",),
    ),
    ("Frechet distances with a second control", "Of images of digits.", ("second-control-frechet",)),
    (
        "Policies that see the sample",
        "Error on held-out noises divided by that of the best fixed schedule; medians (ranges) of the trainings "
        "(`python -m benchmarks.state_policies`). The policies see `log_velocity`, `log_curvature`, `rms` and `turn`; with "
        "`learned_2m`, whose weights they set as well, `change` and `denoised`, and on `digits-class` `class`.",
        ("policies",),
    ),
    ("Which features pay", "One training each; ratios to the best fixed list.", ("which-features",)),
    ("Seconds to find a schedule", "", ("seconds",)),
    ("Ratio against K", "", ("figures/steps.png",)),
)


def page(tables: Mapping[str, str]) -> str:
    """The whole page; a table that is not among ``tables`` says that there are no records."""
    problems = [name for name in tables if name.startswith("ratios:")]
    sections = [*_SECTIONS, *((f"All methods: {name.removeprefix('ratios:')}", "", (name,)) for name in problems)]
    parts = [_INTRODUCTION]
    for heading, text, contents in sections:
        parts += [f"## {heading}", *([text] if text else [])]
        for name in contents:
            parts.append(f"![{heading}]({name})" if name.endswith(".png") else f"{begin(name)}\n{END}")
    text = "\n\n".join(parts) + "\n"
    return replace_tables(text, tables, "No records.")
