"""Small files of text that are nested, huge, half a character or of wrong types, wherever one is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DEEP = 60_000
TEXTS: dict[str, str] = {
    "json-lists": "[" * DEEP,
    "json-tables": '{"a":' * DEEP + "1" + "}" * DEEP,
    "json-closed": "[" * 990 + "]" * 990,
    "json-digits": '{"format": ' + "9" * 5000 + "}",
    "json-exponent": '{"schema": 1e999999}',
    "json-surrogate": '{"schema": "\\ud800"}',
    "json-nan": '{"schema": NaN}',
    "json-twice": '{"schema": 1, "schema": 1}',
    "json-null": "null",
    "json-text": '"x"',
    "json-list-of-lists": "[[], [[]], {}]",
    "toml-arrays": "a = " + "[" * DEEP,
    "toml-tables": "a = " + "{ b = " * DEEP,
    "toml-dotted": ".".join(["a"] * 10_000) + " = 1",
    "toml-header": "[" + ".".join(["a"] * 10_000) + "]",
    "toml-quoted": ".".join(['"a"'] * 10_000) + " = 1",
    "toml-spaced": " . ".join(["'a'"] * 9_000) + " = 1",
    "toml-headers": "".join(f"[{'.'.join(['a'] * 40)}.b{i}]\n" for i in range(3000)),
    "toml-digits": "a = " + "9" * 5000,
    "toml-hex": "a = 0x" + "f" * 5000,
    "toml-binary": "a = 0b" + "1" * 50_000,
    "toml-float": "a = 1e" + "9" * 5000,
    "toml-year": "a = 99999-99-99",
    "toml-string": 'a = "' + "x" * 3_000_000 + '"',
    "toml-open-string": 'a = """' + 'x"' * 100_000,
    "toml-backslashes": 'a = "' + "\\" * 99_999,
    "utf16": "a = 1".encode("utf-16").decode("latin-1"),
    "nul": "\0" * 4096,
    "latin": "a = '\u00e9'",
    "nothing": "",
    "marks": "\u202e\u2066\x1b]0;owned\x07 = 1",
}
KINDS = ("recipe", "preset", "layout", "subject", "manifest", "suite", "protocol", "cells", "sets",
         "run", "captions", "caption", "index", "config", "info", "checksums", "adapter")  # fmt: skip


def place_of(kind: str, tmp_path: Path, golden: Callable[..., Path], model: Path) -> Path:
    """Return where a small file of this kind is read."""
    return {
        "recipe": tmp_path / "r.toml",
        "preset": tmp_path / "p.toml",
        "layout": tmp_path / "l.json",
        "subject": tmp_path / "subject" / "subject.toml",
        "manifest": tmp_path / "lora-dreambooth" / "manifest.json",
        "suite": tmp_path / "suite.toml",
        "protocol": tmp_path / "bench" / "run.json",
        "cells": tmp_path / "bench" / "cells.jsonl",
        "sets": tmp_path / "bench" / "sets.json",
        "run": tmp_path / "out.partial" / "run.json",
        "captions": tmp_path / "subject" / "metadata.jsonl",
        "caption": tmp_path / "subject" / "a.txt",
        "index": model / "model_index.json",
        "config": model / "unet" / "config.json",
        "info": tmp_path / "subject" / "a.json",
        "checksums": tmp_path / "checksums.sha256",
        "adapter": tmp_path / "adapter_config.json",
    }[kind]


BASE = ("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1)
FIT = ("--noun", "dog", "--token", "<x>", "-o", "out", "--backbone", "tiny", "--dry-run")
COMMANDS: dict[str, tuple[Any, ...]] = {
    "recipe": ("fit", "r.toml", "subject", *FIT),
    "preset": (*BASE, "--preset", "p.toml"),
    "layout": (*BASE, "--layout", "l.json"),
    "subject": ("fit", "textual-inversion", "subject", "-o", "out", "--backbone", "tiny", "--dry-run"),
    "manifest": ("show", "lora-dreambooth"),
    "suite": ("bench", "estimate", "suite.toml", "--systems", "dreambooth", "--backbone", "tiny"),
    "protocol": ("bench", "report", "bench"),
    "cells": ("bench", "report", "bench"),
    "sets": ("bench", "report", "bench"),
    "run": ("fit", "textual-inversion", "subject", *FIT[:-1], "--no-preview", "--resume", "--set",
            "token.steps=0"),
    "captions": ("fit", "textual-inversion", "subject", *FIT),
    "caption": ("fit", "textual-inversion", "subject", *FIT),
    "info": ("fit", "textual-inversion", "subject", *FIT),
    "index": ("sample", "--base", "model", "a dog", "-o", "out", "-n", 1, "--steps", 1),
    "config": ("sample", "--base", "model", "a dog", "-o", "out", "-n", 1, "--steps", 1),
    "checksums": ("bench", "run", "suite.toml", "-o", "b", "--systems", "untuned", "--backbone", "tiny"),
    "adapter": (*BASE, "--with", "acceleration.lora_file", "--set",
                "acceleration.lora_file.file=adapter_model.safetensors"),
}  # fmt: skip
SUITE = """
[suite]
id = "s"
kind = "object"
[images]
checksums = "checksums.sha256"
[prompt]
object = ["a photo of a {token} {noun}"]
[[subject]]
name = "subject"
noun = "dog"
"""
PROTOCOL = {"suite": "s", "backbone": "tiny", "cells": [], "subjects": ["a"], "seeds": 1}


@pytest.fixture
def laid(
    tmp_path: Path,
    golden: Callable[..., Path],
    model: Path,
    subject: Path,
    raw: Callable[..., bytes],
) -> Callable[[str, bytes], None]:
    """Return what lays a file of a kind where it is read, and what belongs beside it."""

    def lay(kind: str, content: bytes) -> None:
        golden()
        for name in ("bench", "out.partial"):
            (tmp_path / name).mkdir()
        (tmp_path / "suite.toml").write_text(SUITE)
        (tmp_path / "bench" / "run.json").write_text(json.dumps(PROTOCOL))
        (tmp_path / "adapter_model.safetensors").write_bytes(raw({}))
        place_of(kind, tmp_path, golden, model).write_bytes(content)
        if kind != "run":
            (tmp_path / "out.partial").rmdir()

    return lay


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", sorted(TEXTS))
def test_every_small_file(
    kind: str, text: str, laid: Callable[..., None], attack: Callable[..., Any]
) -> None:
    laid(kind, TEXTS[text].encode("utf-8", "surrogatepass"))
    outcome = attack(*COMMANDS[kind]).harmless()
    assert outcome.seconds < 15, outcome
    lenient = ("captions", "caption", "info", "cells", "sets", "checksums", "adapter", "index")
    if kind not in lenient and text not in ("nothing", "json-closed"):
        outcome.refused()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "to", ["/dev/zero", "/dev/urandom", "fifo", "folder", "loop", "sparse", "gone"]
)
def test_what_is_no_file(
    kind: str, to: str, laid: Callable[..., None], attack: Callable[..., Any], tmp_path: Path,
    golden: Callable[..., Path], model: Path,
) -> None:  # fmt: skip
    laid(kind, b"")
    place = place_of(kind, tmp_path, lambda: tmp_path, model)
    place.unlink()
    if to == "fifo":
        os.mkfifo(place)
    elif to == "folder":
        place.mkdir()
    elif to == "sparse":
        with place.open("wb") as file:
            file.truncate(2**36)
    elif to == "loop":
        place.symlink_to(place.name)
    else:
        place.symlink_to(to)
    outcome = attack(*COMMANDS[kind]).harmless()
    assert outcome.seconds < 15, outcome


WRONG = ("1", '"x"', "[]", "{}", "true", '["x"]', "[1]", "null", '[{"a": "b"}]', "-1", "1e400")


@pytest.mark.parametrize("key", ["suite", "backbone", "cells", "subjects", "seeds", "metrics",
                                 "versions", "machine", "device", "unit", "stands_for"])  # fmt: skip
@pytest.mark.parametrize("value", WRONG)
def test_wrong_types_in_a_benchmark_s_protocol(
    key: str, value: str, laid: Callable[..., None], attack: Callable[..., Any]
) -> None:
    text = json.dumps({**PROTOCOL, key: 0}).replace(f'"{key}": 0', f'"{key}": {value}')
    laid("protocol", text.encode())
    attack("bench", "report", "bench").harmless()


CELL = {"key": "dreambooth/a/0/0", "system": "dreambooth", "subject": "a", "index": 0, "seed": 0,
        "kind": "object", "state": "done", "template": "x", "prompt": "x", "hash": "00",
        "sha256": "00", "picture": "pictures/00/00.png", "scores": {"m": 1.0}, "seconds": 1}  # fmt: skip


@pytest.mark.parametrize("key", sorted(CELL))
@pytest.mark.parametrize("value", [*WRONG, "leave out", '"../../../../../../etc/hostname"'])
def test_wrong_types_in_a_benchmark_s_lines(
    key: str, value: str, laid: Callable[..., None], attack: Callable[..., Any]
) -> None:
    cell = {k: v for k, v in CELL.items() if k != key}
    text = json.dumps(cell)
    if value != "leave out":
        text = f'{text[:-1]}, "{key}": {value}}}'
    laid("cells", text.encode() + b"\n")
    attack("bench", "report", "bench").harmless()


@pytest.mark.parametrize("value", [*WRONG, '[{"system": 1}]', '[{"metric": [], "value": "x"}]'])
def test_wrong_types_in_a_benchmark_s_sets(
    value: str, laid: Callable[..., None], attack: Callable[..., Any]
) -> None:
    laid("sets", value.encode())
    attack("bench", "report", "bench").harmless()


@pytest.mark.parametrize("key", ["schema", "subject", "seed", "backbone", "concepts", "losses", "versions",
                                 "recipe_hash", "recipe", "files", "extra"])  # fmt: skip
@pytest.mark.parametrize("value", WRONG[:-1])
def test_wrong_types_in_a_manifest(
    key: str, value: str, attack: Callable[..., Any], golden: Callable[..., Path],
    signed: Callable[..., Path],
) -> None:  # fmt: skip
    folder = golden()
    signed(folder, lambda data: data.update({key: json.loads(value)}))
    attack("show", folder).harmless()
    attack("sample", folder, "a dog", "-o", "out", "-n", 1, "--steps", 1).harmless()
