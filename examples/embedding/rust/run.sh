#!/usr/bin/env bash
# run.sh WASM GOLDEN, after install.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-${EMBEDDING_BUILD:-$here/../../../build/embedding}/cargo}

cargo build --quiet --release --locked --manifest-path "$here/Cargo.toml" --target-dir "$target"
exec "$target/release/batchnorm-host" "$@"
