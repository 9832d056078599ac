#!/usr/bin/env bash
# run.sh WASM GOLDEN, after install.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "${EMBEDDING_BUILD:-$here/../../../build/embedding}")/go
[ ! -e "$build/toolchain" ] || PATH=$build/toolchain/bin:$PATH

go build -C "$here" -trimpath -o "$build/batchnorm-host" .
exec "$build/batchnorm-host" "$@"
