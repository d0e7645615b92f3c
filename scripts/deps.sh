#!/usr/bin/env bash
# Install what the build and the tests need on Debian or Ubuntu; elsewhere print the list and stop.
set -eu
need="gcc make pkg-config git libmicrohttpd-dev libcjson-dev libpcre2-dev libutf8proc-dev libyaml-dev libssl-dev check python3-venv"
missing=""
for p in $need; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok' || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
echo "installing:$missing"
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -q && $sudo apt-get install -y -q --no-install-recommends $missing
