#!/usr/bin/env bash
# Run the tests of the CUDA backend that are built (build/, or where the bundle was unpacked). Without a GPU each says SKIP.
set -eu
cd "$(dirname "$0")/.."
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$PWD/lib:/usr/local/cuda/lib64
programs=()
for f in "${B:-build}"/tests/*/test_cuda_*; do
    [[ -x $f && $f != *.* ]] && programs+=("$f")
done
# One after the other: they share the card.
exec python3 tests/support/run.py --jobs 1 --c "${programs[@]}"
