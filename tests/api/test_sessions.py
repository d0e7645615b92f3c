"""Conversations by name: whose they are, where their KV lies, put aside and taken up again over a kill of the daemon, and
what is refused and why."""
import hashlib
import json
import os
import signal
import struct
import subprocess
import threading

import pytest

from conftest import BINARY, ROOT

WORDS = "It was the best of times, it was the worst of times, it was the age of wisdom. "


def args(folder=None, *more, dram="64MiB", nvme="256MiB", pool="16MiB"):
    drive = ["--set", f"kv.nvme.dirs={folder}", "--set", f"kv.nvme.bytes={nvme}"] if folder else []
    return ["--set", "model.random=tiny", "--set", f"kv.bytes={pool}", "--set", f"kv.dram.bytes={dram}", "--set",
            "kv.load=always", *drive, *more]


@pytest.fixture(params=["thread", "exec"])
def mode(request):
    return ["--set", f"engine.mode={request.param}"]


def prompt(n=700, seed=1):
    return [(i * 31 + i * i * seed) % 500 for i in range(n)]


def say(s, name, ids, headers=None, **more):
    body = {"prompt": ids, "max_tokens": 8, "temperature": 0, "return_token_ids": True, **more}
    if name:
        body["session_id"] = name
    status, answer = s.post("/v1/completions", body, headers=headers)
    assert status == 200, answer
    return answer["choices"][0]["token_ids"], answer["usage"]


def ask(s, method, path, body=None, headers=None):
    r, raw = s.request(method, "/v1/sessions" + path, body, headers=headers)
    return r.status, json.loads(raw)


def ok(s, method, path, body=None, headers=None, status=200):
    got, answer = ask(s, method, path, body, headers)
    assert got == status, answer
    return answer


def refused(s, method, path, status, code, body=None, headers=None):
    got, answer = ask(s, method, path, body, headers)
    assert got == status and answer["error"]["code"] == code, answer
    return answer["error"]["message"]


def blocks(answer):
    return {t: v["blocks"] for t, v in answer["tiers"].items()}


def test_a_session_sleeps_over_a_kill_and_goes_on_as_if_nothing_had_been(start, tmp_path, mode):
    names = {"session_id": "talk/1"}
    s = start(*args(tmp_path, *mode))
    client = s.client()
    messages = [{"role": "user", "content": WORDS * 12}]
    two = [*messages, {"role": "assistant", "content": "?"}, {"role": "user", "content": "And then?"}]

    def talk(c, m, **kw):
        r = c.chat.completions.create(model="tiny", messages=m, temperature=0, max_tokens=40, extra_body=kw)
        return r.choices[0].message.content, r.usage

    plain = start(*args(None, dram="0"))
    want = [talk(plain.client(), messages)[0]]
    two[1]["content"] = want[0]
    want.append(talk(plain.client(), two)[0])
    assert talk(client, messages, **names)[0] == want[0]

    slept = ok(s, "POST", "/talk/1/suspend")
    assert slept["state"] == "suspended" and slept["missing_blocks"] == 0
    assert slept["suspended"] == {"tier": "nvme", "blocks": slept["blocks"], "durable": True,
                                  "bytes": slept["tiers"]["nvme"]["bytes"]}
    assert slept["blocks"] >= 15 and slept["tokens"] >= 64 * slept["blocks"]
    s.stop(signal.SIGKILL)

    s = start(*args(tmp_path, *mode))
    here = ok(s, "GET", "/talk/1")
    assert blocks(here) == {"hbm": 0, "dram": 0, "nvme": slept["blocks"]} and here["state"] == "suspended"
    assert {k: here[k] for k in ("tokens", "created", "blocks")} == {k: slept[k] for k in ("tokens", "created", "blocks")}
    woken = ok(s, "POST", "/talk/1/resume")
    assert woken["predicted_ms"] > 0
    s.until(lambda: ok(s, "GET", "/talk/1")["tiers"]["hbm"]["blocks"] == slept["blocks"])
    text, usage = talk(s.client(), two, **names)
    assert text == want[1]
    # what was brought up lies in the pool now; all of the first turn's whole blocks but what the template changed
    assert usage.prompt_tokens_details.cached_tokens >= 64 * (slept["blocks"] - 1)
    assert ok(s, "GET", "/talk/1")["state"] == "idle"

    # without asking for it: straight from the drive
    ok(s, "POST", "/talk/1/suspend")
    s.stop(signal.SIGKILL)
    s = start(*args(tmp_path, *mode))
    text, usage = talk(s.client(), two, **names)
    assert text == want[1]
    assert usage.hearth["cached_tokens"]["nvme"] >= 64 * (slept["blocks"] - 1)


def test_a_request_names_its_session_in_four_ways_and_the_most_specific_counts(start, mode):
    s = start(*args(None, *mode))
    say(s, None, prompt(80))
    assert ok(s, "GET", "")["data"] == []
    every = {"session_id": "a", "conversation": {"id": "c"}, "prompt_cache_key": "d"}
    header = {"X-Session-ID": "b"}
    for name in "abcd":
        say(s, None, prompt(80), headers=header, **every)
        assert ok(s, "GET", "")["first_id"] == name
        every = {k: v for k, v in every.items() if v != name and v != {"id": name}}
        if name == "b":
            header = None
    say(s, None, prompt(80), conversation="e")
    got = ok(s, "GET", "")
    assert [d["id"] for d in got["data"]] == ["e", "d", "c", "b", "a"] and got["has_more"] is False
    assert got["data"][0]["tokens"] == 88 and got["data"][0]["blocks"] == 1
    page = ok(s, "GET", "?limit=2")
    assert [d["id"] for d in page["data"]] == ["e", "d"] and page["has_more"] and page["last_id"] == "d"
    page = ok(s, "GET", "?limit=2&after=d")
    assert [d["id"] for d in page["data"]] == ["c", "b"] and page["has_more"]
    page = ok(s, "GET", "?limit=2&after=b")
    assert [d["id"] for d in page["data"]] == ["a"] and not page["has_more"]
    m = s.metrics()
    assert m['hearth_sessions{state="idle"}'] == 5 and m['hearth_sessions{state="active"}'] == 0
    assert "/v1/sessions" in s.text()
    ok(s, "GET", "/a")
    s.until(lambda: "path=/v1/sessions/*" in s.text())
    assert "/v1/sessions/a" not in s.text()


def test_sessions_of_another_key_do_not_exist(start, tmp_path, mode):
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{n}:{hashlib.sha256(k.encode()).hexdigest()}\n"
                            for n, k in (("one", "key-number-one-x"), ("two", "key-number-two-x"))))
    s = start(*args(None, *mode), "--set", f"auth.key_file={keys}")
    one, two = ({"Authorization": f"Bearer key-number-{k}-x"} for k in ("one", "two"))
    say(s, "mine", prompt(80), headers=one)
    assert ok(s, "GET", "", headers=two)["data"] == []
    for method, path in (("GET", "/mine"), ("DELETE", "/mine"), ("PATCH", "/mine"), ("POST", "/mine/fork"),
                         ("POST", "/mine/suspend"), ("POST", "/mine/resume")):
        refused(s, method, path, 404, "session_not_found", headers=two)
        assert ask(s, method, path)[0] == 401
    say(s, "mine", prompt(300), headers=two)
    assert ok(s, "GET", "/mine", headers=one)["tokens"] == 88 and ok(s, "GET", "/mine", headers=two)["tokens"] == 308
    for k, n in ((one, 1), (two, 4)):  # where it lies is looked up as its key's, too
        assert blocks(ok(s, "GET", "/mine", headers=k)) == {"hbm": n, "dram": n, "nvme": 0}
        assert ok(s, "POST", "/mine/suspend", headers=k)["suspended"]["blocks"] == n
    ok(s, "DELETE", "/mine", headers=two)
    assert ok(s, "GET", "/mine", headers=one)["tokens"] == 88


def test_a_fork_is_the_same_conversation_under_another_name(start, tmp_path, mode):
    s = start(*args(tmp_path, *mode))
    ids, _ = say(s, "trunk", prompt())
    fork = ok(s, "POST", "/trunk/fork", {"id": "branch"}, status=201)
    assert fork["id"] == "branch" and fork["tokens"] == 708
    made = ok(s, "POST", "/trunk/fork", status=201)
    assert made["id"].startswith("trunk-") and len(ok(s, "GET", "")["data"]) == 3
    assert "branch" in refused(s, "POST", "/trunk/fork", 409, "session_exists", {"id": "branch"})
    refused(s, "POST", "/trunk/fork", 400, "invalid_type", {"id": 5})
    refused(s, "POST", "/trunk/fork", 400, "invalid_value", {"id": "x" * 257})
    _, usage = say(s, "branch", prompt() + ids + [1, 2, 3])
    assert usage["prompt_tokens_details"]["cached_tokens"] == 704
    assert ok(s, "GET", "/trunk")["tokens"] == 708 and ok(s, "GET", "/branch")["tokens"] == 719
    assert blocks(ok(s, "GET", "/branch"))["hbm"] == 11
    ok(s, "DELETE", "/trunk")
    ok(s, "POST", "/branch/suspend")  # what it shares has stayed
    assert ok(s, "GET", "/branch")["missing_blocks"] == 0


def test_wishes_are_taken_and_kept_over_a_restart(start, tmp_path, mode):
    s = start(*args(tmp_path, *mode))
    say(s, "a", prompt(), prompt_cache_retention="24h")
    got = ok(s, "GET", "/a")
    assert got["ttl_seconds"] == 86400 and got["prompt_cache_retention"] == "24h" and got["priority"] == "normal"
    assert got["kept"] == {"dram": True, "nvme": True}
    say(s, "b", prompt(400, 3))
    assert ok(s, "GET", "/b")["ttl_seconds"] == 600
    got = ok(s, "PATCH", "/b", {"ttl_seconds": 5000, "priority": "high", "prompt_cache_retention": "24h"})
    assert (got["ttl_seconds"], got["priority"], got["prompt_cache_retention"]) == (5000, "high", "24h")
    got = ok(s, "PATCH", "/a", {"priority": "low"})
    assert got["kept"] == {"dram": False, "nvme": False} and got["ttl_seconds"] == 86400
    for body, code in (({"ttl_seconds": -1}, "invalid_value"), ({"ttl_seconds": 3e9}, "invalid_value"),
                       ({"ttl_seconds": "1"}, "invalid_value"), ({"priority": "urgent"}, "invalid_value"),
                       ({"prompt_cache_retention": "48h"}, "invalid_value"), ({"ttl": 5}, "unknown_parameter"),
                       ([1], "invalid_type"), (b"{", "invalid_json")):
        refused(s, "PATCH", "/a", 400, code, body)
    before = ok(s, "GET", "")["data"]
    assert s.stop() == 0
    assert os.stat(tmp_path / "hearth.sessions").st_mode & 0o777 == 0o600
    s = start(*args(tmp_path, *mode))
    s.until(lambda: ok(s, "GET", "")["data"] == before)  # what is kept is known a tick later


def test_a_prompt_cache_retention_in_memory_is_not_written(start, tmp_path, mode):
    s = start(*args(tmp_path, *mode))
    say(s, "quiet", prompt(), prompt_cache_retention="in_memory")
    say(s, "loud", prompt(700, 3))
    s.until(lambda: blocks(ok(s, "GET", "/loud"))["nvme"] == 11)
    assert blocks(ok(s, "GET", "/quiet")) == {"hbm": 11, "dram": 11, "nvme": 0}
    assert "24h" in refused(s, "POST", "/quiet/suspend", 409, "retention_in_memory")
    ok(s, "PATCH", "/quiet", {"prompt_cache_retention": "24h"})
    assert ok(s, "POST", "/quiet/suspend")["suspended"]["blocks"] == 11
    status, answer = s.post("/v1/completions", {"prompt": "x", "prompt_cache_retention": "1h"})
    assert status == 400 and answer["error"]["param"] == "prompt_cache_retention"
    client = s.client()
    r = client.completions.create(model="tiny", prompt="x", max_tokens=1, extra_body={
        "prompt_cache_key": "sdk", "prompt_cache_retention": "in-memory"})
    assert r.usage.prompt_tokens == 1 and ok(s, "GET", "/sdk")["prompt_cache_retention"] == "in_memory"


def test_suspending_without_a_drive_says_where_it_went_or_what_is_missing(start, mode):
    s = start(*args(None, *mode))
    say(s, "a", prompt())
    got = ok(s, "POST", "/a/suspend")
    assert got["suspended"] == {"tier": "dram", "blocks": 11, "bytes": got["tiers"]["dram"]["bytes"], "durable": False}
    s = start(*args(None, *mode, dram="0"))
    say(s, "a", prompt())
    assert "kv.nvme.dirs" in refused(s, "POST", "/a/suspend", 409, "no_kv_tier")
    say(s, "a", prompt(20))
    assert "less than one block" in refused(s, "POST", "/a/suspend", 409, "session_empty")
    assert blocks(ok(s, "GET", "/a")) == {"hbm": 0, "dram": 0, "nvme": 0}
    assert ok(s, "POST", "/a/resume")["predicted_ms"] == 0
    refused(s, "POST", "/b/suspend", 404, "session_not_found")
    refused(s, "POST", "/a/wake", 404, "unknown_url")
    for q, param in (("?limit=0", "limit"), ("?limit=101", "limit"), ("?limit=x", "limit"), ("?after=nobody", "after")):
        assert param in refused(s, "GET", q, 400, "invalid_value")
    status, answer = s.post("/v1/completions", {"prompt": "x"}, headers={"X-Session-ID": "x" * 257})
    assert status == 400 and answer["error"]["param"] == "X-Session-ID" and "256" in answer["error"]["message"]
    for body in ({"session_id": "a\nb"}, {"session_id": "x" * 257}, {"session_id": 5}, {"conversation": {}},
                 {"conversation": [1]}, {"prompt_cache_key": "x" * 257}):
        status, answer = s.post("/v1/completions", {"prompt": "x", **body})
        assert status == 400 and answer["error"]["param"].startswith(next(iter(body))), answer
    assert s.post("/v1/completions", {"prompt": "x", "session_id": "", "conversation": None})[0] == 200


def test_more_sessions_than_are_allowed_make_room_by_age(start, mode):
    s = start(*args(None, *mode, "--set", "sessions.max=3"))
    for name in "abcd":
        say(s, name, prompt(80))
    say(s, "b", prompt(80))
    say(s, "e", prompt(80))
    assert [d["id"] for d in ok(s, "GET", "")["data"]] == ["e", "b", "d"]


def test_a_budget_bounds_what_is_kept(start, tmp_path, mode):
    s = start(*args(tmp_path, *mode))
    block = int(s.metrics()["hearth_tier_block_bytes"])
    s.stop()
    s = start(*args(tmp_path, *mode, "--set", f"sessions.dram_bytes={12 * block}", "--set",
                    f"sessions.nvme_bytes={25 * block}"))
    kept = lambda: {d["id"]: (d["kept"]["dram"], d["kept"]["nvme"]) for d in ok(s, "GET", "")["data"]}
    say(s, "a", prompt(700, 3))
    say(s, "b", prompt(700, 5))
    say(s, "c", prompt(700, 7))
    assert kept() == {"c": (True, True), "b": (False, True), "a": (False, False)}
    ok(s, "PATCH", "/a", {"priority": "high"})
    assert kept() == {"c": (False, True), "b": (False, False), "a": (True, True)}
    m = s.metrics()
    assert m['hearth_session_kept_blocks{tier="dram"}'] == 11 and m['hearth_session_kept_blocks{tier="nvme"}'] == 22
    ok(s, "DELETE", "/a")
    assert kept() == {"c": (True, True), "b": (False, True)}


def test_what_is_kept_outlives_what_came_after_it_also_over_a_restart(start, tmp_path):
    def others(s):  # 176 blocks: more than there is room for anywhere
        for seed in range(10, 26):
            say(s, None, prompt(700, seed))

    small = {"dram": "1MiB", "nvme": "2MiB", "pool": "1MiB"}
    s = start(*args(tmp_path, **small))
    say(s, "kept", prompt())
    say(s, "left", prompt(700, 3))
    ok(s, "PATCH", "/left", {"priority": "low"})
    s.until(lambda: blocks(ok(s, "GET", "/kept"))["nvme"] == 11)
    others(s)
    got = ok(s, "GET", "/kept")
    assert got["kept"] == {"dram": True, "nvme": True}
    assert blocks(got)["dram"] == 11 and blocks(got)["nvme"] == 11
    assert ok(s, "GET", "/left")["missing_blocks"] > 0
    assert s.stop() == 0
    s = start(*args(tmp_path, "--set", "sessions.dram_bytes=1KiB", **small))  # less than a block
    s.until(lambda: ok(s, "GET", "/kept")["kept"] == {"dram": False, "nvme": True})
    others(s)
    assert blocks(ok(s, "GET", "/kept"))["nvme"] == 11
    _, usage = say(s, "kept", prompt())
    assert usage["prompt_tokens_details"]["cached_tokens"] == 640 and usage["hearth"]["cached_tokens"]["hbm"] == 0


def test_the_death_of_an_engine_costs_no_session(start, tmp_path):
    s = start(*args(tmp_path, "--set", "engine.mode=exec"))
    ids, _ = say(s, "a", prompt())
    say(s, "b", prompt(700, 3))
    ok(s, "POST", "/a/suspend")
    pid = s.engine_pid()
    answers = []

    def many():
        for _ in range(20):
            answers.append(ask(s, "POST", "/b/suspend"))

    t = threading.Thread(target=many)
    t.start()
    s.until(lambda: len(answers) > 2)
    os.kill(pid, signal.SIGKILL)
    t.join()
    s.metric_until("hearth_engine_restarts_total", lambda v: v == 1)
    assert len(answers) == 20
    for status, answer in answers:  # what was only in the engine's memory may be gone
        assert status == 200 or answer["error"]["code"] == "session_not_cached", answer
    got = ok(s, "GET", "/a")
    assert blocks(got) == {"hbm": 0, "dram": 0, "nvme": 11} and got["missing_blocks"] == 0
    again, usage = say(s, "a", prompt())
    assert again == ids and usage["hearth"]["cached_tokens"]["nvme"] == 640


def test_a_file_that_is_not_ours_is_said_and_left(start, tmp_path):
    s = start(*args(tmp_path))
    say(s, "a", prompt())
    assert s.stop() == 0
    path = tmp_path / "hearth.sessions"
    good = path.read_bytes()
    for bad in (good[:-1], good[:30], b"", good[:8] + struct.pack("<I", 2) + good[12:],
                good[:100] + bytes([good[100] ^ 1]) + good[101:]):
        path.write_bytes(bad)
        s = start(*args(tmp_path))
        assert ok(s, "GET", "")["data"] == []
        assert "sessions read" in s.text()
        _, usage = say(s, "a", prompt())
        assert usage["hearth"]["cached_tokens"]["nvme"] == 640  # content is found without names
        s.stop()
        assert path.read_bytes() == bad
    path.write_bytes(good)
    s = start(*args(tmp_path))
    assert [d["id"] for d in ok(s, "GET", "")["data"]] == ["a"]
    s.stop()
    (tmp_path / "hearth.sessions.new").write_bytes(good)
    r = subprocess.run([BINARY, "kv-purge", str(tmp_path)], capture_output=True, text=True)
    assert r.returncode == 0 and os.listdir(tmp_path) == ["hearth.lock"]


def test_the_demonstration_of_the_readme_runs_and_says_the_same_text():
    r = subprocess.run([str(ROOT / "scripts/sleep_demo.py"), "--words", "200", "--set", "kv.bytes=64MiB"],
                       capture_output=True, text=True, env={**os.environ, "HEARTHD": BINARY}, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "same text: yes" in r.stdout and "NVMe 1024" in r.stdout
