#!/bin/sh
# Restarts a command whenever it ends because a machine was lost: with code 75, or killed by a signal (above 128).
#
#     tools/until_done.sh python -m pipeline.train --gin_file=algpt2.gin --tpu=v3-8 --data=gs://… --run_dir=gs://…
#
# Otherwise ends with the command's code: 0 done (or stopped by SIGTERM, with its state saved), 1 failed, 2 wrong input.
# RESTART_SECONDS (30) is the pause before each restart. SIGTERM, SIGINT, SIGHUP (a lost session) and SIGUSR1 (SLURM's
# warning) are passed on as SIGTERM, and end the loop.
[ $# -gt 0 ] || { echo "usage: tools/until_done.sh COMMAND …" >&2; exit 2; }
pause=${RESTART_SECONDS:-30}
stopped=
child=
signalled=
pass_on() { # once to each child; a signal from before the child's id was known is passed on later
  if [ -n "$stopped" ] && [ "$child" != "$signalled" ]; then
    signalled=$child
    kill -TERM "$child" 2>/dev/null
  fi
}
trap 'stopped=1; pass_on' TERM INT HUP USR1

while :; do
  "$@" &
  child=$!
  pass_on
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the command
    wait "$child"
    code=$?
  done
  if [ -n "$stopped" ] || { [ "$code" -ne 75 ] && [ "$code" -le 128 ]; }; then
    exit "$code"
  fi
  echo "until_done: ended with $code, starting again in $pause s" >&2
  sleep "$pause" &
  child=$!
  pass_on
  wait "$child"
  [ -n "$stopped" ] && exit 0
done
