#!/bin/bash
#SBATCH --job-name=collect
#SBATCH --array=0-15
#SBATCH --output=collect-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=16
#SBATCH --mem=110G
#SBATCH --time=08:00:00
#SBATCH --requeue
# collect as an array of 16 parts:
#
#     sbatch slurm.sh -model /models/mixtral-8x7b -data /data/texts -out /scratch/trace
#
# Run it from the folder with the program, ./collect. Add resources, as --gres=gpu:1, to the lines above. Parts that
# fail, or are stopped by their time limit, keep their shards and are repeated with the same flags:
#
#     sbatch --array=3,7-9 slurm.sh -model ...
#
parts=16 # of the whole array: SLURM_ARRAY_TASK_COUNT is another number when only some parts are repeated
exec srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} ./collect -part "$SLURM_ARRAY_TASK_ID/$parts" -quiet "$@"
