"""Makes empty figures of matplotlib and writes them, the same figure as the same bytes; names those of plotly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INTERACTIVE = ".plotly.json"  # what the file of plotly's figure ends in, beside the picture's .png


def blank(width: float, height: float) -> Any:
    """Return an empty figure that pyplot knows nothing of, whatever the user's backend is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any) -> None:
    """Give a panel a faint grid, and no frame above and on the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def write(figure: Any, path: Path, kind: str) -> None:
    """Write a figure as `png` or `svg`; the same figure gives the same bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "recbole_rawp"}):
        figure.savefig(path, dpi=150, format=kind, metadata={"Date": None} if kind == "svg" else None)
