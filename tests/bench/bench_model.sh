#!/usr/bin/env bash
# bench_model.sh - cpu_fast beside llama.cpp on one model: prefill of 512 tokens, decode of 1 and 8 rows, in turns.
#
# usage: bench_model.sh BENCH_MODEL MODEL.gguf   (LLAMA_BIN = folder with llama-bench and llama-batched-bench; THREADS,
# ROUNDS and SECONDS_EACH may be set). Each round runs one, then the other; the median of the rounds is compared, so that
# what else the machine does meets both.
set -eu
bench=$1 model=$2
threads=${THREADS:-$(nproc)} rounds=${ROUNDS:-3} each=${SECONDS_EACH:-3}
rows=(prefill "decode 1" "decode 8")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

ours() { # "NAME TOKENS_PER_S" lines; the mean of the time given
    "$bench" "$model" "$threads" "$each" | sed -nE 's#^(prefill|decode [18]) .* best, *([0-9.]+) mean.*#\1\t\2#p'
}

theirs() { # batched-bench: 1 token of prompt, 128 of answer; column 9 is the speed of decode
    "$LLAMA_BIN/llama-bench" -m "$model" -t "$threads" -p 512 -n 128 -r 2 -o csv 2>/dev/null |
        python3 -c 'import csv, sys
for r in csv.DictReader(sys.stdin):
    print(("prefill" if int(r["n_prompt"]) else "decode 1") + "\t" + r["avg_ts"])'
    "$LLAMA_BIN/llama-batched-bench" -m "$model" -t "$threads" -c 2048 -npp 1 -ntg 128 -npl 8 2>/dev/null |
        awk -F'|' '$2 + 0 == 1 { print "decode 8\t" $9 + 0 }'
}

for ((i = 0; i < rounds; i++)); do
    ours >>"$tmp/ours"
    [ -z "${LLAMA_BIN:-}" ] || theirs >>"$tmp/theirs"
done
touch "$tmp/theirs"

median() { awk -F'\t' -v row="$2" '$1 == row { print $2 }' "$1" | sort -n | awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : 0 }'; }

printf '%-10s %12s %12s %8s   (tokens/s, median of %d rounds, %d threads)\n' "" cpu_fast llama.cpp ratio "$rounds" "$threads"
for row in "${rows[@]}"; do
    a=$(median "$tmp/ours" "$row") b=$(median "$tmp/theirs" "$row")
    awk -v r="$row" -v a="$a" -v b="$b" 'BEGIN { printf("%-10s %12.1f %12s %8s\n", r, a, (b > 0) ? sprintf("%.1f", b) : "-", (b > 0) ? sprintf("%.2f", a / b) : "-") }'
done
