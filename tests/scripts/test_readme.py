"""What README.md, hearth.yaml, --help and `make help` say is there: flags, keys, targets, files; and the lists are aligned."""
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("HEARTHD", "build/hearthd")
TEXTS = ["README.md", "SECURITY.md", "CHANGELOG.md", "config/hearth.yaml"]
FOREIGN = {"--hash"}  # pip's


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def text(name):
    return (ROOT / name).read_text()


@pytest.fixture(scope="module")
def keys():
    return set(re.findall(r"^  ([a-z_.]+) ", run(BINARY, "--help-keys"), re.M))


@pytest.mark.parametrize("name", TEXTS)
def test_every_flag_is_one(name):
    flags = set(re.findall(r"^  (--[a-z-]+)", run(BINARY, "--help"), re.M))
    used = {f for code in re.findall(r"`([^`]+)`", text(name)) if "systemctl" not in code for f in re.findall(r"(?<!\S)--[a-z-]+", code)}
    assert used - flags == FOREIGN & used


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md"])
def test_every_key_is_one(name, keys):
    parts = {k.split(".")[0] for k in keys if "." in k}
    spans = re.findall(r"`([^`\n]+)`", text(name))
    used = {k for s in spans for k in re.findall(r"^(?:--set )?([a-z]+\.[a-z_]+)(?:=|$)", s) if k.split(".")[0] in parts}
    used -= {k for k in used if k.endswith((".h", ".c", ".md", ".py"))}
    assert used and used <= keys, used - keys


def test_every_target_of_make_is_listed_and_the_readme_names_no_other():
    makefile = text("Makefile")
    listed = re.findall(r"^  ([a-z-]+)  +\S", run("make", "-s", "help"), re.M)
    documented = re.findall(r"^([a-z-]+):[^#\n]*##\d ", makefile, re.M)
    assert sorted(listed) == sorted(documented) and listed[:3] == ["serve", "test", "all"]
    phony = {t for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.M) for t in line.split()}
    assert phony - set(listed) == {"FORCE", "fuzz-run", "test-build", "test-run"}
    used = {t for s in re.findall(r"`make([^`]*)`", text("README.md")) for t in s.split() if re.fullmatch(r"[a-z-]+", t)}
    assert used and used <= set(listed)


@pytest.mark.parametrize("command", [["make", "-s", "help"], [BINARY, "--help"]])
def test_lists_are_aligned_and_narrow(command):
    lines = run(*command).splitlines()
    assert all(len(x) <= 120 and "\t" not in x and x == x.rstrip() for x in lines)
    starts = {m.end() for x in lines if (m := re.match(r"  (?:[a-z-]+|--[a-z-]+(?: [A-Z:=]+)?)  +(?=\S)", x)) and not x.startswith("  hearthd")}
    assert len(starts) == 1, starts


def test_every_file_the_readme_names_is_there():
    missing = []
    for span in re.findall(r"`([^`\n]+)`", text("README.md")):
        if re.fullmatch(r"(server|engine|cuda|tests|scripts|config|systemd)/[\w/.*-]*", span) and not list(ROOT.glob(span.rstrip("/"))):
            missing.append(span)
    assert not missing


def test_headers_that_the_map_names_are_in_its_folders():
    rows = text("README.md").split("## How a request travels")[1].split("## Build")[0]
    for name in re.findall(r"`([a-z_]+\.[ch])`", rows):
        assert list(ROOT.glob(f"*/{name}")) + list(ROOT.glob(f"*/*/{name}")), name
