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
export XDG_CACHE_HOME=$logs # algorithms that are timed while programs share the card must not stay

programs=()
for f in "$b"/tests/*/test_cuda_*; do
    [[ -x $f && $f != *.* ]] && programs+=("$f")
done

# One program under a tool. racecheck does not know the copy engine by which cublasLt's own kernels (nvjet) hand shared memory
# over, and reports them; left out by its filters they crash. So they run, and reports of a race in them alone do not count.
library='nvjet|cublas|cutlass'
sanitize() {
    local tool=$1 program=$2 log start=$SECONDS rc=0 small=3 options=(--error-exitcode 9) ours=0
    log=$logs/$tool-$(basename "$program")
    if [ "$tool" = racecheck ]; then
        small=12 options=(--print-limit 100000)
    fi
    HEARTH_SMALL=$small CK_FORK=no compute-sanitizer --tool "$tool" "${options[@]}" "$program" >"$log" 2>&1 || rc=$?
    if grep -q "no GPU (" "$log"; then
        grep -m1 "^SKIP" "$log"
        return
    fi
    if [ "$tool" = racecheck ]; then
        ours=$(grep -E "access (at|by)" "$log" | grep -cvE "$library" || true)
        grep -q "RACECHECK SUMMARY" "$log" || rc=1
    fi
    if [ $rc = 0 ] && [ "$ours" = 0 ]; then
        echo "ok      $tool $(basename "$program") $((SECONDS - start)) s: $(grep SUMMARY "$log" | tail -n 1)"
    else
        echo "FAILED  $tool $(basename "$program") $((SECONDS - start)) s, rc $rc, races in kernels of our own: $ours"
        grep -E "^=========|:[EF]:" "$log" | grep -vE "$library" | head -n 40
    fi
}

sanitize_all() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo "SKIP ${1}_on_cuda: no GPU tools (compute-sanitizer)"
        return
    fi
    export -f sanitize
    export logs library
    # A million keys and whole conversations are no small shapes; their kernels are in the other programs.
    printf '%s\n' "${programs[@]}" | grep -vE 'test_cuda_(long|deterministic)' | xargs -P "$jobs" -I{} bash -c "sanitize $1 {}" | tee "$logs/$1.all"
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
