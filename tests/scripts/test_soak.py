"""scripts/soak.py: long forms run once, random tests run seed after seed, and nothing that fails or hangs is green."""

import os
import re
import subprocess
import sys

SOAK = os.path.join(os.path.dirname(__file__), "../../scripts/soak.py")
GOOD = "100%: Checks: 3, Failures: 0, Errors: 0"


def program(tmp_path, name, *lines):
    path = tmp_path / name
    path.write_text("#!/bin/sh\necho $HEARTH_SOAK:$HEARTH_SEED >>" + str(tmp_path / (name + ".ran")) + "\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


def soak(*args):
    p = subprocess.run([sys.executable, SOAK, *args], stdout=subprocess.PIPE, text=True, timeout=60)
    last = re.search(r"(\d+) passed, (\d+) failed$", p.stdout.rstrip())
    return p.returncode, int(last[1]), int(last[2]), p.stdout


def ran(tmp_path, name):
    return (tmp_path / (name + ".ran")).read_text().split()


def test_long_forms_run_once_and_random_ones_with_seed_after_seed(tmp_path):
    long = program(tmp_path, "long", "echo progress: half", f"echo '{GOOD}'")
    random = program(tmp_path, "random", f"echo '{GOOD}'")
    rc, passed, failed, out = soak("--minutes", "0.02", "--long", long, "--random", random)
    assert (rc, failed) == (0, 0)
    assert ran(tmp_path, "long") == ["1:"]
    seeds = ran(tmp_path, "random")
    assert len(seeds) > 1 and seeds == [f":{2 + i}" for i in range(len(seeds))]
    assert passed == 3 + 3 * len(seeds)
    assert "progress: half" not in out  # it is shown once a minute


def test_each_random_test_runs_once_at_least(tmp_path):
    random = program(tmp_path, "random", f"echo '{GOOD}'")
    assert soak("--minutes", "0", "--random", random)[:3] == (0, 3, 0)


def test_what_fails_says_nothing_or_hangs_is_a_failure(tmp_path):
    fails = program(tmp_path, "fails", "echo '66%: Checks: 3, Failures: 1, Errors: 0'", "exit 1")
    rc, passed, failed, out = soak("--minutes", "0", "--random", fails)
    assert (rc, passed, failed) == (1, 2, 1) and "HEARTH_SEED=2 " + fails in out
    assert soak("--minutes", "0", "--long", program(tmp_path, "mute", "exit 0"))[:3] == (1, 0, 1)
    assert soak("--minutes", "0", "--long", program(tmp_path, "dies", "kill -9 $$"))[:3] == (1, 0, 1)
    hangs = program(tmp_path, "hangs", f"echo '{GOOD}'", "exec sleep 100")
    rc, _, failed, out = soak("--minutes", "0", "--quiet-minutes", "0.02", "--long", hangs)
    assert (rc, failed) == (1, 1) and "hangs" in out


def test_nothing_to_run_is_no_success():
    assert soak("--minutes", "0")[0] == 1
