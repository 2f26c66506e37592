# One start of one stage; SLURM starts the same job again and again, in the same run folder, until the stage has ended.
set -u
start=${SLURM_RESTART_COUNT:-0}
log=$run/logs/$SLURM_JOB_ID.$start.log
idle_file=$run/logs/$SLURM_JOB_ID.idle

export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # compute nodes have no internet
# the run saves and leaves before its time is over; not every SLURM sets this, and no container can ask
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then
  told=$(squeue -h -j "$SLURM_JOB_ID" -o %e 2>/dev/null) # of nothing, date would make today's midnight
  [ -n "$told" ] && end=$(date -d "$told" +%s 2>/dev/null) && export SLURM_JOB_END_TIME="$end"
fi

say() { echo "$(date '+%F %T') start $start: $*"; }
saved() { # the step of the newest checkpoint
  find "$run/checkpoints" -maxdepth 1 -name 'step=*.ckpt' 2>/dev/null | sed 's/.*step=//; s/[^0-9].*//' | sort -n | tail -n 1
}
preempted() { # ranks leave one after another, and srun may end those behind the first: of a run that left well it tells 143
  find "$run/progress.json" -newer "$idle_file" -exec grep -q '"state": "preempted"' {} \; -print 2>/dev/null | grep -q .
}

touch "$idle_file"
before=$(saved)
say "on $SLURM_JOB_NODELIST from step ${before:-0}, log $log"
"${launch[@]}" --output="$log" "${fit[@]}"
code=$?
after=$(saved)

case $code in
  0) say "ended well"; exit 0 ;;
  *) if [ "$run/results.json" -nt "$idle_file" ]; then say "ended well"; exit 0; fi ;;& # and was signalled at its end
  85) ;;  # saved on request
  138) ;; # SIGUSR1 in the first moments of Python, before the run could hear it; nobody but --signal sends it
  *)      # a crash, whose other ranks srun ends by 143 too, or a person (130): no restart would mend these
    preempted || { say "failed with exit code $code, see $log"; exit $code; } ;;
esac

idle=$(cat "$idle_file")
[ "$after" = "$before" ] && idle=$((idle + 1)) || idle=0
echo $idle >"$idle_file"
if [ $idle -ge $idle_starts ]; then
  say "exit code $code, and $idle starts in a row saved no step: not started again, see $log"
  exit $code
fi
say "exit code $code at step ${after:-0}: to be started again"
for pause in 10 30 60 120 0; do # the controller may be away for a moment
  scontrol requeue "$SLURM_JOB_ID" && sleep 60 && exit $code # SLURM ends this script meanwhile
  sleep $pause
done
say "scontrol requeue was refused: submit the run again, it goes on from step ${after:-0}"
exit $code
