#!/usr/bin/env bash
# Installs this host from nothing on Debian 12: Go, where there is none or an older one than wazero is written in, and wazero.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "${EMBEDDING_BUILD:-$here/../../../build/embedding}")/go
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
needed=1.25
toolchain=golang.org/toolchain@v0.0.1-go1.26.8.linux-$(dpkg --print-architecture)

new_enough() {
  command -v "$1" >/dev/null && printf 'go%s\n%s\n' $needed "$("$1" env GOVERSION)" | sort --check --version-sort 2>/dev/null
}

mkdir -p "$build"
rm -f "$build/toolchain"
go=go
if ! new_enough go; then
  # Debian 12 has 1.19, which is too old for wazero, but can fetch a newer Go as newer ones do by themselves: as a module,
  # held to Go's checksum database. Modules come without permissions to execute.
  if ! command -v go >/dev/null; then
    $sudo apt-get update -q
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends golang-go ca-certificates
  fi
  root=$(cd / && GOFLAGS=-modcacherw go mod download -json "$toolchain" | sed -n 's/^\s*"Dir": "\(.*\)",\?$/\1/p')
  chmod +x "$root"/bin/* "$root"/pkg/tool/*/*
  ln -sfn "$root" "$build/toolchain"
  go=$build/toolchain/bin/go
  new_enough "$go" || { echo "install.sh: Go $needed is needed, here is $("$go" version || echo none)" >&2; exit 1; }
fi
cd "$here"
"$go" mod download
"$go" mod verify
"$go" version
