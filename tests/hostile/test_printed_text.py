"""Text from somebody's files moves no cursor, turns no line and is no markup on any page."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pcs_core.small_files import is_plain_name

SAYS: dict[str, str] = {
    "clear-screen": "x\x1b[2J\x1b[Hy",
    "title": "x\x1b]0;owned\x07y",
    "link": "x\x1b]8;;http://evil.example\x1b\\y",
    "c1": "x\x9b31my",
    "return": "x\rError: all is well",
    "backspace": "x\b\b\b\by",
    "line": "x\nError: a line of its own",
    "line-separator": "x\u2028y\u2029z",
    "right-to-left": "x\u202eyz\u202c",
    "isolate": "x\u2066y\u2069z",
    "invisible": "x\u200b\ufeff\u2060\u00ady",
    "tags": "x\U000e0041\U000e0042y",
    "nul": "x\x00y",
    "next-line": "x\x85y",
    "rich": "x[bold red]y[/bold red][link=http://evil.example]z[/link]",
    "rich-broken": "x[/]y[/nothing]",
    "script": "<script>alert(1)</script>",
    "attribute": "\" onerror='alert(1)' x=\"",
    "entity": "&lt;script&gt;",
    "svg": "</text><script>alert(1)</script>",
    "tex": r"\input{/etc/hostname}%",
    "formula": "=cmd|'/c calc'!A1",
    "template": "{{ 7 * 7 }}{% for x in y %}",
    "percent": "%s%n%(a)d {0} {a.b}",
}


@pytest.mark.parametrize("say", sorted(SAYS))
def test_an_artifact_s_words(
    say: str, attack: Callable[..., Any], golden: Callable[..., Path], signed: Callable[..., Path]
) -> None:
    text = SAYS[say]
    folder = golden()

    def change(data: dict[str, Any]) -> None:
        data["subject"] = text
        data["concepts"] = [{"name": text, "token": text, "noun": text, "kind": text}]
        data["losses"] = {text: 1.0}
        data["versions"] = {text: text}
        data["backbone"] |= {"location": text, "family": text, "prediction": text}
        data["extra"] = {text: text}

    signed(folder, change)
    attack("show", folder).harmless()
    attack("show", folder, "--json").harmless()
    attack("sample", folder, "a dog", "-o", "out", "-n", 1, "--steps", 1).harmless()


@pytest.mark.parametrize("say", sorted(SAYS))
def test_names_in_files(
    say: str, attack: Callable[..., Any], tmp_path: Path, subject: Path
) -> None:
    text = SAYS[say]
    base = ("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1)
    quoted = json.dumps(text)
    (tmp_path / "r.toml").write_text(
        f"[recipe]\nid = {quoted}\n[[use]]\ntechnique = {quoted}\n{quoted} = 1\n"
    )
    attack(
        "fit", "r.toml", subject, "-o", "out", "--noun", "d", "--token", "<x>", "--dry-run"
    ).refused()
    attack("explain", "r.toml").refused()
    (tmp_path / "p.toml").write_text(
        f'[preset]\nid = "p"\ntitle = {quoted}\n[sample]\n{quoted} = 1\n'
    )
    attack(*base, "--preset", "p.toml").refused()
    (tmp_path / "l.json").write_text(
        json.dumps({"boxes": [{"phrase": text, "box": [0, 0, 1, 1], text: 1}]})
    )
    attack(*base, "--layout", "l.json").refused()
    (subject / "metadata.jsonl").write_text(json.dumps({"file_name": text, "text": text}))
    fit = ("fit", "textual-inversion", subject, "-o", "out", "--backbone", "tiny", "--dry-run")
    attack(*fit, "--noun", "dog", "--token", "<x>").refused()
    (subject / "metadata.jsonl").write_text(
        json.dumps({"file_name": "a.png", "text": text, text: text})
    )
    attack(*fit, "--noun", "dog", "--token", "<x>").harmless()
    save_file({text.replace("\0", ""): torch.zeros(1)}, tmp_path / "l.safetensors")
    lora = (
        "--with",
        "acceleration.lora_file",
        "--set",
        "acceleration.lora_file.file=l.safetensors",
    )
    attack(*base, *lora).refused()
    attack("sample", "--base", "l.safetensors", *base[3:]).refused()


@pytest.mark.parametrize("say", sorted(set(SAYS) - {"nul"}))
def test_names_of_files(
    say: str, attack: Callable[..., Any], tmp_path: Path, subject: Path
) -> None:
    name = SAYS[say].replace("/", "_")
    Image.new("RGB", (40, 36), "teal").save(subject / f"{name}.png")
    (subject / f"{name}.txt").write_text("a dog")
    (subject / f"{name}.bin").touch()
    (tmp_path / f"{name}.toml").write_text("a = [")
    fit = (
        "fit",
        "textual-inversion",
        subject,
        "--backbone",
        "tiny",
        "--noun",
        "dog",
        "--token",
        "<x>",
    )
    attack(*fit, "-o", name, "--dry-run").harmless()
    attack(*fit, "-o", name, "--no-preview", "--set", "token.steps=1").harmless()
    attack("explain", f"./{name}.toml").refused()
    (subject / f"{name}.png").write_bytes(b"no picture")
    attack(*fit, "-o", "out", "--no-preview", "--set", "token.steps=1").refused()


class Page(HTMLParser):
    """Notes the tags and attributes of a page that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"):
            self.acts.append(tag)
        for name, value in attrs:
            acts = name.startswith("on") or name == "style"
            away = name in ("href", "src") and not re.match(
                r"data:image/jpeg;|https://arxiv\.org/|#|$", value or ""
            )
            if acts or away:
                self.acts.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("say", sorted(SAYS))
def test_a_benchmark_s_report(say: str, attack: Callable[..., Any], tmp_path: Path) -> None:
    text = SAYS[say]
    name = text if is_plain_name(text) else "a"
    bench = tmp_path / "bench"
    (bench / "pictures" / "aa").mkdir(parents=True)
    (bench / "references" / name).mkdir(parents=True)
    for place in ("pictures/aa/aa.png", f"references/{name}/0.png"):
        Image.new("RGB", (32, 32), "teal").save(bench / place)
    systems, subjects, metrics = (
        [text, "untuned", "dreambooth"],
        [name, "b"],
        [text, "clip-t", "clip-i"],
    )
    keys = [f"{s}/{o}/{i}/0" for s in systems for o in subjects for i in range(3)]
    protocol = {
        "suite": text, "backbone": text, "stands_for": text, "device": text, "seeds": 1,
        "cells": keys, "subjects": subjects, "systems": systems, "subject_facts": [{"name": text}],
        "machine": {"architecture": text, "cores": text}, "versions": {"torch": text},
        "metrics": metrics, text: text,
    }  # fmt: skip
    (bench / "run.json").write_text(json.dumps(protocol))
    lines = []
    for number, key in enumerate(keys):
        system, subject, index = key.rsplit("/", 3)[0], key.rsplit("/", 3)[1], number % 3
        lines.append({
            "key": key, "system": system, "subject": subject, "index": index, "seed": 0, "kind": text,
            "state": "failed" if index == 2 else "done", "template": text, "prompt": text, "hash": "aa",
            "sha256": "", "picture": "/etc/hostname", "scores": dict.fromkeys(metrics, number / 20),
            "errors": {text: text}, "error": text, "seconds": 1.0, "fit": "aa"})  # fmt: skip
    (bench / "cells.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = attack("bench", "report", "bench", "--title", "t").harmless()
    assert outcome.code == 0, outcome
    for file, signs in (
        ("report.html", "\x1b\x9b\x07\b\u202e\u2066\u202c\u2069\x00"),
        ("report.tex", "\x1b\x07"),
    ):
        written = (bench / file).read_text("utf-8")
        assert not {c for c in written if c in signs}, file
    reader = Page()
    reader.feed((bench / "report.html").read_text("utf-8"))
    assert reader.acts == []
    rows = csv.reader((bench / "report.csv").read_text("utf-8").splitlines())
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
