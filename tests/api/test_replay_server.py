"""scripts/replay.py against a server: sessions that go on hit what they sent before."""
import json
import subprocess
import sys

from conftest import ROOT


def test_a_replayed_trace_hits_what_it_sent_before(start, tmp_path):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=64MiB")
    r = subprocess.run([sys.executable, ROOT / "scripts/replay.py", ROOT / "tests/golden/sessions.jsonl",
                        "--url", f"http://127.0.0.1:{s.port}", "--out", tmp_path, "--speed", "0", "--requests", "60",
                        "--id-tokens", "8", "--max-output", "2", "--vocab", "500"],
                       capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stdout + r.stderr + s.text()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["requests"] == 60 and summary["failed"] == 0
    assert summary["cached_tokens"] > 0.05 * summary["prompt_tokens"]
    assert sum(summary["cached_tokens_by_tier"].values()) in (0, summary["cached_tokens"])
    assert "<circle" in (tmp_path / "ttft.svg").read_text()
