"""Weights that lie: about their header's length, their offsets, kinds, shapes and names."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pcs_cli.main import main
from pcs_engine import checkpoints

NAME = "lora/denoiser:x/A"
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FOUR = b"\0" * 4


def table(**entries: Any) -> dict[str, Any]:
    return {NAME: {**ONE, **entries}}


LIES: dict[str, tuple[Any, bytes, int | None]] = {
    "length-beyond-file": (table(), FOUR, 2**40),
    "length-of-exabytes": (table(), FOUR, 2**63),
    "length-negative": (table(), FOUR, 2**64 - 1),
    "length-zero": (table(), FOUR, 0),
    "length-short": (table(), FOUR, 5),
    "no-json": (b"{" * 10, b"", None),
    "a-list": ([1, 2], b"", None),
    "a-number": (3, b"", None),
    "not-utf8": (b'{"\xff": 1}', b"", None),
    "deep": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"", None),
    "twice": (
        b'{"a":' + json.dumps(ONE).encode() + b',"a":' + json.dumps(ONE).encode() + b"}",
        FOUR,
        None,
    ),
    "overlapping": ({"a": ONE, "b": ONE}, FOUR, None),
    "hole": ({"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}, b"\0" * 12, None),
    "beyond-the-file": (table(shape=[100], data_offsets=[0, 400]), FOUR, None),
    "reversed": (table(data_offsets=[4, 0]), FOUR, None),
    "offset-negative": (table(data_offsets=[-4, 0]), FOUR, None),
    "three-offsets": (table(data_offsets=[0, 4, 8]), FOUR, None),
    "offset-of-text": (table(data_offsets=["0", "4"]), FOUR, None),
    "shape-too-large": (table(shape=[2]), FOUR, None),
    "shape-negative": (table(shape=[-1]), FOUR, None),
    "shape-overflows": (table(shape=[2**62, 8]), FOUR, None),
    "shape-of-text": (table(shape="1"), FOUR, None),
    "shape-of-5000-digits": (
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        FOUR,
        None,
    ),
    "dtype-unknown": (table(dtype="F31"), FOUR, None),
    "dtype-number": (table(dtype=32), FOUR, None),
    "whole-numbers": (table(dtype="I32"), FOUR, None),
    "truths": ({NAME: {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}, FOUR, None),
    "trailing": (table(), FOUR * 9, None),
    "metadata-no-text": ({"__metadata__": {"a": 3}, **table()}, FOUR, None),
    "metadata-a-list": ({"__metadata__": [], **table()}, FOUR, None),
    "half-a-character": (b'{"\\ud800":' + json.dumps(ONE).encode() + b"}", FOUR, None),
    "further-keys": (table(code="import this"), FOUR, None),
    "no-entry": ({NAME: None}, FOUR, None),
}
BARE = {"empty": b"", "seven-bytes": b"\0" * 7, "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR."}


@pytest.fixture(params=[*LIES, *BARE])
def lie(request: pytest.FixtureRequest, raw: Callable[..., bytes]) -> bytes:
    name = request.param
    return BARE[name] if name in BARE else raw(*LIES[name])


def test_an_artifact(
    lie: bytes, attack: Callable[..., Any], golden: Callable[..., Path], signed: Callable[..., Path]
) -> None:
    folder = golden()
    (folder / "weights.safetensors").write_bytes(lie)
    signed(folder)
    attack("show", folder).refused("weights.safetensors")
    attack("sample", folder, "a dog", "-o", "out", "-n", 1, "--steps", 1).refused()


def test_a_model_s_folder(lie: bytes, attack: Callable[..., Any], model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(lie)
    attack("sample", "--base", model, "a dog", "-o", "out", "-n", 1, "--steps", 1).refused("model")


def test_a_file_of_a_whole_model(lie: bytes, attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(lie)
    attack("sample", "--base", "m.safetensors", "a dog", "-o", "out", "-n", 1).refused("m.safet")


def test_a_lora_of_another_tool(lie: bytes, attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "l.safetensors").write_bytes(lie)
    attack(
        *("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1),
        *("--with", "acceleration.lora_file", "--set", "acceleration.lora_file.file=l.safetensors"),
    ).refused("l.safetensors")


def test_what_another_tool_wrote(lie: bytes, attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "l.safetensors").write_bytes(lie)
    attack("inspect", "l.safetensors").refused("l.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04cos\nsystem\n(S'touch x'\ntR.",
        b"PK\x03\x04" + b"\0" * 100,
        b"",
        b"\x80\x02" + b"(" * 100_000,
    ],
)
def test_a_pickle(content: bytes, attack: Callable[..., Any], tmp_path: Path) -> None:
    """Read in a process of its own, which imports nothing from the folder of the command."""
    (tmp_path / "l.ckpt").write_bytes(content)
    (tmp_path / "json.py").write_text("open('x', 'w')")
    outcome = attack("inspect", "l.ckpt", seconds=120)
    assert [e for e in outcome.events if "Popen" not in e] == []
    outcome.events.clear()
    outcome.refused("l.ckpt")
    assert not (tmp_path / "x").exists()


ENDLESS = ("(a+)+$", "(?:.*.*)*x", "(((", "x" * 1000, ".*.*.*.*.*x", "[", "(?P<a>", "\\1")


@pytest.mark.parametrize("pattern", ENDLESS)
def test_an_expression_that_may_match_for_ever(
    pattern: str, attack: Callable[..., Any], raw: Callable[..., bytes], tmp_path: Path
) -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_{}.weight"
    shapes = {"A": [2, 32], "B": [32, 2]}
    header: dict[str, Any] = {
        name.format(k): {"dtype": "F32", "shape": s, "data_offsets": [256 * i, 256 * (i + 1)]}
        for i, (k, s) in enumerate(shapes.items())
    }
    said = {"unet.lora_alpha": 4, "unet.r": 2, "unet.alpha_pattern": {pattern: 8}}
    header["__metadata__"] = {"lora_adapter_metadata": json.dumps(said)}
    (tmp_path / "l.safetensors").write_bytes(raw(header, b"\0" * 512))
    outcome = attack(
        *("sample", "--base", "tiny", "a dog", "-o", "out", "-n", 1, "--steps", 1),
        *("--with", "acceleration.lora_file", "--set", "acceleration.lora_file.file=l.safetensors"),
    )
    outcome.refused()
    assert outcome.seconds < 15, outcome


def killed_fit(words: Sequence[str], folder: Path) -> Path:
    """Run ``pcs`` in a child that dies in its third step, and return the folder of its checkpoint."""
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            checkpoints.SECONDS = 0.0  # one in every step
            left, write = [3], checkpoints.Checkpoints.maybe_write

            def fatal(*given: Any, **named: Any) -> Any:
                done = write(*given, **named)
                left[0] -= 1
                if not left[0]:
                    os._exit(9)
                return done

            checkpoints.Checkpoints.maybe_write = fatal  # type: ignore[method-assign]
            main(list(words))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    return folder / "out.partial" / "work"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child that was forked")
def test_a_checkpoint(lie: bytes, attack: Callable[..., Any], subject: Path) -> None:
    fit = ["fit", "textual-inversion", str(subject), "-o", "out", "--backbone", "tiny"]
    fit += ["--no-preview", "--noun", "dog", "--token", "<x>", "--set", "token.steps=5"]
    work = killed_fit(fit, subject.parent)
    files = sorted(work.rglob("*.safetensors"))
    assert files, "the fit that died left no checkpoint"
    for file in files:
        file.write_bytes(lie)
    attack(*fit, "--resume").refused()


def test_numbers_that_are_none(
    attack: Callable[..., Any], golden: Callable[..., Path], signed: Callable[..., Path]
) -> None:
    """NaN in weights is drawn by no one in silence."""
    folder = golden()
    file = folder / "weights.safetensors"
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    count = (len(content) - header) // 4
    file.write_bytes(content[:header] + struct.pack("<f", float("nan")) * count)
    signed(folder)
    attack("sample", folder, "<thing>", "-o", "out", "-n", 1, "--steps", 1).refused("nan")


@pytest.mark.parametrize("dtype", ["I32", "U8x4", "BOOLx4"])
def test_whole_numbers_in_place_of_weights(
    dtype: str,
    attack: Callable[..., Any],
    golden: Callable[..., Path],
    signed: Callable[..., Path],
) -> None:
    folder = golden()
    file = folder / "weights.safetensors"
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    name, _, factor = dtype.partition("x")
    for key, entry in header.items():
        if key != "__metadata__":
            entry["dtype"] = name
            if factor:
                entry["shape"][-1] *= int(factor)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    signed(folder)
    attack("show", folder).refused("weights.safetensors", name)


def test_a_million_tensors_of_nothing(
    attack: Callable[..., Any],
    golden: Callable[..., Path],
    signed: Callable[..., Path],
    raw: Callable[..., bytes],
) -> None:
    folder = golden()
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    content = raw({f"{i}": nothing for i in range(1_000_000)})
    (folder / "weights.safetensors").write_bytes(content)
    signed(folder)
    outcome = attack("show", folder).refused("weights.safetensors")
    assert outcome.seconds < 10


def test_terabytes_of_nothing(
    attack: Callable[..., Any], raw: Callable[..., bytes], tmp_path: Path
) -> None:
    """A sparse file takes no disk, and all memory where it is read."""
    size = 2**40
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    name = "model.diffusion_model.input_blocks.0.0.weight"
    file = tmp_path / "m.safetensors"
    content = raw({name: entry})
    file.write_bytes(content)
    with file.open("r+b") as opened:
        opened.truncate(len(content) + size)
    outcome = attack("sample", "--base", "m.safetensors", "a dog", "-o", "out", "-n", 1)
    outcome.refused("m.safetensors")
    assert outcome.seconds < 10
