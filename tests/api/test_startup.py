"""Starting badly: one sentence that names the thing, exit code 1, at once, nothing left running. And what --check and
--plan tell without loading anything."""
import os
import pathlib
import re
import subprocess
import time

import pytest

from conftest import BINARY, ROOT, SLOW

TINY = ["--set", "model.random=tiny"]
PORT = ["--listen", "127.0.0.1:0"]
AT_ONCE = 2 * SLOW  # seconds


class Run:
    """One run of hearthd that is expected to end by itself."""

    def __init__(self, *args, seconds=60):
        begin = time.monotonic()
        p = subprocess.Popen([BINARY, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            self.out, self.err = p.communicate(timeout=seconds * SLOW)
        finally:
            p.kill()
            p.wait()
        self.code, self.took, self.session = p.returncode, time.monotonic() - begin, p.pid
        self.errors = [line for line in self.err.splitlines() if line.startswith("hearthd: ")]

    def left_running(self):
        left = []
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text()
            except OSError:
                continue
            if int(text.rsplit(")", 1)[1].split()[3]) == self.session:
                left.append(text)
        return left


def refused(says, *args):
    r = Run(*args)
    assert r.code == 1 and len(r.errors) == 1 and not r.out, (r.code, r.out, r.err)
    for text in says if isinstance(says, (list, tuple)) else [says]:
        assert text in r.errors[0], r.errors
    assert r.took < AT_ONCE
    assert not r.left_running()
    return r.errors[0]


@pytest.mark.parametrize("args, says", [
    ([], "--model"),
    (["--model", "/nowhere/x.gguf"], "/nowhere/x.gguf: No such file"),
    (["--model", "/"], "/: a folder"),
    (["--set", "model.random=huge"], ["huge", "tiny"]),
    (["--set", "model.random=tiny:x"], "the seed"),
    (["--set", "model.random=llama-8b", "--set", "kv.bytes=1MiB"], ["kv.bytes 1048576", "8388608"]),
    ([*TINY, "--set", "kv.bytes=1KiB"], ["kv.bytes 1KiB", "1MiB"]),
    ([*TINY, "--ctx-size", "99999"], ["99999", "2048"]),
    ([*TINY, "--ctx-size", "8"], ["ctx_size 8", "16"]),
    (["--set", "model.random=tiny-128k", "--ctx-size", "131072", "--set", "kv.bytes=4MiB"], ["131072", "kv.bytes"]),
    ([*TINY, "--set", "cpu.isa=avx9"], ["avx9", "avx2"]),
    ([*TINY, "--threads", "10000"], ["10000", "1 to 1024"]),
    ([*TINY, "--threads", "-1"], ["-1", "1 to 1024"]),
    ([*TINY, "--threads", "two"], ["two", "1 to 1024"]),
    ([*TINY, "--backend", "cuda"], "cuda"),
    ([*TINY, "--set", "kv.bites=1"], "kv.bytes"),
    ([*TINY, "--max-model-len", "5"], "--ctx-size"),
    ([*TINY, "--listen", "0.0.0.0:0"], "key"),
    ([*TINY, "--listen", "nowhere"], "HOST:PORT"),
    ([*TINY, "--listen", "unix:/nowhere/x.sock"], "/nowhere/x.sock"),
    ([*TINY, "--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
    ([*TINY, "--set", "http.tls_cert=/nowhere/c.pem", "--set", "http.tls_key=/nowhere/k.pem"], "/nowhere/"),
    ([*TINY, "--set", "model.chat_template=/nowhere/t.jinja"], "/nowhere/t.jinja"),
    (["--config", "/nowhere/hearth.yaml"], "/nowhere/hearth.yaml")])
def test_a_bad_start_is_one_sentence(args, says):
    refused(says, *([] if "--listen" in args else PORT), *args)


def test_a_taken_port_names_itself(server):
    refused([f"127.0.0.1:{server.port}", "port in use", "--port"], *TINY, "--port", str(server.port), "--host", "127.0.0.1")


def test_a_pool_that_the_machine_has_not_is_refused_by_the_engine():
    r = Run(*PORT, *TINY, "--set", "kv.bytes=30TiB")
    assert r.code == 1 and len(r.errors) == 1 and "KV pool of 30720" in r.errors[0] and "kv.bytes" in r.errors[0], r.err
    assert r.took < AT_ONCE and not r.left_running()


# -- model files

@pytest.fixture(scope="module")
def model():
    path = os.environ.get("HEARTH_MODEL") or subprocess.check_output(
        ["bash", str(ROOT / "scripts/fetch_model.sh")], text=True).splitlines()[-1]
    with open(path, "rb") as f:
        return f.read(4 << 20), os.path.getsize(path)  # all metadata; the weights are not read before they are loaded


def write(path, head, size=None):
    with open(path, "wb") as f:
        f.write(head)
        if size:
            f.truncate(size)  # a hole: no weights
    return str(path)


def test_a_file_cut_short_anywhere_is_named(model, tmp_path):
    head, size = model
    for n in (0, 3, 4, 8, 20, 100, 5000, 300000, 1 << 20, 4 << 20):
        refused("cut.gguf", *PORT, "--model", write(tmp_path / "cut.gguf", head[:n]))
    refused(["cut.gguf", str(size - 1), "fetch it again"], *PORT, "--model", write(tmp_path / "cut.gguf", head, size - 1))
    refused(["text.gguf", "not a GGUF file"], *PORT, "--model", write(tmp_path / "text.gguf", b"once upon a time " * 100))


@pytest.mark.parametrize("old, new, says", [
    (b"llama", b"mamba", ["'mamba'", "known: llama"]),
    (b"general.architecture", b"general.architectura", "general.architecture is missing"),
    (b"llama.block_count", b"llama.block_counX", "llama.block_count is missing"),
    (b"tokenizer.ggml.model", b"tokenizer.ggml.modeX", "tokenizer.ggml.model: missing"),
    (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenX", "tokenizer.ggml.tokens"),
    (b"tokenizer.ggml.merges", b"tokenizer.ggml.mergeX", "tokenizer.ggml.merges"),
    (b"tokenizer.ggml.pre", b"tokenizer.ggml.prX", "tokenizer.ggml.pre: missing")])
def test_a_model_that_lacks_something_is_named(model, tmp_path, old, new, says):
    head, size = model
    path = write(tmp_path / "odd.gguf", head.replace(old, new, 1), size)
    for args in (["--check"], PORT):  # what a check calls sound does start
        message = refused(says, *args, "--model", path)
        assert "odd.gguf" in message


def test_no_chat_template_is_told_and_only_chat_suffers(model, tmp_path):
    head, size = model
    path = write(tmp_path / "plain.gguf", head.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX", 1), size)
    r = Run("--check", "--model", path)
    assert r.code == 0 and r.out.startswith("ok") and "model.chat_template" in r.err


# -- an engine that dies while it loads

LOADING = ["--set", "model.random=smollm2-135m", "--set", "kv.bytes=64MiB", "--set", "engine.mode=exec"]


def next_engine(s, last):
    """The engine process that follows `last`; it has not finished loading."""
    end = time.monotonic() + 30 * SLOW
    while time.monotonic() < end:
        pid = s.engine_pid()
        if pid and pid != last:
            return pid
        assert s.proc.poll() is None, s.text()
        time.sleep(0.002)
    raise AssertionError(f"no engine: {s.text()}")


def test_an_engine_killed_while_loading_is_started_again(start):
    s = start(*LOADING, ready=False)
    os.kill(next_engine(s, None), 9)
    s.wait_ready()
    assert s.metrics()["hearth_engine_restarts_total"] == 1
    assert s.complete(prompt="x", max_tokens=2)["choices"]


def test_an_engine_that_dies_at_each_load_is_given_up(start):
    s = start(*LOADING, ready=False)
    pid = None
    for _ in range(3):
        pid = next_engine(s, pid)
        os.kill(pid, 9)
    assert s.proc.wait(20 * SLOW) == 1
    errors = [line for line in s.text().splitlines() if line.startswith("hearthd: ")]
    assert len(errors) == 1 and "3 times within 60 s" in errors[0] and "signal 9" in errors[0], s.text()
    assert s.engine_pid() is None


# -- telling without loading

def numbers(out):
    """First word or two of each line to its first number."""
    return {m[1].strip(): float(m[2]) for m in re.finditer(r"^([a-zA-Z ]+?)\s+([0-9.]+)", out, re.M)}


def test_a_check_takes_no_time_and_says_ok(model, tmp_path):
    head, size = model
    for args in (TINY, ["--set", "model.random=llama-1b", "--set", "kv.bytes=1GiB"],
                 ["--model", write(tmp_path / "whole.gguf", head, size)]):
        r = Run("--check", *args)
        assert r.code == 0 and r.out.startswith("ok") and r.took < AT_ONCE, (r.out, r.err)


def test_a_plan_of_a_large_model_is_arithmetic():
    begin = time.monotonic()
    p = subprocess.Popen([BINARY, "--plan", "--set", "model.random=llama-8b", "--set", "kv.bytes=4GiB", "--ctx-size", "8192"],
                         stdout=subprocess.PIPE, text=True)
    out = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    assert p.returncode == 0 and time.monotonic() - begin < AT_ONCE
    assert usage.ru_maxrss < 512 << 10  # KiB, with what it had before exec: nothing of 15 GiB was loaded
    n = numbers(out)
    layers, kv_heads, head_dim, bf16 = 32, 8, 128, 2
    token = 2 * layers * kv_heads * head_dim * bf16
    assert n["KV a token"] == token == 128 << 10
    tokens = (4 << 30) // token
    assert f"{tokens // 64} blocks of 64 tokens = {tokens} tokens" in out and n["KV pool"] == 4
    assert n["context"] == 8192 and f"{tokens / 8192:.1f} sessions of full length fit" in out
    embd, ff, vocab = 4096, 14336, 128256
    weights = 2 * vocab * embd + layers * (2 * embd * embd + 2 * embd * kv_heads * head_dim + 3 * embd * ff)
    assert abs(n["weights"] - weights * bf16 / 2**30) < 0.01


def test_a_plan_counts_the_memory_of_the_tiers(tmp_path):
    def needed(*sets):
        r = Run("--plan", "--backend", "cpu", "--set", "model.random=tiny", "--set", "kv.bytes=64MiB",
                *[x for s in sets for x in ("--set", s)])
        assert r.code == 0, r.err
        line = next(l for l in r.out.splitlines() if l.startswith("memory"))
        return float(line.split()[1]), line

    alone, line = needed()
    assert "does not fit" not in line
    with_dram, _ = needed("kv.dram.bytes=512MiB")
    assert abs(with_dram - alone - 0.5) < 0.002
    drives = ("kv.nvme.dirs=" + str(tmp_path), "kv.nvme.bytes=3GiB")
    least, _ = needed(*drives)  # 256 MiB serve the drives, and each block there has 512 bytes of index
    slot = 64 * 2 * 2 * 2 * 16 * 2  # tokens x layers x K and V x heads x dim x bf16
    assert abs(least - alone - 0.25 - 3 * 512 / (slot + 512)) < 0.002
    huge, line = needed("kv.dram.bytes=9000GiB")
    assert huge > 9000 and "does not fit; lower kv.bytes or kv.dram.bytes" in line


def test_a_plan_that_does_not_fit_still_tells_its_numbers():
    r = Run("--plan", "--set", "model.random=llama-8b", "--set", "kv.bytes=1MiB")
    assert r.code == 1 and "8388608" in r.errors[0]  # no pool can be that small
    r = Run("--plan", "--set", "model.random=llama-8b")
    assert numbers(r.out)["KV a token"] == 128 << 10 and r.took < AT_ONCE
    assert r.code == 0 or (r.code == 1 and "memory" in r.errors[0])
