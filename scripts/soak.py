#!/usr/bin/env python3
"""Run the long forms of tests, then random tests with seed after seed, for half an hour at least.

    soak.py [--minutes N] [--quiet-minutes N] --long PROGRAM... --random PROGRAM...

Long forms (HEARTH_SOAK=1) run once each and to their end, and say how far they are in lines "progress: ...", of which
one a minute is shown. What is left of the time goes to the random tests in turn, each time with the next HEARTH_SEED;
each runs once at least. A program that says nothing for --quiet-minutes hangs: it is ended and has failed. The last
line is the result, the status 0 when nothing failed.
"""

import argparse
import os
import re
import selectors
import signal
import subprocess
import sys
import time

CHECKS = re.compile(r"Checks: (\d+), Failures: (\d+), Errors: (\d+)")
SHOW_S = 60


class Soak:
    def __init__(self, minutes, quiet_minutes):
        self.start, self.minutes, self.quiet_s = time.monotonic(), minutes, quiet_minutes * 60
        self.runs = self.passed = self.failed = 0

    def elapsed(self):
        return time.monotonic() - self.start

    def say(self, text):
        s = int(self.elapsed())
        print(f"[{s // 3600}:{s // 60 % 60:02}:{s % 60:02}] {text}", flush=True)

    def read(self, p, name):
        """The lines that p prints, but for those about progress, and whether it hung."""
        lines, rest, shown = [], "", time.monotonic()
        with selectors.DefaultSelector() as ready:
            ready.register(p.stdout, selectors.EVENT_READ)
            while ready.select(self.quiet_s):
                data = os.read(p.stdout.fileno(), 65536)
                if not data:
                    return lines + [rest], False
                *whole, rest = (rest + data.decode("utf-8", "replace")).split("\n")
                for line in whole:
                    if not line.startswith("progress: "):
                        lines.append(line)
                    elif time.monotonic() - shown >= SHOW_S:
                        shown = time.monotonic()
                        self.say(f"{name}: {line[10:]}")
        return lines, True

    def run(self, program, **env):
        """One program, once."""
        name = os.path.basename(program)
        p = subprocess.Popen([program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             env={**os.environ, **env}, start_new_session=True)
        lines, hung = self.read(p, name)
        if hung:
            os.killpg(p.pid, signal.SIGKILL)
        rc = p.wait()
        counts = CHECKS.search("\n".join(lines))
        checks, bad = (int(counts[1]), int(counts[2]) + int(counts[3])) if counts else (0, 0)
        if rc or hung or not checks:
            bad = max(bad, 1)
            why = "hangs" if hung else f"ended with {rc}"
            self.say(f"FAILED {name}: {why}; again: {' '.join(f'{k}={v}' for k, v in env.items())} {program}")
            print("\n".join(lines[-40:]), flush=True)
        self.runs += 1
        self.failed += bad
        self.passed += max(0, checks - bad)
        return lines

    def long(self, programs):
        for program in programs:
            self.say(f"{os.path.basename(program)}, its long form")
            for line in self.run(program, HEARTH_SOAK="1"):
                print("    " + line, flush=True)

    def random(self, programs):
        seed, shown = 2, time.monotonic()
        while programs and (seed == 2 or self.elapsed() < self.minutes * 60):
            for program in programs:
                self.run(program, HEARTH_SEED=str(seed))
            if time.monotonic() - shown >= SHOW_S:
                shown = time.monotonic()
                self.say(f"random tests: seed {seed}, {self.failed} failed so far")
            seed += 1
        return seed - 2


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--quiet-minutes", type=float, default=20)
    p.add_argument("--long", nargs="*", default=[])
    p.add_argument("--random", nargs="*", default=[])
    a = p.parse_args()
    soak = Soak(a.minutes, a.quiet_minutes)
    soak.long(a.long)
    seeds = soak.random(a.random)
    soak.say(f"soak: {soak.elapsed() / 60:.1f} min, {len(a.long)} long forms, {seeds} seeds, {soak.runs} runs: "
             f"{soak.passed} passed, {soak.failed} failed")
    return 1 if soak.failed or not soak.runs else 0


if __name__ == "__main__":
    sys.exit(main())
