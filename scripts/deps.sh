#!/usr/bin/env bash
# Install what the build and the tests need on Debian or Ubuntu; --fuzz and --lint add what make fuzz and make lint need.
# Elsewhere, or without root and sudo: print the list and stop.
set -eu

need="gcc make pkg-config git libmicrohttpd-dev libyaml-dev libssl-dev
      libsystemd-dev liburing-dev check curl ca-certificates python3 python3-venv"
for a in "$@"; do
    case $a in
    --test) ;;
    --fuzz) need="$need clang libclang-rt-14-dev" ;;
    --lint) need="$need clang clang-format-14 clang-tidy cppcheck shellcheck systemd" ;;
    *) echo "usage: scripts/deps.sh [--test] [--fuzz] [--lint]" >&2 && exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    # Not Debian: a compiler and the libraries are what counts; if they are there, say nothing.
    if command -v cc >/dev/null && command -v python3 >/dev/null && pkg-config --exists libmicrohttpd \
        yaml-0.1 libcrypto check 2>/dev/null; then
        exit 0
    fi
    echo "This is no Debian or Ubuntu: please install what these packages hold, then run make again:" >&2
    echo "$need" | xargs -n 8 echo "   " >&2
    exit 1
fi

missing=""
for p in $need; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0

sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "These packages are missing, and there is neither root nor sudo to install them:$missing" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
quietly() { # show the output only when it fails
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        echo "failed: $*" >&2
        exit 1
    fi
    rm -f "$log"
}
quietly $sudo apt-get update -q
# shellcheck disable=SC2086 # a list of words
quietly $sudo apt-get install -y -q --no-install-recommends $missing
