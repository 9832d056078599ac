#!/usr/bin/env bash
# Installs this host from nothing on Debian 12: a JDK of 17 or later, Maven, and the jars.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "${EMBEDDING_BUILD:-$here/../../../build/embedding}")
sudo=$([ "$(id -u)" = 0 ] || echo sudo)

java_new_enough() {
  command -v javac >/dev/null && [ "$(javac -version 2>&1 | sed 's/^javac \([0-9]*\).*/\1/')" -ge 17 ]
}
if ! java_new_enough || ! command -v mvn >/dev/null; then
  $sudo apt-get update -q
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends openjdk-17-jdk-headless maven
  java_new_enough || { echo "install.sh: Java 17 is needed, here is $(javac -version 2>&1)" >&2; exit 1; }
fi
mvn --batch-mode --quiet --file "$here/pom.xml" -Doutput="$build" package
javac -version
ls "$build/java/jars"
