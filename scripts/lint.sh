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

run_tidy() {
    local log rc=0
    log=$(mktemp)
    printf '%s\n' "${sources[@]}" | xargs -P"$(nproc)" -n4 bash -c \
        'clang-tidy --quiet "${@:1}" -- -std=gnu17 -I. -D_GNU_SOURCE -DHAVE_SYSTEMD -DHEARTH_VERSION=\"\" -DHEARTH_COMMIT=\"\" -DHEARTH_LIBRARIES=\"\"' \
        tidy >"$log" 2>/dev/null || rc=1
    cat "$log"
    rm -f "$log"
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
