"""Pictures of schedules and of samples; every function returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from art_env.evaluation.results import Score
from art_env.schedules.schedule import Schedule

LABELS = {
    "rmse": "RMSE to the exact solution",
    "w2": "Wasserstein-2 to the data",
    "sliced_w2": "sliced Wasserstein-2 to the data",
    "frechet": "Frechet distance to the data",
    "fid": "FID to the data (Inception features)",
    "ratio": "RMSE over that of the oracle",
}
# Ticks of a logarithmic axis: in a small picture the exponents of powers of ten cannot be read.
PLAIN = "{x:g}"


def schedule_figure(schedules: Sequence[Schedule], title: str = "", highlight: str | None = None) -> Figure:
    """Noise level at each step, one line a schedule; ``highlight``: the name of the thick one.

    Below, if some schedules have them, the weights of the steps.
    """
    figure, axes, below = _panels(any(s.weights is not None for s in schedules))
    lowest = min(float(s.sigmas[s.sigmas > 0].min()) for s in schedules)
    for i, schedule in enumerate(schedules):
        strong = schedule.name == highlight
        axes.plot(
            np.linspace(0, 1, len(schedule)),
            schedule.sigmas,
            "o-" if strong else ".--",
            label=schedule.name,
            **_line_style(i, strong),
        )
    axes.set_yscale("symlog", linthresh=max(lowest, 1e-3))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="step / number of steps", ylabel="sigma", title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    if below is not None:
        _draw_weights(below, schedules, highlight)
    return figure


def clock_figure(schedules: Sequence[Schedule], title: str = "", highlight: str | None = None) -> Figure:
    """Clock speed of each step in units of the mean, one line a schedule; beside it the weights, if there are any.

    Args:
        schedules: of the same number of steps.
        title: of the picture.
        highlight: the name of the thick line.
    """
    figure, axes, beside = _panels(any(s.weights is not None for s in schedules), side_by_side=True)
    _draw_steps(axes, [(s.name, s.theta()) for s in schedules], highlight)
    axes.set(ylabel="clock speed (mean 1)", title=title)
    if beside is not None:
        _draw_weights(beside, schedules, highlight)
    return figure


def errors_figure(errors: Mapping[str, np.ndarray], title: str = "", highlight: str | None = None) -> Figure:
    """The error of each step by itself, one line a schedule.

    Args:
        errors: ``[K]`` of each schedule, as ``local_errors`` gives them.
        title: of the picture.
        highlight: the name of the thick line.
    """
    figure, axes, _ = _panels(False)
    _draw_steps(axes, list(errors.items()), highlight)
    axes.set(ylabel="RMSE of the step by itself", title=title)
    return figure


def _panels(weighted: bool, side_by_side: bool = False) -> tuple[Figure, Axes, Axes | None]:
    """An empty picture, its panel, and one for weights if there are any: below, or beside it."""
    if not weighted:
        figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
        return figure, figure.subplots(), None
    figure = Figure(figsize=(8, 4.5) if side_by_side else (7, 6.5), dpi=110, layout="constrained")
    upper, lower = figure.subplots(1, 2) if side_by_side else figure.subplots(2, 1, height_ratios=[2, 1])
    return figure, upper, lower


def _line_style(i: int, strong: bool) -> dict[str, Any]:
    """Of the line of schedule ``i``; ``strong``: the highlighted one."""
    return {"color": f"C{i % 10}", "linewidth": 2.5 if strong else 1.2, "zorder": 3 if strong else 2}


def _draw_steps(axes: Axes, lines: Sequence[tuple[str, np.ndarray]], highlight: str | None) -> None:
    """A positive number of each step, one line a schedule."""
    for i, (name, values) in enumerate(lines):
        strong = name == highlight
        axes.plot(values, "o-" if strong else ".--", label=name, **_line_style(i, strong))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set(xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _draw_weights(axes: Axes, schedules: Sequence[Schedule], highlight: str | None) -> None:
    """The weights of each step after the first, in the colours of ``schedule_figure``."""
    for i, schedule in enumerate(schedules):
        if schedule.weights is None:
            continue
        strong = schedule.name == highlight
        for j, column in enumerate(schedule.weights.T):
            steps = np.arange(j + 1, schedule.num_steps)
            label = f"{schedule.name}, w{j + 1}"
            marks: dict[str, Any] = {"marker": "os^"[j % 3], "linestyle": ("-", "--", ":")[j % 3]}
            axes.plot(steps, column[steps], label=label, **marks, **_line_style(i, strong))
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(xlabel="step", ylabel="weights of the slope")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, ncols=2, fontsize=8)


def samples_figure(sets: Mapping[str, Tensor], title: str = "") -> Figure:
    """Samples side by side: a row a set for images ``[n, C, H, W]``, a panel a set for points ``[n, 1 or 2]``.

    Images of one column start from the same noise.
    """
    first = next(iter(sets.values()))
    if first.ndim == 4:
        return _image_grid(sets, title)
    figure = Figure(figsize=(3.2 * len(sets), 3.4), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(sets), sharex=True, sharey=True))
    span = 1.3 * float(first.abs().max())
    for axes, (name, x) in zip(panels, sets.items(), strict=True):
        points = x.flatten(1).cpu().numpy()
        if points.shape[1] == 1:
            bins = np.linspace(-span, span, 81)
            axes.hist(points[:, 0], bins=bins, density=True, color="C0", histtype="stepfilled")
        else:
            axes.scatter(points[:, 0], points[:, 1], s=2, alpha=0.4)
            axes.set(xlim=(-span, span), ylim=(-span, span), aspect="equal")
        axes.set_title(name)
    figure.suptitle(title)
    return figure


def _image_grid(sets: Mapping[str, Tensor], title: str) -> Figure:
    rows, columns = len(sets), min(len(x) for x in sets.values())
    figure = Figure(figsize=(0.55 * columns + 1.4, 0.58 * rows + 0.5), dpi=130, layout="constrained")
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(panels, sets.items(), strict=True):
        axes.imshow(_side_by_side(images[:columns]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        axes.text(-0.01, 0.5, name, transform=axes.transAxes, ha="right", va="center")
    figure.suptitle(title)
    return figure


def _side_by_side(images: Tensor) -> np.ndarray:
    """Images ``[n, C, H, W]`` in [-1, 1] as one picture in [0, 1] with white gaps, ``[H, W', C]``."""
    if images.shape[1] not in (1, 3):  # a latent that nobody can decode
        images = images[:, :1]
    pictures = ((images.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).cpu().numpy()
    gap = np.ones_like(pictures[0, :, : max(pictures.shape[2] // 12, 1)])
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], 1)


def quality_figure(rows: Sequence[Score], floor: Sequence[Score] = ()) -> Figure:
    """Each metric against NFE, one line a schedule; ``floor``: what exact data scores."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    names = list(dict.fromkeys(row.schedule for row in rows))
    figure = Figure(figsize=(4.6 * len(metrics) + 1.8, 4.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    first = rows[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for i, name in enumerate(names):
            line = [r for r in rows if r.metric == metric and r.schedule == name]
            style = {"color": "black", "linewidth": 2.0} if name == "oracle" else {"color": f"C{i % 10}"}
            panel.errorbar(
                [r.nfe for r in line],
                [r.mean for r in line],
                [r.sd if r.sd > 0 else 0.0 for r in line],
                marker="os^Dv<>Pphx"[i % 11],
                markersize=5,
                capsize=2,
                label=name,
                **style,
            )
        for row in (row for row in floor if row.metric == metric):
            panel.axhline(row.mean, color="0.5", linestyle=":", label="floor (real data)")
        panel.set_xscale("log")
        panel.set_yscale("log")
        ticks = sorted({r.nfe for r in rows})
        panel.set_xticks(ticks, [str(n) for n in ticks])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
        panel.set(xlabel="NFE", title=LABELS.get(metric, metric))
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    figure.suptitle(f"{first.problem}, {first.solver}")
    return figure
