#!/usr/bin/env bash
# Installs this host from nothing on Debian 12: a linker, Rust where there is none or an older one, and the crates.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
needed=1.95 # what wasmtime 48 is written in

new_enough() {
  command -v cargo >/dev/null && command -v rustc >/dev/null &&
    printf '%s\n' $needed "$(rustc --version | cut -d' ' -f2)" | sort --check --version-sort 2>/dev/null
}
install() {
  $sudo apt-get update -q
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

command -v cc >/dev/null || install gcc libc6-dev
[ -e /etc/ssl/certs/ca-certificates.crt ] || install ca-certificates # for cargo
# Debian 12's rustc is 1.63. Its rustc-web follows newer ones, for browsers, and takes the other's place.
new_enough || install cargo-web rustc-web || true
new_enough || {
  echo "install.sh: Rust $needed is needed, here is $(rustc --version 2>/dev/null || echo none)" >&2
  echo "install.sh: Debian's rustc is too old, and rustc-web could not be installed or is; rustup has it too" >&2
  exit 1
}
cargo fetch --locked --manifest-path "$here/Cargo.toml"
echo "$(cargo --version), $(rustc --version)"
