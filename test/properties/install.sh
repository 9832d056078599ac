#!/usr/bin/env bash
# Installs what `npm run fuzz -- --suite state-files` compares with: Python's safetensors, in a virtual environment.
set -euo pipefail
venv=$(cd "$(dirname "$0")/../.." && pwd)/build/properties/python

if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install -q safetensors==0.8.0
fi
"$venv/bin/python" -c 'import safetensors; print("safetensors", safetensors.__version__)'
