"""run.py counts what ran, sees what broke, and lets nothing skip unseen in CI."""

import os
import subprocess
import sys

import pytest

XML = """<?xml version="1.0"?>
<testsuites xmlns="http://check.sourceforge.net/ns"><suite><title>s</title>
<test result="{a}"><fn>t.c:1</fn><id>test_a</id><duration>1.5</duration><message>m</message></test>
<test result="success"><fn>t.c:2</fn><id>test_b</id><duration>0.1</duration><message>ok</message></test>
</suite></testsuites>"""


@pytest.fixture
def program(tmp_path):
    """A stand-in for a Check program: prints `says`, logs two tests, ends with rc."""

    def make(name, first="success", says="", rc=0, log=True):
        path = tmp_path / name
        body = f"cat >$CK_XML_LOG_FILE_NAME <<'X'\n{XML.format(a=first)}\nX\n" if log else ""
        path.write_text(f"#!/bin/sh\n{body}printf '%s\\n' '{says}'\nexit {rc}\n")
        path.chmod(0o755)
        return str(path)

    return make


def run(*args, ci=False):
    env = {**os.environ, "CI": "true" if ci else ""}
    p = subprocess.run([sys.executable, "tests/support/run.py", *args], env=env, capture_output=True, text=True)
    return p.returncode, p.stdout, p.stdout.splitlines()[-1]


def test_passes_are_summed_and_the_longest_named(program):
    rc, out, last = run("--c", program("x"), program("y"))
    assert (rc, last) == (0, "4 passed, 0 failed, 0 skipped")
    assert "    1.50 s  x test_a" in out


def test_a_failure_is_shown(program):
    rc, out, last = run("--c", program("x", first="failure", says="words of the test", rc=1))
    assert (rc, last) == (1, "1 passed, 1 failed, 0 skipped")
    assert "not ok: test_a: t.c:1: m" in out and "words of the test" in out


def test_a_program_that_dies_is_a_failure(program):
    assert run("--c", program("x", log=False, rc=0))[2] == "0 passed, 1 failed, 0 skipped"
    assert run("--c", program("x", rc=9))[2] == "2 passed, 1 failed, 0 skipped"


def test_tap_is_read_where_there_is_no_xml(tmp_path):
    path = tmp_path / "x"
    path.write_text("#!/bin/sh\nprintf 'ok 1 - a\\nnot ok 2 - b\\n1..2\\n' >$CK_TAP_LOG_FILE_NAME\n")
    path.chmod(0o755)
    rc, out, last = run("--c", str(path))
    assert (rc, last) == (1, "1 passed, 1 failed, 0 skipped")
    assert "not ok 2 - b" in out


@pytest.mark.parametrize("tap", ["", "ok 1 - a\\n", "ok 1 - a\\n1..2\\n", "1..0\\n"])
def test_a_program_that_breaks_off_is_a_failure_though_it_ends_with_0(tmp_path, tap):
    path = tmp_path / "x"
    path.write_text(f"#!/bin/sh\nprintf '{tap}' >$CK_TAP_LOG_FILE_NAME\n")
    path.chmod(0o755)
    rc, _, last = run("--c", str(path))
    assert rc == 1 and " 1 failed," in last


def test_a_skip_is_counted_and_in_ci_refused(program):
    x = program("x", says="SKIP no such thing: not here")
    assert run("--c", x)[::2] == (0, "1 passed, 0 failed, 1 skipped")
    rc, out, last = run("--c", x, ci=True)
    assert (rc, last) == (1, "1 passed, 1 failed, 0 skipped")
    assert "does not list: no such thing: not here" in out
    assert run("--c", program("y", says="SKIP linear_on_cuda: no GPU"), ci=True)[::2] == (0, "1 passed, 0 failed, 1 skipped")


def test_oracles_and_pytest_are_counted(tmp_path):
    oracle = tmp_path / "o.py"
    oracle.write_text("print('SKIP a: b')\nprint('5 passed, 0 failed, 1 skipped')\n")
    plain = tmp_path / "plain.py"
    plain.write_text("raise SystemExit(1)\n")
    test = tmp_path / "test_x.py"
    test.write_text("import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('why')\n")
    rc, out, last = run("--oracle", str(oracle), str(plain), "--pytest", str(test))
    assert (rc, last) == (1, "6 passed, 2 failed, 2 skipped")
    assert "test_x.test_c: why" in out


@pytest.mark.parametrize("says", ["0 passed, 0 failed, 0 skipped", "3 passed, 0 failed, 2 skipped", "SKIP a: b\n3 passed, 0 failed, 2 skipped"])
def test_an_oracle_that_ran_nothing_or_hides_its_skips_is_a_failure(tmp_path, says):
    oracle = tmp_path / "o.py"
    oracle.write_text(f"print({says!r})\n")
    rc, _, last = run("--oracle", str(oracle))
    assert rc == 1 and " 1 failed," in last


def test_a_python_file_without_tests_or_that_breaks_is_a_failure(tmp_path):
    for name, text in (("test_none.py", ""), ("test_broken.py", "import nothing_of_that_name\n"),
                       ("test_leaves.py", "import os\ndef test_a(): pass\ndef test_b(): os._exit(0)\n")):
        (tmp_path / name).write_text(text)
        rc, _, last = run("--pytest", str(tmp_path / name))
        assert rc == 1 and " 1 failed," in last, name
