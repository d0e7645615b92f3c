#!/usr/bin/env bash
# Run the tests of the CUDA backend that are built (build/, or where the bundle was unpacked). Without a GPU each says SKIP.
# usage: gpu_test.sh [PART ...]     plain memcheck racecheck initcheck synccheck api; without any: all, in this order
# plain: as they are. The four that follow: the same programs under that tool of compute-sanitizer, on small shapes. api: the
# OpenAI SDK against hearthd on the GPU (python3 needs openai and pytest; HEARTH_MODEL: SmolLM2).
# JOBS: programs side by side (6; they share the card, and mostly wait for the CPU that checks them).
set -eu
cd "$(dirname "$0")/.."
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$PWD/lib:/usr/local/cuda/lib64
export PATH=$PATH:/usr/local/cuda/bin
b=${B:-build} jobs=${JOBS:-6}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

programs=()
for f in "$b"/tests/*/test_cuda_*; do
    [[ -x $f && $f != *.* ]] && programs+=("$f")
done

# One program under a tool. Kernels of cublasLt (nvjet) are left out: they hand shared memory over by the copy engine, which
# racecheck does not follow and reports. So are its kernels that split K, whose workspace initcheck takes for never written.
sanitize() {
    local tool=$1 program=$2 log start=$SECONDS rc=0
    log=$logs/$tool-$(basename "$program")
    HEARTH_SMALL=1 CK_FORK=no compute-sanitizer --tool "$tool" --error-exitcode 9 \
        --kernel-name-exclude kernel_substring=nvjet --kernel-name-exclude kernel_substring=cublas \
        "$program" >"$log" 2>&1 || rc=$?
    if grep -q "no GPU (" "$log"; then
        grep -m1 "^SKIP" "$log"
    elif [ $rc = 0 ]; then
        echo "ok      $tool $(basename "$program") $((SECONDS - start)) s: $(grep -E 'SUMMARY' "$log" | tail -n 1)"
    else
        echo "FAILED  $tool $(basename "$program") $((SECONDS - start)) s, rc $rc"
        grep -E "^=========|not ok|:[EF]:" "$log" | head -n 40
    fi
}

sanitize_all() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo "SKIP ${1}_on_cuda: no GPU tools (compute-sanitizer)"
        return
    fi
    export -f sanitize
    export logs
    # A million keys are no small shape; their kernels are those of test_cuda_prefill and test_cuda_attention.
    printf '%s\n' "${programs[@]}" | grep -v test_cuda_long | xargs -P "$jobs" -I{} bash -c "sanitize $1 {}" | tee "$logs/$1.all"
    ! grep -q ^FAILED "$logs/$1.all"
}

api() {
    if [ ! -e /proc/driver/nvidia/version ] || ! python3 -c 'import openai, pytest' 2>/dev/null; then
        echo "SKIP sdk_on_cuda: no GPU, or no openai and pytest in python3"
        return
    fi
    local tests=(tests/api/test_cuda.py)
    [ -z "${HEARTH_MODEL:-}" ] || tests+=(tests/api/test_sdk.py)
    HEARTHD=$b/hearthd python3 -m pytest -q -p no:cacheprovider --durations 5 "${tests[@]}"
}

failed=()
for part in "${@:-plain memcheck racecheck initcheck synccheck api}"; do
    for one in $part; do
        case $one in
        plain) python3 tests/support/run.py --jobs "$jobs" --c "${programs[@]}" || failed+=("$one") ;;
        memcheck | racecheck | initcheck | synccheck) sanitize_all "$one" || failed+=("$one") ;;
        api) api || failed+=("$one") ;;
        *)
            echo "gpu_test.sh: $one: no such part" >&2
            exit 2
            ;;
        esac
    done
done
echo "gpu_test: ${#failed[@]} parts failed${failed[*]:+: ${failed[*]}}, $SECONDS s"
[ ${#failed[@]} = 0 ]
