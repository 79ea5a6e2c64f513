#!/bin/bash
# One run over several nodes, a rank for each GPU:
#
#     sbatch devtools/slurm/train.sh model=1b trainer=gpu run.name=big
#
# What follows the file are the words of python train.py. The same line goes on with the same run. Options of sbatch
# stand before the file, and win against those below: sbatch --nodes=8 --time=8:00:00 devtools/slurm/train.sh …
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1     # one torchrun on a node; it starts the ranks
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=USR2@300       # so many seconds before its time is up, the run makes a checkpoint and requeues the job
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "$SLURM_SUBMIT_DIR" # the project

ranks=${RANKS:-${SLURM_GPUS_ON_NODE:-1}} # on a node
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((SLURM_CPUS_PER_TASK / ranks > 0 ? SLURM_CPUS_PER_TASK / ranks : 1))}

# The signal reaches every process. torchrun, which does not know it, is told to ignore it; the ranks then listen.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c 'trap "" USR2; exec torchrun "$@"' torchrun \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$ranks" \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 10000))" \
  train.py trainer.num_nodes="$SLURM_JOB_NUM_NODES" trainer.devices="$ranks" "$@"
