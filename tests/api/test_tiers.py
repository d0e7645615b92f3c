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


def missed(usage):
    """The reasons for which tokens were missed. Each token of the prompt was found or missed, once."""
    why = usage["hearth"]["missed_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] + sum(why.values()) == usage["prompt_tokens"]
    return {k: v for k, v in why.items() if v}


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
    assert usage["hearth"]["cached_tokens"] == {"hbm": 0, "dram": 0, "nvme": 0} and usage["hearth"]["load_ms"] == 0
    assert missed(usage) == {"new": 640, "partial_block": 60} and usage["hearth"]["first_divergent_token"] == 0
    again, usage = ask(s)
    assert again == ids and usage["hearth"]["cached_tokens"] == {"hbm": 640, "dram": 0, "nvme": 0}
    assert missed(usage) == {"partial_block": 60} and usage["hearth"]["first_divergent_token"] is None
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


def test_usage_says_why_a_prompt_was_not_found(sleepy, tmp_path):
    s = sleepy()
    ask(s)
    other = [*PROMPT[:300], 7 if PROMPT[300] != 7 else 8, *PROMPT[301:]]
    _, usage = ask(s, other)
    assert usage["hearth"]["first_divergent_token"] == 300
    assert missed(usage) == {"new": 640 - 256, "partial_block": 60}
    r = s.complete(prompt=PROMPT, max_tokens=8, cache_prompt=False)
    assert missed(r["usage"]) == {"cache_off": 700} and r["usage"]["hearth"]["first_divergent_token"] is None
    r = s.complete(prompt=PROMPT, max_tokens=8, cache_salt="other")
    assert missed(r["usage"]) == {"new": 640, "partial_block": 60} and r["usage"]["hearth"]["first_divergent_token"] == 0
    r = s.complete(prompt=[PROMPT, other], max_tokens=8)
    assert missed(r["usage"]) == {"partial_block": 120} and r["usage"]["hearth"]["first_divergent_token"] is None
    s.stop()


def test_usage_says_what_had_to_make_room(sleepy, tmp_path):
    s = Hearthd("--set", "model.random=tiny", "--set", "kv.bytes=1MiB")  # 64 blocks, and no tier below
    try:
        ask(s)
        for i in range(8):
            ask(s, [(t + 1 + i) % 500 for t in PROMPT])
        _, usage = ask(s)
        assert missed(usage)["evicted"] == 640 - usage["prompt_tokens_details"]["cached_tokens"] >= 320
        assert usage["hearth"]["first_divergent_token"] is None
    finally:
        s.stop()


def test_another_model_finds_nothing_and_the_first_finds_its_own_again(sleepy, tmp_path):
    s = sleepy()
    ids, _ = ask(s)
    written(s)
    s.stop()
    for change, why in (("model.random=tiny:7", "new"), ("kv.format=kv32", "other_format"), ("kv.format=kv8", "other_format"),
                        ("kv.block_tokens=32", "new")):
        s = sleepy(tmp_path, "--set", change)
        _, usage = ask(s)
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0, change
        assert missed(usage)[why] >= 640, change
        s.stop()
    s = sleepy()
    again, usage = ask(s)
    assert again == ids and usage["hearth"]["cached_tokens"]["nvme"] == 640


@pytest.mark.skipif(not os.environ.get("HEARTH_MODEL"), reason="HEARTH_MODEL names no model file")
def test_any_change_of_a_model_file_finds_nothing_and_the_file_as_it_was_finds_its_own_again(tmp_path):
    """Rope base, a token's text, a weight: one byte each."""
    data = bytearray(open(os.environ["HEARTH_MODEL"], "rb").read())
    base = data.find(b"llama.rope.freq_base") + len(b"llama.rope.freq_base") + 4
    token = data.find(b"<jupyter_output>") + 5  # no merge makes it
    assert base > 24 and token > 8
    model, kv = tmp_path / "model.gguf", tmp_path / "kv"
    kv.mkdir()

    def cached(at=None):
        if at is not None:
            data[at] ^= 1
        model.write_bytes(data)
        if at is not None:
            data[at] ^= 1
        s = Hearthd("--model", str(model), "--set", "kv.bytes=64MiB", "--set", "kv.dram.bytes=64MiB", "--set", f"kv.nvme.dirs={kv}",
                    "--set", "kv.nvme.bytes=256MiB", "--set", "kv.load=always")
        try:
            return ask(s, PROMPT[:200])[1]["prompt_tokens_details"]["cached_tokens"]
        finally:
            s.stop()  # and what fills is on the drive
    assert cached() == 0
    for at in (base, token, len(data) - 1):
        assert cached(at) == 0
        assert cached() == 192


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
    assert missed(usage) == {"verification_failed": 640, "partial_block": 60}
    assert s.metrics()['hearth_tier_verify_failures_total{tier="nvme"}'] == 10
    assert "tier verify" in s.text()
    s.stop()
    code, out, _ = tool("kv-purge", tmp_path)
    assert code == 0 and sorted(os.listdir(tmp_path)) == ["hearth.lock"]
    s = sleepy()
    assert ask(s)[1]["prompt_tokens_details"]["cached_tokens"] == 0


def test_metrics_tell_what_was_given_up_and_whether_a_drive_had_it(tmp_path):
    def given_up(*more, pause=lambda s: None):
        s = Hearthd("--set", "model.random=tiny", "--set", "kv.bytes=1MiB", "--set", "kv.dram.bytes=1MiB", *more)
        try:
            for i in range(10):  # 10 blocks each: more than the pool or DRAM hold
                ask(s, [(t + i) % 500 for t in PROMPT])
                pause(s)
            m = s.metrics()
            up = lambda tier, below: m[f'hearth_tier_evictions_total{{tier="{tier}",reason="room",below="{below}"}}']
            return up("dram", "yes"), up("dram", "no"), up("nvme", "no")
        finally:
            s.stop()

    def nothing_waits(s):
        s.metric_until('hearth_tier_moves_queued{tier="nvme",direction="down"}', lambda v: v == 0)

    with_copy, without, _ = given_up()
    assert with_copy == 0 and without >= 30
    drive = ["--set", f"kv.nvme.dirs={tmp_path}", "--set"]
    with_copy, without, of_drive = given_up(*drive, "kv.nvme.bytes=64MiB", pause=nothing_waits)
    assert with_copy >= 30 and without == 0 and of_drive == 0
    *_, of_drive = given_up(*drive, "kv.nvme.bytes=1MiB", pause=nothing_waits)
    assert of_drive >= 10


def test_a_folder_that_is_not_there_is_said(tmp_path):
    s = Hearthd(*tiers(tmp_path / "nowhere"), ready=False)
    try:
        assert s.proc.wait(30) != 0 and "No such file or directory" in s.text()
    finally:
        s.stop()
