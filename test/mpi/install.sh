#!/usr/bin/env bash
# Installs what `npm run test:mpi` needs from nothing on Debian 12: Open MPI, and `ip` for two hosts on one machine.
set -euo pipefail
sudo=$([ "$(id -u)" = 0 ] || echo sudo)

if ! command -v mpirun >/dev/null || ! ldconfig -p | grep -q 'libmpi\.so\.40' || ! command -v ip >/dev/null; then
  $sudo apt-get update -q
  # mpirun starts itself on other hosts by ssh, and wants to see it before it has any
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends openmpi-bin libopenmpi3 openssh-client iproute2
fi
mpirun --version | head -n 1
