#!/usr/bin/env bash
# Look at the sources without running them: format, include directions, shell scripts, cppcheck, clang-tidy, the unit's
# exposure. Run from the root of the repository; an argument is the test that compares hearth.yaml with the code. Prints
# what is wrong; the last line says how many checks failed.
set -u
failed=0
check() { # name, command ...
    local name=$1 start out
    shift
    start=$(date +%s)
    if out=$("$@" 2>&1); then
        echo "ok      $name ($(($(date +%s) - start)) s)"
    else
        echo "FAILED  $name"
        echo "$out"
        failed=$((failed + 1))
    fi
}

mapfile -t all < <(git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')
mapfile -t sources < <(git ls-files 'server/*.c' 'engine/*.c')
mapfile -t shell < <(git ls-files '*.sh' .ci/run)
defines=(-D_GNU_SOURCE -DHAVE_SYSTEMD '-DHEARTH_VERSION=""' '-DHEARTH_COMMIT=""' '-DHEARTH_LIBRARIES=""')

# vec_grow copies the pointer as bytes, which cppcheck takes for a leak; it can't read code for one ISA's intrinsics.
run_cppcheck() {
    cppcheck -j"$(nproc)" --quiet --enable=warning,portability --std=c11 -I. "${defines[@]}" \
        --suppress=missingIncludeSystem --suppress=memleak:engine/base/vec.h \
        '--suppress=internalAstError:engine/compute/cpu_fast_*' --error-exitcode=1 \
        --template='{file}:{line}: {severity}: {message} [{id}]' "${sources[@]}"
}

tidy_one() { # the flags are those of the Makefile
    local isa=()
    case $1 in
    *_avx2.c) isa=(-mavx2 -mfma -mf16c) ;;
    *_avx512.c) isa=(-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni) ;;
    esac
    clang-tidy --quiet "$1" -- -std=gnu17 -I. "${defines[@]}" "${isa[@]}" 2>/dev/null
}

run_tidy() {
    local f rc=0 log
    log=$(mktemp -d)
    for f in "${sources[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
        { tidy_one "$f" >"$log/out.${f//\//_}" || touch "$log/failed"; } &
    done
    wait
    [ ! -e "$log/failed" ] || rc=1
    cat "$log"/out.*
    rm -rf "$log"
    return $rc
}

# Exposure at most 2.0 of 10, by systemd's own measure; it is printed below.
run_unit() {
    sed 's|@BINDIR@|/usr/bin|' systemd/hearthd.service >build/hearthd.service
    systemd-analyze security --offline=true --no-pager --threshold=20 build/hearthd.service
}

mkdir -p build
check "format (clang-format 14)" clang-format-14 --dry-run -Werror "${all[@]}"
check "include directions and fences" python3 scripts/lint_includes.py
check "shell scripts (shellcheck)" shellcheck "${shell[@]}"
check "cppcheck" run_cppcheck
check "clang-tidy" run_tidy
[ $# -eq 0 ] || check "hearth.yaml is true to the code" "$1"
check "systemd exposure at most 2.0" run_unit
systemd-analyze security --offline=true --no-pager build/hearthd.service 2>&1 | grep -a Overall
echo "$failed checks failed"
[ $failed -eq 0 ]
