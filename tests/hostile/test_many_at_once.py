"""Queues, lists of prompts, and what lies beside an ``--out``: files that somebody else may have written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LINE = {"system": "textual-inversion", "folder": "subject", "noun": "dog", "token": "<x>"}
LINE |= {"set": ["token.steps=0"], "name": "n"}
DEEP = "[" * 60_000


def line(**more: Any) -> str:
    return json.dumps({**LINE, **more})


QUEUES: dict[str, str] = {
    "deep": '{"system":' + DEEP,
    "tables": '{"a":' * 60_000,
    "digits": '{"seed": ' + "9" * 5000 + "}",
    "exponent": line().replace('"n"', '"n", "seed": 1e400'),
    "seed-large": line(seed=2**64),
    "seed-enormous": line(seed=10**300),
    "seed-a-truth": line(seed=True),
    "surrogate": line(name="\ud800"),
    "token-surrogate": line(token="<\udfff>"),
    "nul": line(name="a\0b"),
    "name-parent": line(name=".."),
    "name-path": line(name="a/../../b"),
    "name-backslash": line(name="..\\b"),
    "name-long": line(name="x" * 5000),
    "name-bytes": line(name="\u4e00" * 100),
    "name-journal": line(name="fit-many.jsonl"),
    "name-lock": line(name=".out.pcs"),
    "name-hidden": line(name=".planned"),
    "name-partial": line(name="n.partial"),
    "name-old": line(name="n.old"),
    "names-of-each-other": line(name="n") + "\n" + line(name="n.old") + "\n" + line(name=".n.pcs"),
    "name-blank": line(name=" "),
    "name-dots": line(name="..."),
    "name-escapes": line(name="x\x1b[2J\u202e"),
    "names-of-one-case": line(name="Rex") + "\n" + line(name="rex"),
    "name-a-number": line(name=3),
    "name-a-list": line(name=["a"]),
    "folder-device": line(folder="/dev/zero"),
    "folder-root": line(folder="/"),
    "folder-empty": line(folder=""),
    "folder-remote": line(folder="https://evil.example/x"),
    "system-device": line(system="/dev/zero"),
    "system-path": line(system="../../../../etc/hostname"),
    "system-escapes": line(system="x\x1b[2J"),
    "set-deep": json.dumps(LINE).replace('["token.steps=0"]', DEEP),
    "set-table": line(set={"token.steps": {"a": {"b": [[]]}}}),
    "set-number": line(set={"token.steps": 1e18}),
    "set-key": line(set={"a" * 10_000: 1, "": 2, "x\x1b[2J": 3}),
    "set-toml": line(set=['token.steps = 1\n[recipe]\nid = "x"']),
    "no-object": '[1, 2]\n3\nnull\n"x"',
    "thousands": "\n".join("{" for _ in range(20_000)),
    "other-lines": line().replace(" ", "\u2028"),
    "mark": "\ufeff" + line(),
    "nothing": "",
}


@pytest.mark.parametrize("case", sorted(QUEUES))
def test_a_queue(case: str, attack: Callable[..., Any], tmp_path: Path, subject: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(QUEUES[case].encode("utf-8", "surrogatepass"))
    done = attack("fit-many", "q.jsonl", "-o", "out", "--backbone", "tiny").harmless()
    assert done.code in (0, 2), done
    if done.code == 2 and (tmp_path / "out").exists():
        assert not any(p.suffix == ".safetensors" for p in (tmp_path / "out").rglob("*")), done


PLACES = ("pipe", "folder", "device", "link", "loop", "nothing")


def put(kind: str, path: Path) -> None:
    """Put something else than a file there."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("device", "link", "loop"):
        secret = path.with_name("secret")
        secret.write_text("a secret\n")
        path.symlink_to({"device": "/dev/zero", "link": "secret", "loop": path.name}[kind])
    else:
        path.touch()


JOURNALS: dict[str, str] = {
    "deep": DEEP,
    "names": '{"name": ["n"]}\n{"name": {"a": 1}}\n{"name": null, "facts": []}\n3\n[]',
    "claims": '{"name": "n", "state": "done", "facts": "x"}\n' * 1000,
    "half": '{"name": "n", "sta',
    "bytes": "\x00\xff" * 5000,
}


@pytest.mark.parametrize("case", [*JOURNALS, *PLACES])
def test_a_queue_s_journal(
    case: str, attack: Callable[..., Any], tmp_path: Path, subject: Path
) -> None:
    (tmp_path / "q.jsonl").write_text(line())
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "fit-many.jsonl"
    if case in JOURNALS:
        path.write_bytes(JOURNALS[case].encode("latin-1"))
    else:
        put(case, path)
    words = ("fit-many", "q.jsonl", "-o", "out", "--backbone", "tiny", "--resume")
    outcome = attack(*words)
    outcome.events = [e for e in outcome.events if case != "link"]
    assert outcome.harmless().code in (0, 2), outcome
    assert (
        not path.with_name("secret").exists()
        or path.with_name("secret").read_text() == "a secret\n"
    )


PROMPTS: dict[str, bytes] = {
    "million": b"a {token}\n" * 1_000_000,
    "one-long": b"a " * 2_000_000,
    "tokens": b"{token} " * 2000,
    "surrogates": b"a \xed\xa0\x80 dog",
    "latin": b"a d\xf6g",
    "escapes": b"a \x1b[2J\x1b]0;owned\x07 {token}",
    "nul": b"a\0dog",
    "blank": b"\n \n\t\n",
}


@pytest.mark.parametrize("case", [*PROMPTS, *PLACES])
def test_a_list_of_prompts(
    case: str, attack: Callable[..., Any], golden: Callable[..., Path], tmp_path: Path
) -> None:
    folder = golden()
    path = tmp_path / "prompts.txt"
    if case in PROMPTS:
        path.write_bytes(PROMPTS[case])
    else:
        put(case, path)
    words = ("sample-many", folder, "--prompts", "prompts.txt", "-o", "out", "--steps", 1)
    outcome = attack(*words, seconds=60)
    outcome.events = [e for e in outcome.events if case != "link"]  # the user's own choice
    assert outcome.harmless().code in (0, 2), outcome


BESIDE: dict[str, str] = {
    "parents": '{"remove": "../victim"}',
    "absolute": '{"remove": "/victim"}',
    "inner-parents": '{"remove": "out.old/../victim"}',
    "another": '{"remove": "victim"}',
    "empty-name": '{"remove": ""}\n{"remove": "."}\n{"remove": "out.old/."}',
    "kinds": '{"remove": 3}\n{"remove": ["victim"]}\n{"keep": {}}\n{"left": [1, null, "victim"]}',
    "whole": '{"whole": "x", "ready": "victim", "old": "victim", "facts": "", "works": ["victim"]}',
    "along": '{"whole": "", "ready": "out.partial", "old": "victim", "facts": "", "works": [], '
    '"along": "/../victim"}',
    "link": '{"remove": "out.partial/letter"}',
    "deep": DEEP,
    "digits": '{"process": ' + "9" * 5000 + "}",
    "escapes": '{"process": 1, "command": "x\\u001b[2J"}',
    "megabytes": '{"remove": "victim"}\n' * 200_000,
}


@pytest.mark.parametrize("case", sorted(BESIDE))
def test_a_journal_of_somebody_else(case: str, attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "letter").write_text("dear")
    if case == "link":
        (tmp_path / "out.partial").symlink_to("victim")
    (tmp_path / ".out.pcs").write_text(BESIDE[case])
    words = ("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1)
    assert attack(*words).harmless().code in (0, 2)
    assert (tmp_path / "victim" / "letter").read_text() == "dear"


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("name", [".out.pcs", "out", "out.partial", "out.old"])
def test_what_is_no_folder_beside(
    case: str, name: str, attack: Callable[..., Any], tmp_path: Path
) -> None:
    put(case, tmp_path / name)
    words = ("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1, "--overwrite")
    outcome = attack(*words)
    assert outcome.harmless().code in (0, 2), outcome
    assert not (tmp_path / "secret").exists() or (tmp_path / "secret").read_text() == "a secret\n"


RECORDS: dict[str, str] = {
    "deep": DEEP,
    "parents": '{"format": 1, "files": {"../victim": "x"}}',
    "kinds": '{"format": 1, "files": [1]}',
    "format": '{"format": [], "files": {}}',
    "empty": '{"format": 1, "files": {}}',
    "lies": '{"format": 1, "files": {"letter": "0"}}',
}


@pytest.mark.parametrize("case", [*RECORDS, *PLACES])
def test_a_record_of_somebody_else(case: str, attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter").write_text("dear")
    if case in RECORDS:
        (tmp_path / "out" / ".pcs-files.json").write_text(RECORDS[case])
    else:
        put(case, tmp_path / "out" / ".pcs-files.json")
    words = ("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1, "--overwrite")
    outcome = attack(*words)
    assert outcome.harmless().code in (0, 2), outcome
    kept = list(tmp_path.rglob("letter"))
    assert [p.read_text() for p in kept] == ["dear"], outcome
