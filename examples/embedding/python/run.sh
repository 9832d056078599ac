#!/usr/bin/env bash
# run.sh WASM GOLDEN, after install.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${EMBEDDING_BUILD:-$here/../../../build/embedding}/python/bin/python
[ -x "$python" ] || { echo "run.sh: no virtual environment: run install.sh first" >&2; exit 1; }

# PyTorch gets new memory for every output, and glibc gives large blocks back to the system: then each costs page faults,
# a third of its time. Kept, as by programs that train for long, the comparison is with PyTorch at its best.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776 MALLOC_TOP_PAD_=67108864

exec "$python" "$here/main.py" "$@"
