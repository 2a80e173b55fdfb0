"""Asks what plain and hardened models bear where they are served, on test data: production.md.

    python results/production.py run FOLDER...    # comparisons, such as runs/families/*: attacks each model of theirs
    python results/production.py page             # the tables of production.md, of production.csv

Each is attacked by `recbole-rawp attack CHECKPOINT --attack=production`, and with flipped bits (`SUITES`). What is in
production.csv is passed over.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pandas as pd
from tabulate import tabulate

from recbole_rawp import attack_checkpoint, files
from recbole_rawp.config.properties import name_of
from recbole_rawp.evaluation.records import chance
from recbole_rawp.host import checkpoint, environment
from results.build import fill

CSV, PAGE = HERE / "production.csv", HERE / "production.md"
COLUMNS = ["model", "dataset", "defense", "seed", "target", "granularity", "unit", "threat", "level", "metric", "value"]
FORMATS, PRUNED, ERRORS, CHOSEN = "format", "share pruned", "bit error rate", "bit flips"
SUITES: dict[str, Any] = {FORMATS: "production", CHOSEN: ["bit_flips", "bit_flips_random"]}  # a unit of theirs -> suite
QUESTIONS: dict[str, tuple[str, str, str, float]] = {  # heading -> unit, granularity, variant, level
    "int8": (FORMATS, "row", "int8", 1),
    "int4": (FORMATS, "row", "int4", 1),
    "int3": (FORMATS, "row", "int3", 1),
    "int4, a grid per tensor": (FORMATS, "tensor", "int4", 1),
    "int3, a grid per tensor": (FORMATS, "tensor", "int3", 1),
    "30 % pruned": (PRUNED, "", "pruning", 0.3),
    "50 %": (PRUNED, "", "pruning", 0.5),
    "70 %": (PRUNED, "", "pruning", 0.7),
}
FLIPS: dict[str, tuple[str, str, str, float]] = {
    f"{form} {level:g}{which}": (ERRORS, "", f"bit_errors_{form}{which.replace(', worst', '_worst')}", level)
    for form, levels in (("int8", (1e-3, 1e-2)), ("float32", (1e-7, 1e-6, 1e-5)))
    for level in levels
    for which in ("", ", worst")
}

WORST: dict[str, tuple[str, str, str, float]] = {
    f"{count} {which}": (CHOSEN, "", variant, count)
    for which, variant in (("searched for", "bit_flips"), ("at random", "bit_flips_random"))
    for count in ((1, 2, 5, 10, 20) if variant == "bit_flips" else (50,))
}


def rows() -> pd.DataFrame:
    """Return the records that there are."""
    return pd.read_csv(CSV, keep_default_na=False, na_values=["nan"]) if CSV.exists() else pd.DataFrame(columns=COLUMNS)


def run(folders: list[str]) -> None:
    """Attack the models that are missing, and keep the records of their valid metric."""
    files_of = (file for folder in folders for file in Path(folder).glob("*/model.pth"))
    for file in sorted(file for file in files_of if (file.parent / "records.csv").exists()):  # of finished runs
        for unit, suite in SUITES.items():
            if missing(checkpoint.read(file)["config"], unit):
                add(file, suite)


def missing(config: Any, unit: str) -> bool:
    """Tell whether no record of this unit is of such a model."""
    key = [config["model"], config["dataset"], name_of(config["defense"] or "none"), str(config["seed"]), unit]
    return not (rows()[["model", "dataset", "defense", "seed", "unit"]].astype(str) == key).all(axis=1).any()


def add(file: Path, suite: Any) -> None:
    """Attack a model and add its records to the table."""
    config = checkpoint.read(file)["config"]
    with tempfile.TemporaryDirectory() as folder:
        given = {"attack": suite, "attack_radii": None, "attack_target": None, "show_progress": False}
        given |= {"state": "error", "rawp_output_dir": str(Path(folder, "run"))}
        found = attack_checkpoint(str(file), config_dict=given, argv=[])["records"]
    metric = str(config["valid_metric"]).lower()
    new = pd.DataFrame([vars(record) for record in found if record.metric == metric])[COLUMNS]
    new["commit"] = environment.describe(config["device"]).partition("commit ")[2].split("\n")[0]
    table = pd.concat([rows(), new]) if len(rows()) else new
    files.whole(CSV, lambda path: table.to_csv(path, index=False, na_rep="nan"))
    print(file.parent.name, suite, flush=True)


def share(frame: pd.DataFrame, question: tuple[str, str, str, float]) -> str:
    """Return the mean share kept over seeds, and the lowest, of records of one model, defense and target."""
    unit, granularity, variant, level = question
    own = frame[(frame["unit"] == unit) & (frame["granularity"] == granularity) & (frame["threat"] == variant)]
    values = own[own["level"] == level].set_index("seed")["value"]
    clean = own[own["level"] == 0].set_index("seed")["value"]
    if not len(values):
        return ""
    zero = chance(frame["metric"].iloc[0])
    kept = ((values - zero) / (clean - zero)).where(values.notna(), -1.0)
    if (kept == -1.0).any():
        return f"NaN in {(kept == -1.0).sum()} of {len(kept)}"
    return f"{kept.mean():.0%}" + (f" ({kept.min():.0%})" if len(kept) > 1 else "")


def table(questions: dict[str, Any], targets: tuple[str, ...], frame: pd.DataFrame) -> str:
    """Return the Markdown table of these questions: a row per model, target and defense."""
    lines = []
    for (model, target), own in frame[frame["target"].isin(targets)].groupby(["model", "target"]):
        for defense in sorted(own["defense"].unique(), key=lambda name: name != "none"):
            those = own[own["defense"] == defense]
            cells = [share(those, question) for question in questions.values()]
            name = {"none": "plain"}.get(defense, defense)
            lines.append([model, target, name, those["seed"].nunique(), *cells])
    heads = ["model", "weights", "defense", "seeds", *questions]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def parts() -> dict[str, str]:
    """Return the tables of the page."""
    frame = rows()
    found = {"formats": table(QUESTIONS, ("hidden", "all"), frame), "flips": table(FLIPS, ("all",), frame)}
    return found | {"chosen": table(WORST, ("all",), frame[frame["unit"] == CHOSEN])}


def page() -> None:
    """Write the tables into the page."""
    files.write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), parts()))


if __name__ == "__main__":
    run(sys.argv[2:]) if sys.argv[1] == "run" else page()
