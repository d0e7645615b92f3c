#!/usr/bin/env bash
# Measure on a GPU: what `make gpu-bench`, gpu-serve, gpu-peers and gpu-long run, and what a host without make runs of the
# bundle. JSON, one object a line, as it goes.
# usage: gpu_run.sh bench [ROW ...]   steps, prefill, sampler, linear layers, attention (E1 E2 E3 E4 E6 K11 K8 K4 K1 K2 K3)
#        gpu_run.sh serve [ARG ...]   a server over HTTP: arguments of tests/bench/bench_gpu_serve.py
#        gpu_run.sh peers [ARG ...]   beside PyTorch: arguments of tests/bench/peer_llama.py
#        gpu_run.sh tiers [ARG ...]   KV between drives, DRAM and HBM (bench_moves), then sessions that resume over HTTP:
#                                     arguments of tests/bench/bench_resume.py
#        gpu_run.sh long [PART ...]   a million tokens: rows (of attention over them, checked in double: test_cuda_long), and
#                                     the parts of tests/bench/bench_long.c: equal, 8b, 1b; without any: all
set -eu
cd "$(dirname "$0")/.."
b=${B:-build}
bench=$b/tests/bench
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$PWD/lib:/usr/local/cuda/lib64
what=${1:?"usage: gpu_run.sh bench|serve|peers|tiers|long [ARG ...]"}
shift
case $what in
bench)
    for row in "${@:-E1 E2 E3 E4 E6 K11 K8 K4 K1 K2 K3}"; do
        for one in $row; do
            case $one in
            E6*) python3 tests/bench/bench_gpu_prefill.py --bench "$bench" --rows "$one" ;;
            K8 | K9) "$bench/bench_linear" ;;
            K4 | K7) "$bench/bench_prefill" ;;
            K1 | K2 | K3) "$bench/bench_attn" "$one" ;;
            *) "$bench/bench_gpu" "$one" ;;
            esac
        done
    done
    ;;
serve) exec python3 tests/bench/bench_gpu_serve.py --hearthd "$b/hearthd" --bench "$bench" "$@" ;;
peers) exec python3 tests/bench/peer_llama.py --bench "$bench" "$@" ;;
tiers)
    "$bench/bench_moves" T3 T7 T2 "${BENCH_DIR:-/tmp}"
    exec python3 tests/bench/bench_resume.py T6 T5 T7 T10 --hearthd "$b/hearthd" --dir "${BENCH_DIR:-/tmp}" "$@"
    ;;
long)
    failed=0
    for part in "${@:-rows equal 8b 1b}"; do
        for one in $part; do
            case $one in
            rows) "$b/tests/ops/test_cuda_long" || failed=1 ;;
            *) "$bench/bench_long" "$one" || failed=1 ;;
            esac
        done
    done
    exit $failed
    ;;
*)
    echo "gpu_run.sh: $what: must be bench, serve, peers, tiers or long" >&2
    exit 2
    ;;
esac
