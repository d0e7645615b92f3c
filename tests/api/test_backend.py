"""Which backend computes, who may look for a GPU, and that doing without one is seen. The GPU's library is a fake beside a
copy of hearthd; so is the driver's, of which only the presence counts."""
import os
import shutil
import subprocess

import pytest

from conftest import BINARY, ROOT, Hearthd

TINY = ["--set", "model.random=tiny", "--set", "kv.bytes=4MiB"]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """bin/hearthd with a library beside it, and lib/ with a driver."""
    at = tmp_path_factory.mktemp("fakes")
    (at / "bin").mkdir()
    (at / "lib").mkdir()
    cc = [os.environ.get("CC", "cc"), "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-I.", "-shared", "-fPIC"]
    parts = ["engine/compute/cpu_ref.c", "engine/compute/sample.c", "engine/base/err.c", "engine/base/sys.c"]
    subprocess.run([*cc, "-o", at / "bin/libhearth_cuda.so", "tests/api/fake_cuda.c", *parts, "-lm"], cwd=ROOT, check=True)
    subprocess.run([*cc, "-x", "c", "-o", at / "lib/libcuda.so.1", "/dev/null"], cwd=ROOT, check=True)
    shutil.copy(BINARY, at / "bin/hearthd")
    return at


@pytest.fixture
def begin(fakes, tmp_path):
    """Start the copy with the fakes, and kept(): what the library noted, as [verb, pid, deterministic]."""
    servers, notes = [], tmp_path / "notes"

    def go(*args, fake=None, driver=True, **kw):
        env = {"FAKE_CUDA_LOG": str(notes), "LD_LIBRARY_PATH": str(fakes / "lib") if driver else ""}
        servers.append(Hearthd(*args, env={**env, **({"FAKE_CUDA": fake} if fake else {})}, binary=str(fakes / "bin/hearthd"), **kw))
        return servers[-1]

    go.notes = lambda: [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    yield go
    for s in servers:
        s.stop()


def info(s):
    """Labels of hearth_backend_info."""
    raw = s.request("GET", "/metrics")[1].decode()
    (line,) = [x for x in raw.splitlines() if x.startswith("hearth_backend_info{")]
    assert line.endswith("} 1")
    return line


def test_only_the_engine_keeps_what_a_look_at_the_gpu_leaves_behind(begin):
    s = begin(*TINY)
    front, engine = str(s.proc.pid), str(s.engine_pid())
    notes = begin.notes()
    assert {n[0] for n in notes} == {"probe", "open"} and front not in {n[1] for n in notes}
    assert {n[1] for n in notes if n[0] == "open"} == {engine}
    assert "cuda" not in open(f"/proc/{front}/maps").read() and "libhearth_cuda" in open(f"/proc/{engine}/maps").read()
    assert 'backend="cuda"' in info(s) and 'fallback=""' in info(s) and b"no GPU" not in s.out and "no GPU" not in s.text()
    assert s.complete(prompt="x", max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3


WITHOUT = [(True, "none", 'it is "fake"'), (True, "crash", "ended by signal 9")]
if not os.path.exists("/proc/driver/nvidia"):
    WITHOUT.append((False, None, "no NVIDIA driver"))


@pytest.mark.parametrize("driver, fake, why", WITHOUT)
def test_doing_without_a_gpu_is_seen(begin, driver, fake, why):
    s = begin(*TINY, driver=driver, fake=fake)
    assert why in s.out.decode().split("\n")[0] and why in s.text() and "engine backend backend=cpu_fast" in s.text()
    assert 'backend="cpu_fast"' in info(s) and why.replace('"', '\\"') in info(s) and "AVX" in info(s)
    assert not [n for n in begin.notes() if n[0] == "open"]
    s = begin("--backend", "cpu", *TINY, driver=driver, fake=fake)
    assert "no GPU" not in s.text() + s.out.decode() and 'fallback=""' in info(s)


def run(fakes, tmp_path, *args, **env):
    env = {**os.environ, "FAKE_CUDA_LOG": str(tmp_path / "notes"), "LD_LIBRARY_PATH": str(fakes / "lib"), **env}
    r = subprocess.run([fakes / "bin/hearthd", "--listen", "127.0.0.1:0", *args], capture_output=True, text=True, env=env, timeout=60)
    return r.returncode, r.stdout, [x for x in r.stderr.splitlines() if x.startswith("hearthd: ")]


def test_a_demanded_gpu_that_is_not_there_ends_the_start(fakes, tmp_path):
    for fake, why in (("none", 'it is "fake"'), ("crash", "ended by signal 9")):
        code, out, errors = run(fakes, tmp_path, "--backend", "cuda", *TINY, FAKE_CUDA=fake)
        assert code == 1 and len(errors) == 1 and why in errors[0] and "backend cuda" in errors[0]


def test_the_plan_is_made_for_the_free_memory_of_the_gpu(fakes, tmp_path):
    code, out, _ = run(fakes, tmp_path, "--plan", "--set", "model.random=tiny")
    assert code == 0 and "backend      cuda\n" in out and "of 1.000 GiB available" in out
    code, out, _ = run(fakes, tmp_path, "--plan", "--set", "model.random=tiny", FAKE_CUDA="none")
    assert code == 0 and 'backend      cpu_fast (no GPU: no GPU can be used: it is "fake")\n' in out


def test_deterministic_is_a_demand_that_reaches_the_backend(begin, fakes, tmp_path):
    code, _, errors = run(fakes, tmp_path, "--set", "engine.deterministic=true", *TINY)
    assert code == 1 and len(errors) == 1 and "engine.deterministic" in errors[0]
    assert [n[2] for n in begin.notes() if n[0] == "open"] == ["1"]
    s = begin("--backend", "cpu", "--set", "engine.deterministic=true", *TINY)
    assert s.complete(prompt="x", max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3
