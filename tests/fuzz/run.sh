#!/usr/bin/env bash
# Run libFuzzer programs given as arguments, FUZZ_RUNS executions each (200000); print executions and coverage of each.
# Fewer executions are a failure, and so is a fuzzer that reaches fewer than 100 edges: it does not do what it is for.
# What a fuzzer finds interesting stays beside its program (NAME.found/, reused); an input that breaks it is kept there
# as NAME.crash-... : fix the bug, then commit the input to tests/fuzz/corpus/NAME/. FUZZ_ARGS adds options.
set -u
runs=${FUZZ_RUNS:-200000} least_edges=100 failed=0
for f in "$@"; do
    name=${f##*/fuzz_}
    mkdir -p "$f.found"
    # shellcheck disable=SC2086 # FUZZ_ARGS is a list of words
    "$f" -runs="$runs" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 -artifact_prefix="$f." \
        ${FUZZ_ARGS:-} "$f.found" "tests/fuzz/corpus/$name" >"$f.log" 2>&1
    rc=$?
    done_runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$f.log")
    per_s=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$f.log")
    cover=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$f.log" | tail -n 1)
    edges=$(sed -n 's/^INFO: Loaded .* (\([0-9]*\) inline 8-bit counters).*/\1/p' "$f.log" | head -n 1)
    printf 'fuzz_%-12s %9s executions  %7s a second  %s  (%s edges in the program)\n' \
        "$name" "${done_runs:-?}" "${per_s:-?}" "${cover:-cov: ?}" "${edges:-?}"
    reached=$(sed -n 's/^cov: \([0-9]*\) .*/\1/p' <<<"$cover")
    if [ $rc -ne 0 ]; then
        failed=$((failed + 1))
        tail -n 40 "$f.log"
    elif [ "${done_runs:-0}" -lt "$runs" ] || [ "${reached:-0}" -lt $least_edges ]; then
        failed=$((failed + 1))
        echo "FAILED fuzz_$name: must run $runs times and reach $least_edges edges"
    fi
done
[ $failed -eq 0 ]
