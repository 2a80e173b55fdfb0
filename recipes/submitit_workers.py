"""Several jobs that submitit starts work on one comparison, in a folder that all of them see.

    pip install submitit
    recbole-rawp compare --model=NeuMF --dataset=ml-100k --seeds=5 --rawp_output_dir=FOLDER --workers=0
    python recipes/submitit_workers.py FOLDER 8
    python recipes/submitit_workers.py FOLDER 8 slurm_partition=cpu    # with options of submitit's executor

Eight jobs of SLURM, or eight processes where there is none. Start more, now or later, by the same line.
"""

from __future__ import annotations

import subprocess
import sys

import submitit


def work(folder: str) -> int:
    """Do runs of the comparison until none is left; return 1 if some failed, which its report says."""
    return subprocess.run(["recbole-rawp", "compare", f"--resume={folder}"]).returncode


if __name__ == "__main__":
    folder, count, *options = sys.argv[1:]
    executor = submitit.AutoExecutor(folder=f"{folder}/submitit")
    executor.update_parameters(timeout_min=24 * 60, **dict(option.split("=", 1) for option in options))
    with executor.batch():
        jobs = [executor.submit(work, folder) for _ in range(int(count))]
    sys.exit(max(job.result() for job in jobs))
