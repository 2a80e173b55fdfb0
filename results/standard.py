"""Which models are fragile, and to what?  Plain models on ml-100k under the suite `standard`.

python results/standard.py run neumf 2020     # one model and seed, into runs/standard/; what is finished is kept
python results/standard.py collect            # all runs -> results/standard.csv, and the tables of standard.md
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import pandas as pd
from tabulate import tabulate

from recbole_rawp.report import curves

HOME = Path("runs/standard")
MODELS = ("neumf", "deepfm", "sasrec", "lightgcn")
METRICS = {"deepfm": "auc"}  # else NDCG@10


def run(name: str, seed: str) -> None:
    """Train one plain model and attack it; an unfinished earlier try is set aside by its name."""
    folder = HOME / f"{name}-{seed}"
    if (folder / "report.md").exists():
        return
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-unfinished-{len(list(HOME.iterdir()))}"))
    HOME.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, HERE.parent / "run_recbole_rawp.py", f"--config_files={HERE}/{name}-ml-100k.yaml"]
    command += ["--defense=none", "--attack=standard", f"--seed={seed}", f"--rawp_output_dir={folder}", "--state=error"]
    with open(HOME / f"{name}-{seed}.log", "w", encoding="utf-8") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def collect() -> None:
    """Write all records, and print a table per model: the share kept, mean and range over seeds."""
    frames = {}
    for name in MODELS:
        files = sorted(HOME.glob(f"{name}-20??/records.csv"))
        if files:
            frames[name] = curves.complete(pd.concat(map(pd.read_csv, files), ignore_index=True))
    pd.concat(frames.values()).to_csv(HERE / "standard.csv", index=False)
    for name, frame in frames.items():
        metric = METRICS.get(name, "ndcg@10")
        print(f"\n### {frame['model'].iloc[0]}, {metric.upper()}, seeds {sorted(frame['seed'].unique())}\n")
        print(table(frame, metric))
    for file in sorted(HOME.glob("*-20??/checks.json")):
        failed = pd.read_json(file).query("status == 'failed'")
        for check in failed.itertuples():
            print(f"{file.parent.name}: {check.name}: {check.detail}")


def table(frame: pd.DataFrame, metric: str) -> str:
    """Return two rows per threat, the strongest attack of each seed and noise: share of the clean score kept."""
    rows = []
    radii = sorted(frame.loc[frame["radius"] > 0, "radius"].unique())
    for setting in curves.settings_of(frame):
        wide = curves.curves(curves.within(frame, setting), metric)
        kept = curves.shares(wide, bigger=True, metric=metric)
        noise = kept.index.get_level_values("attack") == "random"
        names = [setting.title, f"{wide[0.0].mean():.4f}"]
        for title, seeds in (("strongest", kept[~noise].groupby(level="seed").min()), ("noise", kept[noise])):
            rows.append([*names, title, *(spread(seeds[radius]) if radius in seeds else "" for radius in radii)])
            names = ["", ""]
    headers = ["attacked", "clean", "attack", *(f"{radius:g}" for radius in radii)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def spread(values: pd.Series) -> str:
    """Return the mean share and, over several seeds, its range."""
    if len(values) == 1:
        return f"{values.iloc[0]:.0%}"
    return f"{values.mean():.0%} ({values.min():.0%} to {values.max():.0%})"


if __name__ == "__main__":
    run(*sys.argv[2:]) if sys.argv[1:2] == ["run"] else collect()
