#!/usr/bin/env python3
"""Check that includes go one way and that each library stays behind its fence. usage: lint_includes.py [ROOT]

    server -> engine/engine.h, text, base     engine/*.c -> all of engine
    kv, model, cluster -> compute -> base     text -> base     cuda -> compute, kv/format.h + fmt_*.h, base
"""

import fnmatch
import os
import re
import sys

FORMATS = ["engine/kv/format.h", "engine/kv/fmt_*.h"]
BASE = ["engine/base/*"]

# Folder -> what its files may include. A file's rule is that of its longest matching folder.
RULES = {
    "server": ["server/*", "engine/engine.h", "engine/text/*", *BASE],
    "engine": ["engine/*"],
    "engine/base": BASE,
    "engine/text": ["engine/text/*", *BASE],
    "engine/compute": ["engine/compute/*", *FORMATS, *BASE],
    "engine/kv": ["engine/kv/*", "engine/compute/*", *BASE],
    "engine/model": ["engine/model/*", "engine/compute/*", *BASE],
    "engine/cluster": ["engine/cluster/*", "engine/compute/*", *BASE],
    "cuda": ["cuda/*", "engine/compute/*", *FORMATS, *BASE],
}

# Library header -> the files that may include it (tests may look behind every fence).
FENCES = {
    "microhttpd.h": ["server/http*"],
    "gnutls/*": ["server/http*"],
    "cJSON.h": ["engine/base/json*"],
    "cjson/*": ["engine/base/json*"],
    "yaml.h": ["server/config_yaml.c"],
    "pcre2.h": ["engine/text/*"],
    "utf8proc.h": ["engine/text/*"],
    "openssl/*": ["engine/base/hash.c"],
    "liburing.h": ["engine/kv/aio_uring.c"],
    "systemd/*": ["server/notify.c"],
    "cuda*": ["cuda/*"],
    "cublas*": ["cuda/*"],
    "mpi.h": ["engine/cluster/*"],
    "nccl.h": ["engine/cluster/*"],
    "ucp/*": ["engine/cluster/*", "engine/kv/tier_remote.c"],
    "check.h": [],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def matches(path, patterns):
    return any(fnmatch.fnmatch(path, p) for p in patterns)


def rule_of(path):
    folder = os.path.dirname(path)
    while folder and folder not in RULES:
        folder = os.path.dirname(folder)
    return RULES.get(folder)


def check_file(root, path):
    """Yield one sentence for each include of root/path that may not be there."""
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        text = f.read()
    allowed = rule_of(path)
    for m in INCLUDE.finditer(text):
        line = text.count("\n", 0, m.start(1)) + 1
        kind, name = m.groups()
        if kind == '"':
            if not os.path.exists(os.path.join(root, name)):
                yield f'{path}:{line}: "{name}": write the path from the root of the repository'
            elif allowed is not None and not matches(name, allowed):
                yield f'{path}:{line}: may not include "{name}"; allowed here: {", ".join(allowed)}'
        else:
            for header, where in FENCES.items():
                if fnmatch.fnmatch(name, header) and not matches(path, [*where, "tests/*"]):
                    yield f"{path}:{line}: <{name}> is fenced in {', '.join(where) or 'tests'}"


def check_tree(root):
    for top in ("server", "engine", "cuda", "tests"):
        for folder, _, files in sorted(os.walk(os.path.join(root, top))):
            for name in sorted(files):
                if name.endswith((".c", ".h", ".cu", ".cuh", ".cpp")):
                    yield from check_file(root, os.path.relpath(os.path.join(folder, name), root))


def main():
    bad = list(check_tree(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("\n".join(bad) if bad else "includes go one way")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
