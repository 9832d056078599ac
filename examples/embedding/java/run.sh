#!/usr/bin/env bash
# run.sh WASM GOLDEN [wasmtime | endive], after install.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "${EMBEDDING_BUILD:-$here/../../../build/embedding}")

jar=$build/java/jars/batchnorm-host.jar
if [ ! -e "$jar" ] || [ -n "$(find "$here/src" "$here/pom.xml" -newer "$jar")" ]; then
  mvn --batch-mode --quiet --offline --file "$here/pom.xml" -Doutput="$build" package
fi
exec java -jar "$jar" "$@"
