#!/usr/bin/env bash
# Runs one experiment's grid; what is finished is kept, so after a kill the same command goes on.
#   results/run.sh ml-100k "2020 2021 2022" "none noise awp rawp"
#   results/run.sh ml-1m 2020 "none rawp awp noise" --data_path=FOLDER
set -euo pipefail
dataset=$1 seeds=$2 defenses=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
for seed in $seeds; do
  for defense in $defenses; do
    out=runs/results/$dataset/$defense-$seed
    [ -e "$out/report.md" ] && continue
    rm -rf "$out"
    mkdir -p "$(dirname "$out")"
    python "$here/../run_recbole_rawp.py" --config_files="$here/neumf-$dataset.yaml" \
      --defense="$defense" --seed="$seed" --rawp_output_dir="$out" "$@" > "$out.log" 2>&1 ||
      echo "failed: see $out.log" >&2
  done
done
