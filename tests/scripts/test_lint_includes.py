"""lint_includes.py must see each kind of wrong include that is planted, and pass the tree as it is."""

import subprocess
import sys

import pytest

PLANTED = [
    ("server/a.c", '#include "engine/kv/pool.h"', "may not include"),
    ("server/a.c", '#include "engine/model/load.h"', "may not include"),
    ("engine/kv/a.c", '#include "engine/model/load.h"', "may not include"),
    ("engine/model/a.c", '  #  include "engine/kv/pool.h"', "may not include"),
    ("engine/compute/a.c", '#include "engine/kv/pool.h"', "may not include"),
    ("engine/base/a.c", '#include "engine/text/chat.h"', "may not include"),
    ("engine/text/a.h", '#include "engine/engine.h"', "may not include"),
    ("engine/a.c", '#include "server/http.h"', "may not include"),
    ("cuda/a.cu", '#include "engine/kv/pool.h"', "may not include"),
    ("engine/kv/a.c", '#include "pool.h"', "from the root"),
    ("server/a.c", "#include <microhttpd.h>", "fenced"),
    ("server/http.h", "#include <cjson/cJSON.h>", "fenced"),
    ("engine/text/a.c", "#include <openssl/evp.h>", "fenced"),
]
FINE = [
    ("server/a.c", '#include "engine/engine.h"\n#include "engine/text/chat.h"\n#include "engine/base/err.h"'),
    ("engine/a.c", '#include "engine/kv/pool.h"\n#include "engine/model/load.h"'),
    ("engine/compute/a.c", '#include "engine/kv/format.h"\n#include "engine/kv/fmt_kv16.h"'),
    ("engine/kv/a.c", '#include "engine/compute/step.h"'),
    ("server/http_tls.c", "#include <microhttpd.h>\n#include <gnutls/gnutls.h>"),
    ("tests/unit/a.c", '#include "engine/kv/pool.h"\n#include <check.h>'),
]
HEADERS = [
    "server/http.h",
    "engine/engine.h",
    "engine/kv/pool.h",
    "engine/kv/format.h",
    "engine/kv/fmt_kv16.h",
    "engine/model/load.h",
    "engine/text/chat.h",
    "engine/base/err.h",
    "engine/compute/step.h",
]


def lint(root):
    p = subprocess.run([sys.executable, "scripts/lint_includes.py", str(root)], capture_output=True, text=True)
    return p.returncode, p.stdout


@pytest.fixture
def tree(tmp_path):
    def put(path, text):
        f = tmp_path / path
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(text + "\n")

    for h in HEADERS:
        put(h, "")
    return tmp_path, put


@pytest.mark.parametrize("path,text,said", PLANTED)
def test_a_planted_include_is_seen(tree, path, text, said):
    root, put = tree
    put(path, "/* a */\n" + text)
    rc, out = lint(root)
    assert rc == 1 and said in out and f"{path}:2:" in out


@pytest.mark.parametrize("path,text", FINE)
def test_an_allowed_include_passes(tree, path, text):
    root, put = tree
    put(path, text)
    assert lint(root) == (0, "includes go one way\n")


def test_the_tree_is_clean():
    rc, out = lint(".")
    assert rc == 0, out
