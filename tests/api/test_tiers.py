"""KV that sleeps below the pool: on drives over a kill and a restart, in the usage of an answer, in /metrics, and the tools
that look after a folder."""
import os
import re
import signal
import subprocess

import pytest

from conftest import BINARY, Hearthd

PROMPT = [(i * 31 + i * i) % 500 for i in range(700)]  # 10 full blocks of 64, and a rest


def tiers(folder, *more):
    """A pool of 64 blocks; DRAM and drives below it."""
    return ["--set", "model.random=tiny", "--set", "kv.bytes=16MiB", "--set", "kv.dram.bytes=64MiB",
            "--set", f"kv.nvme.dirs={folder}", "--set", "kv.nvme.bytes=256MiB", "--set", "kv.load=always", *more]


def tool(verb, folder):
    r = subprocess.run([BINARY, verb, str(folder)], capture_output=True, text=True)
    return r.returncode, r.stdout, r.stderr


def ask(s, prompt=PROMPT):
    r = s.complete(prompt=prompt, max_tokens=8, temperature=0, return_token_ids=True)
    return r["choices"][0]["token_ids"], r["usage"]


@pytest.fixture
def sleepy(tmp_path):
    """start(folder, *args): daemons over folders; all are ended."""
    servers = []

    def run(folder=tmp_path, *more):
        servers.append(Hearthd(*tiers(folder, *more)))
        return servers[-1]

    yield run
    for s in servers:
        s.stop()


def written(s, blocks=10):
    s.metric_until('hearth_tier_moves_total{tier="nvme",direction="down"}', lambda v: v >= blocks)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_prompt_that_slept_on_a_drive_is_not_computed_again(sleepy, tmp_path, sig):
    s = sleepy()
    ids, usage = ask(s)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["hearth"] == {"cached_tokens": {"hbm": 0, "dram": 0, "nvme": 0}, "load_ms": 0}
    again, usage = ask(s)
    assert again == ids and usage["hearth"]["cached_tokens"] == {"hbm": 640, "dram": 0, "nvme": 0}
    if sig == signal.SIGKILL:
        written(s)
    s.stop(sig)
    s = sleepy()
    assert s.metrics()['hearth_tier_used_blocks{tier="nvme"}'] >= 10
    again, usage = ask(s)
    assert again == ids
    assert usage["prompt_tokens_details"]["cached_tokens"] == 640
    assert usage["hearth"]["cached_tokens"] == {"hbm": 0, "dram": 0, "nvme": 640} and usage["hearth"]["load_ms"] > 0
    m = s.metrics()
    assert m['hearth_tier_hit_tokens_total{tier="nvme"}'] == 640
    assert m['hearth_tier_moves_total{tier="nvme",direction="up"}'] == 10
    assert m['hearth_tier_moves_total{tier="hbm",direction="up"}'] == 10
    assert m['hearth_tier_verify_failures_total{tier="nvme"}'] == 0


def test_a_second_daemon_on_the_same_folder_is_told_who_has_it(sleepy, tmp_path):
    s = sleepy()
    ask(s)
    other = Hearthd(*tiers(tmp_path), ready=False)
    try:
        assert other.proc.wait(30) != 0
        said = other.text()
        assert "in use by process" in said
        pid = int(re.search(r"in use by process (\d+)", said)[1])
        assert pid in (s.proc.pid, s.engine_pid())
    finally:
        other.stop()
    code, _, err = tool("kv-check", tmp_path)
    assert code != 0 and f"in use by process {pid}" in err
    assert ask(s)[1]["hearth"]["cached_tokens"]["hbm"] == 640  # the first one does not notice


def test_another_model_finds_nothing_and_the_first_finds_its_own_again(sleepy, tmp_path):
    s = sleepy()
    ids, _ = ask(s)
    written(s)
    s.stop()
    for change in (["--set", "model.random=tiny:7"], ["--set", "kv.format=kv32"], ["--set", "kv.block_tokens=32"]):
        s = sleepy(tmp_path, *change)
        _, usage = ask(s)
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0, change
        s.stop()
    s = sleepy()
    again, usage = ask(s)
    assert again == ids and usage["hearth"]["cached_tokens"]["nvme"] == 640


def test_the_tools_find_damage_and_leave_nothing_behind(sleepy, tmp_path):
    s = sleepy()
    ids, _ = ask(s)
    written(s)
    s.stop()
    for name in os.listdir(tmp_path):
        assert os.stat(tmp_path / name).st_mode & 0o777 == 0o600
    code, out, _ = tool("kv-check", tmp_path)  # and the block of the warm-up
    assert code == 0 and "11 held of" in out and "do not verify: 0" in out
    slab = next(p for p in tmp_path.iterdir() if p.suffix == ".slab")
    with open(slab, "r+b") as f:  # one byte of every block
        for at in range(100, 64 << 20, 4096):
            f.seek(at)
            byte = f.read(1)
            if byte and byte != b"\0":
                f.seek(at)
                f.write(bytes([byte[0] ^ 4]))
    code, out, _ = tool("kv-check", tmp_path)
    assert code == 1 and "do not verify: 11" in out
    s = sleepy()
    again, usage = ask(s)
    assert again == ids and usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert s.metrics()['hearth_tier_verify_failures_total{tier="nvme"}'] == 10
    assert "tier verify" in s.text()
    s.stop()
    code, out, _ = tool("kv-purge", tmp_path)
    assert code == 0 and sorted(os.listdir(tmp_path)) == ["hearth.lock"]
    s = sleepy()
    assert ask(s)[1]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_folder_that_is_not_there_is_said(tmp_path):
    s = Hearthd(*tiers(tmp_path / "nowhere"), ready=False)
    try:
        assert s.proc.wait(30) != 0 and "No such file or directory" in s.text()
    finally:
        s.stop()
