#!/usr/bin/env bash
# Installs hypert5_jax into the checkout's .venv, in the versions of constraints/.
#   bash launch/install.sh tpu      or: cuda
set -euo pipefail
extra=${1:?which extra: tpu or cuda}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for python in "${PYTHON:-}" python3.12 python3.11 python3; do
  if [[ -n $python ]] && command -v "$python" >/dev/null &&
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    found=$python
    break
  fi
done
if [[ -z ${found:-} ]]; then
  echo "error: no Python >= 3.11 with venv here; name one: PYTHON=/path/to/python3.11" >&2
  exit 2
fi

# One that was cut short while it was made has an interpreter and no pip.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$found" -m venv --clear .venv
constraints=$(.venv/bin/python constraints/choose.py)
# pip ends with 2 when the network fails, too: the code of a mistake that is not tried again.
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint "$constraints" --editable ".[$extra]" || exit 1
.venv/bin/python -c 'import hypert5_jax; print("hypert5_jax is installed")'
