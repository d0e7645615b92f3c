#!/usr/bin/env python3
"""Run all tests and count them; the last line is "N passed, N failed, N skipped".

    run.py [--jobs N] [--python PYTHON] [--c PROGRAM...] [--oracle SCRIPT...] [--pytest PATH...]

C programs are Check suites (their XML log is read) or write TAP with its plan to $CK_TAP_LOG_FILE_NAME, and run side by
side; a test skips by printing "SKIP name: reason".
Oracles are Python programs whose last line is "N passed, N failed, N skipped" (skips as above, each named); without such
a line one counts as one test. pytest's own report is read. With CI=true a skip that tests/skips.txt does not list is a failure.
"""

import argparse
import concurrent.futures
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

SKIPS = "tests/skips.txt"
TOTAL = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")
PLAN = re.compile(r"^1\.\.(\d+)$", re.M)
SKIP = re.compile(r"^SKIP ([^:]+): (.*)$", re.M)


class Report:
    """What one program (or pytest as a whole) did."""

    def __init__(self, name):
        self.name, self.passed, self.failed, self.skipped, self.seconds = name, 0, 0, 0, 0.0
        self.skips = []  # (name, reason)
        self.times = []  # (seconds, name)
        self.trouble = ""  # shown when something failed

    def print(self):
        print(f"{self.seconds:8.2f} s {self.passed:5d} ok {self.failed:3d} failed {self.skipped:3d} skipped  {self.name}")
        for name, reason in self.skips:
            print(f"           SKIP {name}: {reason}")
        if self.failed:
            print(self.trouble.rstrip())
        sys.stdout.flush()


def tail(text, lines):
    return "\n".join(text.splitlines()[-lines:])


def run(argv, env=None):
    start = time.monotonic()
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, stdin=subprocess.DEVNULL)
    return p.returncode, p.stdout.decode("utf-8", "replace"), time.monotonic() - start


def strip_namespace(root):
    for e in root.iter():
        e.tag = e.tag.rpartition("}")[2]
    return root


def read_check(path, report):
    """Add Check's results to the report; a line for each failure."""
    bad = []
    for t in strip_namespace(xml.parse(path).getroot()).iter("test"):
        name = t.findtext("id")
        if t.get("result") == "success":
            report.passed += 1
        else:
            report.failed += 1
            bad.append(f"not ok: {name}: {t.findtext('fn')}: {t.findtext('message')}")
        report.times.append((max(0.0, float(t.findtext("duration") or 0)), f"{report.name} {name}"))
    return bad


def read_tap(path, report):
    """The same for a program that writes TAP only; without its plan, or with another number of tests, it broke off."""
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read()
    lines = text.splitlines()
    bad = [line for line in lines if line.startswith("not ok")]
    report.passed += sum(line.startswith("ok") for line in lines)
    plan = PLAN.search(text)
    if not plan or int(plan[1]) != report.passed + len(bad):
        bad.append(f"not ok: {report.passed + len(bad)} tests of {plan[1] if plan else 'a plan that is missing'}")
    report.failed += len(bad)
    report.times.append((report.seconds, report.name))
    return bad


def run_c(program):
    report = Report(os.path.basename(program))
    with tempfile.TemporaryDirectory() as folder:
        log, tap = os.path.join(folder, "check.xml"), os.path.join(folder, "check.tap")
        env = {"CK_XML_LOG_FILE_NAME": log, "CK_TAP_LOG_FILE_NAME": tap, "CK_VERBOSITY": "silent"}
        rc, out, report.seconds = run([program], {**os.environ, **env})
        bad = []
        try:
            bad = read_check(log, report) if os.path.exists(log) else read_tap(tap, report)
        except (OSError, xml.ParseError) as e:
            bad.append(f"not ok: no report from {program}: {e}")
    report.skips = SKIP.findall(out)
    report.skipped = len(report.skips)
    report.passed -= report.skipped
    if report.failed == 0 and (rc != 0 or report.passed + report.skipped == 0):
        bad.append(f"not ok: {program} ended with {rc}")
        report.failed = 1
    report.trouble = "\n".join([*bad, tail(out, 40)])
    return report


def run_oracle(python, script):
    report = Report(os.path.relpath(script))
    rc, out, report.seconds = run([python, script])
    lines = out.rstrip().splitlines()
    m = TOTAL.match(lines[-1]) if lines else None
    report.skips = SKIP.findall(out)
    if m:
        report.passed, report.failed, report.skipped = map(int, m.groups())
        if report.skipped != len(report.skips) or report.passed + report.failed + report.skipped == 0:
            report.failed += 1
            out += f"\nnot ok: {report.name}: nothing ran, or {report.skipped} skips of which {len(report.skips)} are named"
    if (not m or rc != 0) and report.failed == 0:
        report.failed = 1 if rc != 0 else 0
        report.passed += 1 if rc == 0 else 0
    report.times.append((report.seconds, report.name))
    report.trouble = tail(out, 60)
    return report


def run_pytest(python, paths):
    report = Report("pytest " + " ".join(paths))
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "pytest.xml")
        argv = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={log}", *paths]
        rc, out, report.seconds = run(argv)
        try:
            cases = list(xml.parse(log).getroot().iter("testcase"))
        except (OSError, xml.ParseError):
            cases = []
    for case in cases:
        name = f"{case.get('classname')}.{case.get('name')}"
        kinds = {child.tag: child for child in case}
        report.times.append((float(case.get("time") or 0), name))
        if "failure" in kinds or "error" in kinds:
            report.failed += 1
        elif "skipped" in kinds:
            report.skipped += 1
            report.skips.append((name, kinds["skipped"].get("message") or ""))
        else:
            report.passed += 1
    if report.failed == 0 and (rc != 0 or not cases):
        report.failed = 1
    report.trouble = tail(out, 120)
    return report


def allowed_skips():
    with open(SKIPS, encoding="utf-8") as f:
        return [line.split(":")[0].strip() for line in f if line.strip() and not line.startswith("#")]


def refuse_skips(reports):
    """In CI a skip that nobody wrote down is a failure. Returns how many there are."""
    refused = 0
    allowed = allowed_skips()
    for r in reports:
        for name, reason in r.skips:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in allowed):
                print(f"not ok: a skip that {SKIPS} does not list: {name}: {reason}")
                refused += 1
    return refused


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("--python", default=sys.executable)
    for kind in ("c", "oracle", "pytest"):
        p.add_argument("--" + kind, nargs="*", default=[])
    a = p.parse_args()
    reports = []

    def done(report):
        reports.append(report)
        report.print()

    with concurrent.futures.ThreadPoolExecutor(max(1, a.jobs)) as pool:
        for work in concurrent.futures.as_completed([pool.submit(run_c, program) for program in a.c]):
            done(work.result())
        for work in concurrent.futures.as_completed([pool.submit(run_oracle, a.python, script) for script in a.oracle]):
            done(work.result())
    if a.pytest:
        done(run_pytest(a.python, a.pytest))

    passed, failed, skipped = (sum(getattr(r, k) for r in reports) for k in ("passed", "failed", "skipped"))
    if os.environ.get("CI") == "true":
        refused = refuse_skips(reports)
        failed, skipped = failed + refused, skipped - refused
    print("\nlongest tests:")
    for seconds, name in sorted((t for r in reports for t in r.times), reverse=True)[:10]:
        print(f"{seconds:8.2f} s  {name}")
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
