#!/usr/bin/env bash
# Pack what a GPU host needs to test and measure into one archive: programs, libraries, data, scripts. The CUDA driver and
# cublasLt have to be there. usage: gpu_bundle.sh BUILD OUT.tar.gz PROGRAM...   (PROGRAMs lie under BUILD)
# There: tar xzf OUT.tar.gz && bash scripts/gpu_test.sh && bash scripts/gpu_run.sh bench
set -eu
build=$1 out=$2
shift 2
most=$((64 << 20))
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir/lib"
for f in "$build/hearthd" "$build/libhearth_cuda.so" "$@"; do
    install -D -m 755 "$f" "$dir/build/${f#"$build"/}"
    strip --strip-debug "$dir/build/${f#"$build"/}"
    ldd "$f" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' >>"$dir/libs"
done
# libc and its kin must be those of the host's loader; cublasLt (500 MB) is the host's.
sort -u "$dir/libs" | grep -vE '/(libc|libm|libdl|libpthread|librt|libcuda|libcublas|libcublasLt)\.so' |
    xargs -I{} cp -L {} "$dir/lib/"
rm "$dir/libs"
install -D -t "$dir/scripts" scripts/gpu_test.sh scripts/gpu_run.sh
install -D -t "$dir/tests/bench" tests/bench/bench_gpu_*.py tests/bench/bench_resume.py tests/bench/peer_*.py
install -D -t "$dir/tests/support" tests/support/run.py
install -D -t "$dir/tests" tests/skips.txt
install -D -t "$dir/tests/api" tests/api/conftest.py tests/api/test_sdk.py tests/api/test_cuda.py
tar -C "$dir" -czf "$out" .
size=$(stat -c %s "$out")
echo "$out: $size bytes"
[ "$size" -le "$most" ] || { echo "more than $most bytes" >&2; exit 1; }
