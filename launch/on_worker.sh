#!/usr/bin/env bash
# What one worker of a TPU slice does; launch/tpu.py calls it on all of them over ssh.
#
#   setup EXTRA [gs://…/MIXTURE …]  install, and copy prepared data into prepared/
#   start COMMAND …                 start the run, unless it is running; returns at once
#   status                          "HOST: idle|running|done|stopped|halted|mistake|failed N|lost"
#                                   and, but for idle, the digest of the run's COMMAND
#   follow | log                    the newest log as it grows | as it stands
#   stop SECONDS                    SIGTERM, so that the run saves; SIGKILL after SECONDS
#
# The run is a process of its own: it outlives the ssh connection. It holds a lock as long
# as any part of it lives, so there is never a second one beside it.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
place=${HYPERT5_RUN:-$HOME/hypert5_run}
mkdir -p "$place/log"

running() { ! (flock --nonblock 9) 9>>"$place/lock"; }

setup() {
  local extra=$1 source
  shift
  if ! command -v python3.11 >/dev/null && ! command -v python3.12 >/dev/null; then
    # The images of TPU VMs have Python 3.10. Just after boot apt is locked for a while.
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install --yes python3.11 python3.11-venv
  fi
  bash "$checkout/launch/install.sh" "$extra"
  for source in "$@"; do
    mkdir -p "$checkout/prepared/$(basename "$source")"
    gcloud storage rsync --recursive "$source" "$checkout/prepared/$(basename "$source")"
  done
}

start() {
  local log
  if running; then
    echo "$(hostname): running already"
    return
  fi
  rm -f "$place/exit_code" "$place/asked_to_stop" "$place/pid"
  log=$place/log/$(date -u +%Y%m%dT%H%M%SZ).log
  ln -sfn "$log" "$place/newest.log"
  printf '%s\0' "$@" | sha256sum >"$place/command"
  cd "$checkout"
  setsid nohup bash launch/on_worker.sh hold "$@" >>"$log" 2>&1 </dev/null &
  for ((i = 0; i < 100; i++)); do
    if [[ -s $place/pid ]]; then break; fi
    sleep 0.1
  done
  echo "$(hostname): started"
}

# In the background: takes the lock and becomes the attempt.
hold() {
  exec 9>"$place/lock"
  flock --nonblock 9
  echo "$$" >"$place/pid"
  exec "$checkout/.venv/bin/python" launch/attempt.py \
    --exit_code_file="$place/exit_code" "$@"
}

status() {
  local word code command
  if running; then
    word=running
  elif [[ -e $place/exit_code ]]; then
    code=$(<"$place/exit_code")
    case $code in
      0) word="done" ;;
      2) word=mistake ;;
      143) word=stopped ;;
      *) word="failed $code" ;;
    esac
  elif [[ -e $place/pid ]]; then
    word=lost
  else
    word=idle
  fi
  # A mistake is over for good, and no stop of what runs beside it changes that.
  if [[ -e $place/asked_to_stop && ! $word =~ ^(running|done|mistake)$ ]]; then
    word=halted
  fi
  if [[ $word != idle && -e $place/command ]]; then
    command=$(<"$place/command")
    word+=" ${command:0:12}"
  fi
  echo "$(hostname): $word"
}

stop() {
  local seconds=$1
  touch "$place/asked_to_stop"
  if running; then kill -TERM "$(<"$place/pid")" || true; fi
  for ((i = 0; i < seconds; i++)); do
    if ! running; then break; fi
    sleep 1
  done
  if running; then
    kill -KILL -- "-$(<"$place/pid")" || true
    sleep 1
  fi
  status
}

follow() { tail -n 200 --pid="$(<"$place/pid")" -F "$place/newest.log"; }

log() { cat "$place/newest.log"; }

case ${1:-} in
  setup | start | hold | status | follow | log | stop) "$@" ;;
  *)
    echo "error: on_worker.sh ${1:-}: expected setup, start, status, follow, log or stop" >&2
    exit 2
    ;;
esac
