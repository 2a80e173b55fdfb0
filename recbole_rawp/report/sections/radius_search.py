"""Reports which radii were tried, and what they cost: radius.csv, radius.png, and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.evaluation.records import FAILED, PASSED, Check
from recbole_rawp.evaluation.self_checks import BUDGET, PLAIN_KEPT
from recbole_rawp.files import whole
from recbole_rawp.report.pictures import canvas
from recbole_rawp.report.sections.section import section_of_run
from recbole_rawp.training.radius.rule import RadiusSearch

KEPT, REFUSED, CLEAN = "#009E73", "#D55E00", "#0072B2"


@section_of_run(60)
def sections(trainer: Any, folder: Path) -> list[str]:
    """Write the files of the search into `folder` and return its part of the report; nothing where there was none."""
    search: RadiusSearch | None = trainer.state.search
    if search is None or search.chosen is None:
        return []
    path, metric = pd.DataFrame(search.path), trainer.valid_metric.upper()
    title = f"{trainer.config['model']} on {trainer.config['dataset']}"
    whole(folder / "radius.csv", lambda file: path.to_csv(file, index=False))
    whole(folder / "radius.png", lambda file: plot(path, file, metric=metric, floor=search.needed, title=title))
    return [
        "## The radius that was found",
        outcome(search, metric),
        f"Training went on from the plain model (`model-plain.pth`; of `harden`, `original.pth`). The radius grew "
        f"after each epoch that kept enough of its {metric}, and fell after the others (`radius.csv`)."
        "\n\n![radius and clean score by epoch](radius.png)",
    ]


def checks(trainer: Any) -> list[Check]:
    """Return whether the model that was found kept the clean budget; nothing where there was no search."""
    search: RadiusSearch | None = trainer.state.search
    if search is None or search.chosen is None:
        return []
    kept, what = search.chosen.passed, f"valid {trainer.valid_metric} {search.chosen.score:.4f}"
    detail = "" if kept else f"{what}, {search.needed:.4f} wanted" + f"; {PLAIN_KEPT}" * search.gave_up
    return [Check(trainer.defense, BUDGET, PASSED if kept else FAILED, detail)]


def outcome(search: RadiusSearch, metric: str) -> str:
    """Say what was found, what it costs beside the plain model, and whether that is within the budget."""
    chosen = search.chosen
    assert chosen is not None
    passed = sum(row.passed for row in search.path)
    words = (
        f"rawp_radius auto: {chosen.radius:.3g}, of epoch {chosen.epoch} ({passed} of {len(search.path)} epochs kept). "
        f"Clean {metric} on validation data {chosen.score:.4f}, the plain model's {search.measure:.4f}, "
        f"{'at least' if search.bigger else 'at most'} {search.needed:.4f} wanted"
    )
    if chosen.passed:
        return f"{words}: within the budget of {100 * search.budget:g} %."
    end = PLAIN_KEPT if search.gave_up else "this one cost least"
    return f"{words}: **no radius kept the budget of {100 * search.budget:g} %**; {end}."


def plot(path: pd.DataFrame, file: Path, *, metric: str, floor: float, title: str) -> None:
    """Draw the radius and the clean score by epoch: kept, refused and chosen epochs, and what was wanted."""
    from matplotlib.ticker import MaxNLocator

    figure = canvas.blank(6, 5)
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, column in ((above, "radius"), (below, "score")):
        axes.plot(path["epoch"], path[column], color=CLEAN, linewidth=0.8)
        for passed, colour, label in ((True, KEPT, "kept"), (False, REFUSED, "refused")):
            rows = path[path["passed"] == passed]
            axes.plot(rows["epoch"], rows[column], "o" if passed else "X", color=colour, linestyle="", label=label)
        chosen = path[path["chosen"]]
        axes.plot(chosen["epoch"], chosen[column], "*", color="black", markersize=14, linestyle="", label="chosen")
        canvas.tidy(axes)
    above.set_yscale("log")
    above.set_ylabel("radius")
    above.set_title(f"{title}: rawp_radius auto")
    above.legend(frameon=False)
    wanted = below.axhline(floor, color="black", linestyle=":")
    below.set_ylabel(f"{metric} on validation data")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend([wanted], ["wanted"], frameon=False)
    figure.savefig(file, dpi=150, format="png")
