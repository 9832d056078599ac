#!/usr/bin/env bash
# Installs this host from nothing on Debian 12: Debian's Python and PyTorch, and wasmtime in a virtual environment.
#
# Why Debian's PyTorch (1.13): it is for the CPU. Linux wheels of PyTorch on PyPI bring several gigabytes of CUDA along and do
# not load without. TORCH=2.14.1 takes such a wheel all the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${EMBEDDING_BUILD:-$here/../../../build/embedding}/python
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
python=/usr/bin/python3 # the one that Debian's packages are for

packages=(python3 python3-venv)
modules=ensurepip
if [ -z "${TORCH:-}" ]; then
  packages+=(python3-numpy python3-torch)
  modules+=,numpy,torch
fi
if ! $python -c "import $modules" 2>/dev/null; then
  $sudo apt-get update -q
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"
fi

if [ -n "${TORCH:-}" ]; then
  $python -m venv --clear "$venv"
  "$venv/bin/pip" install -q -r "$here/requirements.txt" numpy "torch==$TORCH"
else
  $python -m venv --clear --system-site-packages "$venv"
  "$venv/bin/pip" install -q -r "$here/requirements.txt"
fi
"$venv/bin/python" -c 'import torch, wasmtime' && "$venv/bin/pip" list 2>/dev/null | grep -E '^(numpy|torch|wasmtime) '
