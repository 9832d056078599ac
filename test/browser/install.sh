#!/usr/bin/env bash
# Makes sure that there are the browsers for `npm run test:browser` (chromium) and `npm run test:packed-browser` (all three):
# `install.sh [chromium] [firefox] [webkit]`, or all without arguments. Each is $CHROMIUM, $FIREFOX_ESR, $WEBKITWEBDRIVER or
# $XVFB, else on the PATH, else Debian's package. Playwright's own downloads are not used: they are browsers that no user
# has, from a host that CI cannot reach.
set -euo pipefail

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

# by output, not by presence: Ubuntu's packages of browsers are empty shells around a snap
works() {
  local output
  output=$("$1" "$2" 2>&1 || true)
  grep -iE -m 1 "$3" <<<"$output"
}

missing=()

# program, option that it answers, a line of the answer, variable, package
need() {
  local program=$1 option=$2 line=$3 given=${!4:-} package=$5
  if [ -n "$given" ]; then
    works "$given" "$option" "$line" || fail "$4=$given does not run"
  elif command -v "$program" >/dev/null; then
    works "$program" "$option" "$line" || fail "$program is on the PATH but does not run"
  else
    missing+=("$package")
  fi
}

look() {
  missing=()
  for browser in "$@"; do
    case $browser in
    chromium) need chromium --version "^(chromium|google chrome)" CHROMIUM chromium ;;
    firefox) need firefox-esr --version "^mozilla firefox" FIREFOX_ESR firefox-esr ;;
    webkit)
      need WebKitWebDriver --help webkitwebdriver WEBKITWEBDRIVER webkit2gtk-driver
      need Xvfb -help "^use: X" XVFB xvfb # a screen in memory: WebKitGTK's browser needs one
      ;;
    *) fail "expected chromium, firefox or webkit, got $browser" ;;
    esac
  done
}

[ $# -gt 0 ] || set -- chromium firefox webkit
look "$@"
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null ||
  fail "no ${missing[*]} and no apt-get: install them, and set CHROMIUM, FIREFOX_ESR, WEBKITWEBDRIVER, XVFB to executables"
[ "$(id -u)" = 0 ] || fail "no ${missing[*]}, and apt-get needs root: sudo apt-get install ${missing[*]}"

export DEBIAN_FRONTEND=noninteractive
echo "apt-get update && apt-get install ${missing[*]}"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
look "$@"
[ ${#missing[@]} -eq 0 ] || fail "apt-get installed ${missing[*]}, but their programs are not on the PATH"
