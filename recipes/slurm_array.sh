#!/bin/bash
# Several SLURM jobs work on one comparison, in a folder that all of them see.
#
#     recbole-rawp compare --model=NeuMF --dataset=ml-100k --seeds=5 --rawp_output_dir=FOLDER --workers=0
#     sbatch --array=1-8 recipes/slurm_array.sh FOLDER
#
# Each task takes the next run that nobody is at. Start as many as you like, now or later. A task that is killed loses
# at most one epoch: another one goes on with its run. The last one to end has written the report of all runs.
#SBATCH --cpus-per-task=1
#SBATCH --time=24:00:00
export OMP_NUM_THREADS=1
exec recbole-rawp compare --resume="$1"
