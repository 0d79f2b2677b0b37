#!/bin/sh
#SBATCH --job-name=bapa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
# A training script on several nodes of a SLURM cluster; change the lines above to what yours has.
#
#     sbatch scripts/slurm.sh scripts/finetune.sh [arguments of train/sft.py]
#
# One task a node, which starts a process for each GPU. A requeued job goes on from its last whole checkpoint.
set -eu

NNODES=$SLURM_JOB_NUM_NODES
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export NNODES MASTER_ADDR MASTER_PORT
# srun does not take --cpus-per-task over from sbatch by itself since SLURM 22.05: a task would get one core.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
# SLURM_PROCID is each task's own: it must be read on its node.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 sh -c 'NODE_RANK=$SLURM_PROCID exec sh "$@"' task "$@"
