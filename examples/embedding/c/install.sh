#!/usr/bin/env bash
# Installs this host from nothing on Debian 12: a C compiler, make, CMake (which unpacks wasmtime's headers), and Rust with
# the crates, since wasmtime's C API is to be had as source only: as the crate wasmtime-c-api-impl.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sudo=$([ "$(id -u)" = 0 ] || echo sudo)

if ! command -v cc >/dev/null || ! command -v make >/dev/null || ! command -v cmake >/dev/null; then
  $sudo apt-get update -q
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends gcc libc6-dev make cmake
fi
"$here/../rust/install.sh"
cc --version | head -n 1
