#!/usr/bin/env bash
# What the Python tests need: .venv from the pinned list tests/requirements.txt, and build/templates, the chat templates
# of the source package in tests/sources.txt. When both are there and the lists unchanged: nothing, and no network.
set -euo pipefail

# Is $1 the digest of file $2?
fresh() { [ -e "$1" ] && [ "$(cat "$1")" = "$(sha256sum <"$2")" ]; }
quiet=(-q --disable-pip-version-check --require-hashes)

if ! fresh .venv/.made-from tests/requirements.txt; then
    echo "making .venv from tests/requirements.txt"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install "${quiet[@]}" -r tests/requirements.txt
    sha256sum <tests/requirements.txt >.venv/.made-from
fi

if ! fresh build/templates/.made-from tests/sources.txt; then
    echo "getting the chat templates of tests/sources.txt"
    mkdir -p build
    rm -rf build/templates build/sources
    .venv/bin/pip download "${quiet[@]}" --no-deps --no-build-isolation -r tests/sources.txt -d build/sources
    mkdir -p build/templates
    tar -xzf build/sources/llama_cpp_python-*.tar.gz -C build/templates --strip-components=5 --wildcards \
        '*/vendor/llama.cpp/models/templates/*.jinja'
    rm -rf build/sources
    sha256sum <tests/sources.txt >build/templates/.made-from
fi
