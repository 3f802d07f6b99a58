#!/usr/bin/env bash
# A run on a Cloud TPU slice, from a machine with gcloud:
#   cluster/tpu.sh create              make the slice now (or queue: ask for it and wait until it is there)
#   cluster/tpu.sh copy                this folder to all of its hosts
#   cluster/tpu.sh run NAME --FLAGS…   one command on all hosts; goes on after they were preempted
#   cluster/tpu.sh delete              give the slice back
# Settings are variables: TPU (name of the slice), ZONE, TYPE (such as v5litepod-16), VERSION (of the TPU's software), and
# SPOT=1 for slices that may be taken away, QUEUE=1 to ask for them through the queue. --workdir and --dataset must be on a
# disk that all hosts mount at the same path. gcloud's project is the one of its configuration.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
[ $# -gt 0 ] || usage
action=$1
shift

slice=${TPU:?set TPU to the name of the slice}
zone=${ZONE:?set ZONE to the zone of the slice, such as us-west4-a}
restarts=${RESTARTS:-20}
again_seconds=60

spot=()
[ -z "${SPOT:-}" ] || spot=(--spot)

vm() { gcloud compute tpus tpu-vm "$1" "$slice" --zone="$zone" "${@:2}"; }
on_all() { vm ssh --worker=all --command="$1"; }
slice_state() { gcloud compute tpus tpu-vm describe "$slice" --zone="$zone" --format='value(state)' 2>/dev/null || true; }
request_state() {
  gcloud compute tpus queued-resources describe "$slice" --zone="$zone" --format='value(state.state)' 2>/dev/null || true
}

create() {
  vm create --accelerator-type="${TYPE:?set TYPE, such as v5litepod-16}" \
    --version="${VERSION:?set VERSION, such as v2-alpha-tpuv5-lite}" "${spot[@]}"
}

queue() {
  gcloud compute tpus queued-resources create "$slice" --node-id="$slice" --zone="$zone" \
    --accelerator-type="${TYPE:?set TYPE, such as v5litepod-16}" \
    --runtime-version="${VERSION:?set VERSION, such as v2-alpha-tpuv5-lite}" "${spot[@]}"
  until [ "$(request_state)" = ACTIVE ]; do
    case $(request_state) in FAILED | SUSPENDED) echo "error: the request for $slice was refused" >&2 && exit 1 ;; esac
    sleep "$again_seconds"
  done
}

copy() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  tar -C "$root" --exclude=.git --exclude='.venv*' --exclude=runs -czf "$archive" .
  gcloud compute tpus tpu-vm scp "$archive" "$slice:/tmp/finetune_jax.tar.gz" --zone="$zone" --worker=all
  rm -f "$archive"
  on_all 'mkdir -p finetune_jax && tar -C finetune_jax -xzf /tmp/finetune_jax.tar.gz'
}

# Status 143 and 75 are of a run that was stopped, or lost a host; without a slice, gcloud fails by itself.
run() {
  local command status
  command=$(printf '%q ' ./finetune_jax/launch.sh --tpu "$@" --coordinator=auto)
  for _ in $(seq "$restarts"); do
    status=0
    on_all "$command" || status=$?
    [ "$status" != 0 ] || return 0
    if [ "$(slice_state)" = READY ]; then
      case $status in 75 | 143) ;; *) return "$status" ;; esac
    else
      echo "the slice is $(slice_state || true); it is made again" >&2
      delete || true
      if [ -n "${QUEUE:-}" ]; then queue; else create; fi
      copy
    fi
    sleep "$again_seconds"
  done
  echo "error: the run was started $restarts times and has not ended" >&2
  return 1
}

delete() {
  if [ -n "$(request_state)" ]; then
    gcloud compute tpus queued-resources delete "$slice" --zone="$zone" --quiet --force
  else
    vm delete --quiet
  fi
}

case $action in
  create | queue | copy | delete) "$action" ;;
  run)
    [ $# -gt 0 ] || usage
    run "$@"
    ;;
  *) usage ;;
esac
