#!/usr/bin/env bash
# Sets up an environment beside this file and runs a command in it:
#   ./launch.sh demo              fine-tune the bundled network on embedded data, print a table
#   ./launch.sh test              whole test suite and linters
#   ./launch.sh NAME --flags…     any of the commands below; NAME --help shows its flags
#   ./launch.sh --tpu NAME …      the same on a TPU host (an NVIDIA GPU is found by itself)
#   ./launch.sh --cpu NAME …      on the CPU although there is a GPU
# It can be called from any folder: relative paths count from there. PYTHON chooses the interpreter of a new .venv
# (3.11, 3.12 or 3.13), VENV another place for it. Training on CPU is faster where the system has jemalloc
# (apt-get install libjemalloc2).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
launcher=${BASH_SOURCE[0]}

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$root/launch.sh"
  echo "commands:"
  for file in "$root"/experiments/*.py; do
    name=$(basename "$file" .py)
    [ "$name" = __init__ ] || printf '  %-13s%s\n' "$name" "$(sed -n '1s/^r\{0,1\}"""//p' "$root/finetune_jax/commands/$name.py")"
  done
  sed -n '8,10s/^# \{0,1\}//p' "$root/launch.sh"
}

accelerator=auto
case "${1:-}" in
  --tpu | --cpu | --cuda12) accelerator=${1#--} && shift ;;
esac
[ $# -gt 0 ] || { usage && exit 2; }
case "$1" in -h | --help | help) usage && exit 0 ;; esac
name=$1
shift
if [ "$name" != test ] && [ ! -f "$root/experiments/$name.py" ]; then
  echo "error: there is no command $name" >&2
  usage >&2
  exit 2
fi

if [ "$accelerator" = auto ]; then
  accelerator=cpu
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    accelerator=cuda12
  fi
fi

find_python() {
  for candidate in ${PYTHON:-python3.12 python3.13 python3.11 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11, 3.12 or 3.13 is needed${PYTHON:+, PYTHON=$PYTHON is none of them}; set PYTHON=/path/to/python" >&2
  return 1
}

venv=${VENV:-$root/.venv}
extras=
[ "$accelerator" = cpu ] || extras=$accelerator
[ "$name" != test ] || extras=${extras:+$extras,}dev
# Installed once per content of the requirements and choice of extras, by one of the processes that start together.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$venv.lock"
  flock 9
fi
stamp=$venv/.installed-${extras:-base}
wanted=$(cat "$root/requirements.txt" "$root/pyproject.toml" | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  [ -x "$venv/bin/python" ] || "$(find_python)" -m venv "$venv"
  echo "installing into $venv ($accelerator${extras:+, extras $extras}) …" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root${extras:+[$extras]}"
  echo "$wanted" >"$stamp"
fi

if command -v flock >/dev/null 2>&1; then exec 9>&-; fi

# An absent accelerator must not cost a traceback at every start.
[ "$accelerator" != cpu ] || export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

# On CPU, XLA takes the memory of every step anew. jemalloc keeps it, in huge pages, and threads do not wait for each
# other there; without it, first touches cost less in huge pages of glibc (docs/lab/performance.md). Both are read when a
# process starts. Settings of the user, and NO_JEMALLOC=1, win.
jemalloc=
if [ "$accelerator" = cpu ] && [ -z "${LD_PRELOAD:-}${GLIBC_TUNABLES:-}${NO_JEMALLOC:-}" ]; then
  jemalloc=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk '/libjemalloc\.so\.2 .*x86-64/ { print $NF }' | head -n 1) || jemalloc=
fi
if [ -n "$jemalloc" ]; then
  export LD_PRELOAD=$jemalloc
  export MALLOC_CONF=${MALLOC_CONF:-thp:always,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1}
else
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
fi

if [ "$name" = test ]; then
  venv=$(cd "$venv" && pwd)
  cd "$root"
  "$venv/bin/python" -m ruff check .
  "$venv/bin/python" -m ruff format --check .
  "$venv/bin/python" -m mypy
  # One more than the cores it is meant for: tests wait for child processes and for disks.
  exec "$venv/bin/python" -m pytest -n "${TEST_PROCESSES:-3}" --dist worksteal "$@"
fi
# Commands are spelled in messages as this one was; no file of the folder that it is called from shadows a module (-P).
export FINETUNE_JAX_LAUNCHER=$launcher PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$venv/bin/python" -P -m "experiments.$name" "$@"
