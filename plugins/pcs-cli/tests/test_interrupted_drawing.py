"""A drawing that ends early keeps the pictures that are finished, and says how to draw the others."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pcs_core.errors import InputError

drawing = import_module("pcs_engine.sample")  # the package calls its function so

WORDS = ("sample", "--base", "tiny", "a dog", "--steps", 1, "--scale", 1, "--seed", 5)


@pytest.fixture
def after_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Draw one picture at a time, and call a function in place of the third."""

    # Ctrl-C as Python has it at its start: a library that another test loaded may have changed it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def put(fault: Callable[[], None]) -> None:
        draw, calls = drawing._draw, []

        def counted(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                fault()
            return draw(*arguments)

        monkeypatch.setattr(drawing, "BATCH", 1)
        monkeypatch.setattr(drawing, "_draw", counted)

    yield put
    signal.signal(signal.SIGINT, before)


def stopped_by(name: str) -> Callable[[], None]:
    """Return what does as Python does when a signal comes: it calls the signal's handler.

    A signal that was really sent to this process has ended test workers, after some hundred other files. Real
    ones are sent to commands of their own by `scripts/nothing_lost.py`.
    """

    def come() -> None:
        number = getattr(signal, name)
        handler = signal.getsignal(number)
        assert callable(handler), f"{name} ends the process: {handler}"
        handler(number, None)

    return come


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_is_finished_is_kept(
    pcs: Callable, tmp_path: Path, after_two: Callable, name: str
) -> None:
    signals = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)]
    out = tmp_path / "p"
    after_two(stopped_by(name))
    done = pcs(*WORDS, "-n", 4, "--out", out)
    assert done.code == 130
    assert not out.exists()
    partial = tmp_path / "p.partial"
    assert {p.name for p in partial.iterdir()} == {"000.png", "001.png"}
    assert f"2 finished pictures are kept in {partial}" in done.err
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)] == signals
    again = shlex.split(done.err.strip().splitlines()[-1])
    assert pcs(*again[1:]).code == 0  # the others, which are as of one drawing
    whole = tmp_path / "whole"
    assert pcs(*WORDS, "-n", 4, "--out", whole).code == 0
    kept = [*sorted(partial.iterdir()), out / "000.png", out / "001.png"]
    assert [p.read_bytes() for p in kept] == [
        (whole / f"{i:03}.png").read_bytes() for i in range(4)
    ]


def test_the_rest_is_drawn_as_it_was_begun(
    pcs: Callable, fitted: Path, tmp_path: Path, after_two: Callable
) -> None:
    words = (
        "sample",
        fitted,
        "a <rex> and <rex-2>",
        "--add",
        fitted,
        "--strength",
        "artifact-2=0.5",
    )
    more = (*words, "--size", "48x32", "--scheduler", "euler a", "--steps", 2, "-n", 3)
    after_two(stopped_by("SIGTERM"))
    done = pcs(*more, "--out", tmp_path / "p")
    assert done.code == 130
    assert pcs(*shlex.split(done.err.strip().splitlines()[-1])[1:]).code == 0
    assert pcs(*more, "--out", tmp_path / "whole").code == 0
    rest = [(tmp_path / name).read_bytes() for name in ("p/000.png", "whole/002.png")]
    assert rest[0] == rest[1]


def test_an_error_keeps_them_too(pcs: Callable, tmp_path: Path, after_two: Callable) -> None:
    def fail() -> None:
        raise InputError("no more")

    after_two(fail)
    done = pcs(*WORDS, "-n", 4, "--out", tmp_path / "p")
    assert done.code == 2
    assert "2 finished pictures are kept" in done.err
    assert len(list((tmp_path / "p.partial").iterdir())) == 2


def test_without_a_finished_picture_nothing_is_left_and_that_is_said(
    pcs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "_draw", stop)
    done = pcs(*WORDS, "-n", 4, "--out", tmp_path / "deep" / "p")
    assert done.code == 130
    assert "no picture was finished, so nothing is kept" in done.err
    assert not list(tmp_path.iterdir())


def test_kept_pictures_are_not_written_over(
    pcs: Callable, tmp_path: Path, after_two: Callable
) -> None:
    (tmp_path / "p.partial").mkdir()
    after_two(stopped_by("SIGTERM"))
    pcs(*WORDS, "-n", 4, "--out", tmp_path / "p")
    assert not list((tmp_path / "p.partial").iterdir())
    assert len(list((tmp_path / "p.partial-2").iterdir())) == 2


def test_an_interruption_that_a_library_swallows_is_said(
    pcs: Callable, tmp_path: Path, after_two: Callable
) -> None:
    """A reader in another language makes an error of its own out of it, with words about its objects."""

    def swallowed() -> None:
        try:
            stopped_by("SIGTERM")()
        except KeyboardInterrupt:
            raise InputError("the shape of object type UntypedStorage") from None

    after_two(swallowed)
    done = pcs(*WORDS, "-n", 4, "--out", tmp_path / "p")
    assert done.code == 130
    assert done.err.splitlines()[-1] == "Error: interrupted"
    after_two(lambda: None)
    assert (
        pcs(*WORDS, "-n", 1, "--out", tmp_path / "q").code == 0
    )  # it is forgotten with its command
