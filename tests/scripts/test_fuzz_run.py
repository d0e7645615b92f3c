"""tests/fuzz/run.sh believes a fuzzer only what it shows: executions and edges reached."""

import subprocess

import pytest


@pytest.fixture
def fuzzer(tmp_path):
    """A stand-in for a libFuzzer program that says it ran `runs` times and reached `edges`."""

    def make(runs=200000, edges=500, rc=0):
        path = tmp_path / "fuzz_none"
        path.write_text(f"#!/bin/sh\necho '#9 DONE   cov: {edges} ft: 900 corp: 9/9b'\n"
                        f"echo 'stat::number_of_executed_units: {runs}'\nexit {rc}\n")
        path.chmod(0o755)
        return str(path)

    return make


def run(program):
    p = subprocess.run(["bash", "tests/fuzz/run.sh", program], capture_output=True, text=True)
    return p.returncode, p.stdout


def test_a_whole_run_passes_and_shows_its_numbers(fuzzer):
    rc, out = run(fuzzer())
    assert rc == 0 and "200000 executions" in out and "cov: 500" in out


@pytest.mark.parametrize("lack", [{"rc": 77}, {"runs": 199999}, {"runs": ""}, {"edges": 3}, {"edges": "?"}])
def test_a_fuzzer_that_crashes_stops_early_or_does_nothing_is_a_failure(fuzzer, lack):
    assert run(fuzzer(**lack))[0] == 1
