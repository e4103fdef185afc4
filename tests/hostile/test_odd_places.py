"""What is no file and no folder, in every place where a command is given one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = ("--backbone", "tiny", "--device", "cpu")
FIT = ("fit", "textual-inversion", "subject", "--noun", "dog", "--token", "<x>", "-o", "out", *TINY)
FIT += ("--no-preview", "--set", "token.steps=1")
DRAW = ("sample", "lora-dreambooth", "a <rex> here", "-o", "out", "-n", "1", "--steps", "1")
BASE = ("sample", "--base", "tiny", "a dog", "-o", "out", "-n", "1", "--steps", "1")


def swapped(words: tuple[str, ...], old: str) -> Callable[[str], tuple[str, ...]]:
    """Return what puts a place where ``old`` stands."""
    return lambda place: tuple(place if word == old else word for word in words)


COMMANDS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "fit-system": lambda place: (FIT[0], place + ".toml", *FIT[2:]),
    "fit-folder": swapped(FIT, "subject"),
    "fit-backbone": swapped(FIT, "tiny"),
    "fit-from": lambda place: ("fit", "subject", "--from", place, "-o", "out"),
    "fit-adapter": lambda place: ("fit", "ip-adapter", *FIT[2:-2], "--adapter", place),
    "fit-class-pictures": lambda place: (*FIT[:1], "dreambooth", *FIT[2:-2], "--class-pictures", place),
    "sample-artifact": swapped(DRAW, "lora-dreambooth"),
    "sample-base": swapped(BASE, "tiny"),
    "sample-add": lambda place: (*DRAW, "--add", place),
    "sample-preset": lambda place: (*BASE, "--preset", place + ".toml"),
    "sample-layout": lambda place: (*BASE, "--layout", place),
    "sample-deployment": lambda place: (*DRAW, "--deployment", place),
    "merge": lambda place: ("merge", "lora-dreambooth", place, "-o", "out"),
    "export": lambda place: ("export", place, "--to", "diffusers", "-o", "out"),
    "pretrain-data": lambda place: ("pretrain", "ip-adapter", "--data", place, *TINY, "-o", "out"),
    "fit-many": lambda place: ("fit-many", place, *TINY, "-o", "out"),
    "sample-many": lambda place: ("sample-many", place, "--prompts", "p.txt", "-o", "out"),
    "sample-many-prompts": lambda place: (
        *("sample-many", "lora-dreambooth", "--prompts", place, "-o", "out"),
    ),
    "show": lambda place: ("show", place),
    "bench": lambda place: ("bench", "run", place, *TINY, "-o", "out"),
    "compare": lambda place: ("compare", place, "--systems", "textual-inversion", *TINY, "-o", "out"),
    "import": lambda place: ("import", place + ".safetensors", *TINY[:2], "-o", "out"),
    "inspect": lambda place: ("inspect", place + ".safetensors"),
    "protect": lambda place: ("protect", place, *TINY, "-o", "out"),
    "render": lambda place: ("render", place, "-o", "out"),
    "quantize": lambda place: ("quantize", place),
    "explain": lambda place: ("explain", place + ".toml"),
}  # fmt: skip


def bound(place: Path) -> None:
    """Make a socket; its name may be long, so it is bound from its folder."""
    before = Path.cwd()
    os.chdir(place.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(place.name)
    finally:
        os.chdir(before)


THINGS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bound,
    "endless": lambda place: place.symlink_to("/dev/zero"),
    "memory": lambda place: place.symlink_to("/proc/self/mem"),
    "itself": lambda place: place.symlink_to(place),
    "nothing": lambda place: place.symlink_to("nothing"),
    "terabytes": lambda place: (place.touch(), os.truncate(place, 2**40)),
}
NAME = "odd\x1b[2J\u202e name"


# class pictures are drawn into a folder that is not there yet, and a link may lead to it
PLACES = [
    (command, thing)
    for command in sorted(COMMANDS)
    for thing in sorted(THINGS)
    if (command, thing) != ("fit-class-pictures", "nothing")
]


@pytest.mark.parametrize(("command", "thing"), PLACES)
def test_what_is_no_file(
    command: str,
    thing: str,
    attack: Callable[..., Any],
    golden: Callable[..., Path],
    subject: Path,
    tmp_path: Path,
) -> None:
    golden()
    (tmp_path / "p.txt").write_text("a {token}\n")
    words = COMMANDS[command](NAME)
    (name,) = (word for word in words if word.startswith(NAME))
    THINGS[thing](tmp_path / name)
    outcome = attack(*words, seconds=30)
    outcome.refused()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("thing", ["pipe", "socket", "endless", "itself", "nothing", "terabytes"])
@pytest.mark.parametrize("suffix", [".txt", ".json", ".mask.png", "/a.png"])
def test_what_is_no_file_beside_a_picture(
    suffix: str, thing: str, attack: Callable[..., Any], subject: Path
) -> None:
    place = subject / f"a{suffix}" if "/" not in suffix else subject / "b\x1b[2J.png"
    THINGS[thing](place)
    outcome = attack(*FIT, seconds=30).harmless()
    # read as nothing of the folder's, which is said, or refused
    assert outcome.code == 2 or place.name in outcome.err, outcome
