#!/usr/bin/env bash
# run.sh WASM GOLDEN, after install.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "${EMBEDDING_BUILD:-$here/../../../build/embedding}")

make --silent --directory "$here" BUILD="$build"
exec "$build/c/main" "$@"
