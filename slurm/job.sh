#!/bin/bash
# One stage under SLURM, preempted, requeued and resumed by itself:
#   sbatch slurm/job.sh stage1 DATA=ntu60_xsub RUN=first CONFIG="configs/hardware/a100.yaml configs/hardware/ddp.yaml"
# Size it on the command line (sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 ...) and give the same numbers to
# the run: ARGS="--trainer.num_nodes 2 --trainer.devices 4". One task per GPU. Run "make setup" on the login node first.
#SBATCH --job-name=skeleton-llm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -u
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # compute nodes have no internet
# make only prints the command: srun must start Python itself, or signals end at make
eval "set -- $(make --no-print-directory --dry-run "$@" | sed -n '/skeleton-llm fit/,$p' | tr '\n' ' ' | sed 's/\\ / /g')"
srun --kill-on-bad-exit=1 "$@"
code=$?
if [ $code -eq 85 ] || [ $code -eq 138 ]; then # checkpointed on a signal, or signalled before training began
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit $code
