#!/usr/bin/env bash
# The job that launch/slurm.py submits: one process for each node, with all its GPUs.
#
# Five minutes before the time limit SLURM sends SIGTERM to the processes; the run saves,
# and the job is queued again. A preempted job SLURM queues again itself (--requeue).
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
# launch/attempt.py: everything saved, start it again; or another node's process was lost.
stopped=143 lost=75

# This script itself gets SIGTERM when the job is cancelled or preempted, not before the
# time limit.
ended=
trap 'ended=1' TERM

code=0
srun --kill-on-bad-exit=1 .venv/bin/python launch/attempt.py "$@" || code=$?
echo "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) ended with $code"
if [[ ($code == "$stopped" || $code == "$lost") && -z $ended &&
  ${SLURM_RESTART_COUNT:-0} -lt 100 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
