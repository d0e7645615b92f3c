#!/usr/bin/env bash
# Run the tests of the CUDA backend that are built (build/, or where the bundle was unpacked). Without a GPU each says SKIP.
# usage: gpu_test.sh [PART ...]     plain memcheck racecheck initcheck synccheck api; without any: all
# plain: as they are. The four that follow: the same programs under that tool of compute-sanitizer, on small shapes. api: the
# OpenAI SDK against hearthd on the GPU (python3 needs openai and pytest; HEARTH_MODEL: SmolLM2).
# JOBS: programs side by side (as many as processors; they share the card, and mostly wait for the CPU that checks them).
set -eu
cd "$(dirname "$0")/.."
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$PWD/lib:/usr/local/cuda/lib64
export PATH=$PATH:/usr/local/cuda/bin
b=${B:-build} jobs=${JOBS:-$(nproc)}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export XDG_CACHE_HOME=$logs/plain # algorithms that are timed while programs share the card must not stay
mkdir "$XDG_CACHE_HOME"

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
        # It ends with an error for the library's races, too: whether the tests passed is what their own last line says.
        rc=1
        if grep -q "RACECHECK SUMMARY" "$log" && grep -q "^100%: Checks" "$log"; then rc=0; fi
    fi
    if [ $rc = 0 ] && [ "$ours" = 0 ]; then
        echo "ok      $tool $(basename "$program") $((SECONDS - start)) s: $(grep SUMMARY "$log" | tail -n 1)"
    else # in one write, whole beside others
        echo "FAILED  $tool $(basename "$program") $((SECONDS - start)) s, rc $rc, races in kernels of our own: $ours
$(grep -E "^========= [^ ]|:[EF]:" "$log" | grep -vE "$library" | head -n 30 | cut -c 1-160)
$(grep -v "^=========" "$log" | tail -n 5 | cut -c 1-300)"
    fi
}

# Every program under every tool given, in their order: those that take longest stand first.
sanitize_all() {
    local tool
    if ! command -v compute-sanitizer >/dev/null; then
        echo "SKIP sanitizers_on_cuda: no GPU tools (compute-sanitizer)"
        return
    fi
    export -f sanitize
    export logs library
    # A million keys are no small shape, and whole conversations none for racecheck: their kernels are in other programs.
    # shellcheck disable=SC2016 # the inner shell expands them
    for tool in "$@"; do
        printf "$tool %s\n" "${programs[@]}" | grep -vE 'test_cuda_long|racecheck .*test_cuda_deterministic'
    done | xargs -P "$jobs" -L 1 bash -c 'sanitize "$1" "$2"' sanitize | tee "$logs/all"
    echo "sanitizers: $(grep -c '^ok' "$logs/all") ok, $(grep -c '^FAILED' "$logs/all") failed, $(grep -c '^SKIP' "$logs/all") skipped"
    ! grep -q '^FAILED' "$logs/all"
}

api() {
    if [ ! -e /proc/driver/nvidia/version ] || ! python3 -c 'import openai, pytest' 2>/dev/null; then
        echo "SKIP sdk_on_cuda: no GPU, or no openai and pytest in python3"
        return
    fi
    local failed=0
    HEARTHD=$b/hearthd python3 -m pytest -q -p no:cacheprovider tests/api/test_cuda.py || failed=1
    # They ask for the same answer alone and in company, which a GPU promises in deterministic mode.
    [ -z "${HEARTH_MODEL:-}" ] || HEARTHD=$b/hearthd HEARTH_ENGINE_DETERMINISTIC=true \
        python3 -m pytest -q -p no:cacheprovider tests/api/test_sdk.py || failed=1
    return $failed
}

failed=() tools=()
for part in "${@:-plain racecheck synccheck initcheck memcheck api}"; do
    for one in $part; do
        case $one in
        plain | api) ;;
        memcheck | racecheck | initcheck | synccheck) tools+=("$one") ;;
        *)
            echo "gpu_test.sh: $one: no such part" >&2
            exit 2
            ;;
        esac
    done
done
wanted() {
    [[ " ${parts[*]} " == *" $1 "* ]]
}
read -ra parts <<<"${*:-plain api}"
if wanted plain; then
    python3 tests/support/run.py --jobs "$jobs" --c "${programs[@]}" || failed+=(plain)
fi
if [ ${#tools[@]} -gt 0 ]; then
    sanitize_all "${tools[@]}" || failed+=(sanitizers)
fi
if wanted api; then
    api || failed+=(api)
fi
echo "gpu_test: ${#failed[@]} parts failed${failed[*]:+: ${failed[*]}}, $SECONDS s"
[ ${#failed[@]} = 0 ]
