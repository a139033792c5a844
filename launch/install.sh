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

[[ -x .venv/bin/python ]] || "$found" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint "$(.venv/bin/python constraints/choose.py)" --editable ".[$extra]"
.venv/bin/python -c 'import hypert5_jax; print("hypert5_jax is installed")'
