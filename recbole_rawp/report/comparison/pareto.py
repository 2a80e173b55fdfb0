"""Draws what robustness costs: clean against robust score, a point per defense, and those that none beats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_rawp.files import whole
from recbole_rawp.report.pictures import canvas, styles
from recbole_rawp.report.scores import label

Points = Mapping[str, np.ndarray]  # defense -> clean and robust score of each seed, [seeds, 2]


def front(means: np.ndarray, *, bigger: bool) -> np.ndarray:
    """Return the mask [n] of points [n, 2] that no other one beats: as good in both scores and better in one.

    Points with NaN are never on it.
    """
    scores = means if bigger else -means
    known = np.isfinite(scores).all(axis=1)
    as_good = (scores[None] >= scores[:, None]).all(axis=2)  # [n, m]: m is as good as n in both
    better = (scores[None] > scores[:, None]).any(axis=2)
    return known & ~(as_good & better & known[None]).any(axis=1)


def on_front(points: Points, *, bigger: bool) -> list[str]:
    """Return the defenses on the front of the means over seeds, the most accurate first."""
    means = np.array([seeds.mean(axis=0) for seeds in points.values()])
    names = np.array(list(points))[front(means, bigger=bigger)]
    return sorted(names.tolist(), key=lambda name: points[name][:, 0].mean(), reverse=bigger)


def save_pareto(points: Points, folder: Path, *, title: str, x: str, y: str, bigger: bool) -> None:
    """Write pareto.png and pareto.svg into `folder`, each whole or not at all."""
    figure = draw(points, title=title, x=x, y=y, bigger=bigger)
    for kind in ("png", "svg"):
        whole(folder / f"pareto.{kind}", lambda path, kind=kind: canvas.write(figure, path, kind))  # type: ignore[misc]


def draw(points: Points, *, title: str, x: str, y: str, bigger: bool) -> Any:
    """Return a figure of the means, with small points for the seeds, the Pareto front, and where nothing is lost."""
    figure = canvas.blank(8, 5)
    axes = figure.subplots()
    for name, (colour, marker) in styles.styled(points).items():
        seeds = points[name]
        if len(seeds) > 1:
            axes.plot(*seeds.T, linestyle="", color=colour, marker=marker, markersize=4, alpha=0.5, markeredgewidth=0)
        own: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 10,
            "markeredgecolor": "white",
            "zorder": 3,
        }
        axes.plot(*seeds.mean(axis=0)[:, None], linestyle="", label=label(name), **own)
    axes.margins(0.1)
    limits = axes.get_xlim(), axes.get_ylim()
    draw_front(axes, points, bigger=bigger)
    draw_level(axes, *limits)
    axes.set(xlim=limits[0], ylim=limits[1])
    canvas.tidy(axes)
    axes.set(xlabel=x, ylabel=y)
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def draw_front(axes: Any, points: Points, *, bigger: bool) -> None:
    """Draw the front as stairs to the edges of the panel: what lies beyond, no defense reached."""
    worst = np.array([[ends[not bigger] for ends in (axes.get_xlim(), axes.get_ylim())]])
    means = np.array([points[name].mean(axis=0) for name in on_front(points, bigger=bigger)])
    if len(means):
        x, y = stairs(means, worst).T
        axes.step(x, y, where="post", color=styles.GREY, linewidth=1.2, zorder=1, label="Pareto front")


def stairs(means: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Return the front [n, 2], the most accurate first, with its ends at the `worst` scores [1, 2], [n + 2, 2]."""
    first = np.array([[means[0, 0], worst[0, 1]]])
    last = np.array([[worst[0, 0], means[-1, 1]]])
    return np.concatenate([first, means, last])


def draw_level(axes: Any, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Draw the line on which the attack takes nothing, as far as it crosses the panel of these limits."""
    low, high = max(x[0], y[0]), min(x[1], y[1])
    if low < high:
        ends = [low, high]
        axes.plot(ends, ends, linestyle=":", color=styles.GREY, linewidth=1, label="nothing lost", zorder=1)
