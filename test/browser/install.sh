#!/usr/bin/env bash
# Makes sure that there is a Chromium for `npm run test:browser`: $CHROMIUM, else chromium on the PATH, else Debian's
# package. Playwright's own download is not used: it is a browser that no user has, from a host that CI cannot reach.
set -euo pipefail

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

# by output, not by presence: Ubuntu's package of that name is an empty shell around a snap
works() { "$1" --version 2>/dev/null | grep -i chrom; }

if [ -n "${CHROMIUM:-}" ]; then
  works "$CHROMIUM" || fail "CHROMIUM=$CHROMIUM does not run"
  exit
fi
if command -v chromium; then
  works chromium || fail "chromium is on the PATH but does not run"
  exit
fi

command -v apt-get >/dev/null ||
  fail "no chromium and no apt-get: install Chromium or Chrome and set CHROMIUM to its executable"
[ "$(id -u)" = 0 ] || fail "no chromium, and apt-get needs root: sudo apt-get install chromium, or set CHROMIUM"

export DEBIAN_FRONTEND=noninteractive
echo "no chromium: apt-get update && apt-get install chromium"
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium >/dev/null
works chromium || fail "apt-get installed chromium, but it does not run"
