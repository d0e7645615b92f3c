#!/usr/bin/env bash
# Run Check programs given as arguments; count tests from their TAP logs; the last line is "N passed, N failed, N skipped".
# A test skips by printing "SKIP name: reason" on a line of its own; it counts as skipped instead of passed.
set -u
pass=0 fail=0 skip=0
tap=$(mktemp) out=$(mktemp)
trap 'rm -f "$tap" "$out"' EXIT
for t in "$@"; do
    : >"$tap"
    start=$(date +%s%N)
    CK_TAP_LOG_FILE_NAME=$tap CK_VERBOSITY=silent "$t" >"$out" 2>&1
    rc=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    ok=$(grep -c '^ok ' "$tap")
    bad=$(grep -c '^not ok ' "$tap")
    s=$(grep -c '^SKIP ' "$out")
    [ $((ok + bad)) -eq 0 ] && bad=1
    [ $rc -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
    pass=$((pass + ok - s)) fail=$((fail + bad)) skip=$((skip + s))
    printf '%7d ms  %4d ok %3d failed %3d skipped  %s\n' "$ms" "$((ok - s))" "$bad" "$s" "${t##*/}"
    if [ "$bad" -ne 0 ]; then
        grep '^not ok ' "$tap"
        tail -n 40 "$out"
    fi
    grep '^SKIP ' "$out"
done
echo "$pass passed, $fail failed, $skip skipped"
[ "$fail" -eq 0 ]
