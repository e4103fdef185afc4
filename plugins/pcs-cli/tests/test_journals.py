"""The journal beside an output folder: a lock with its command, and nothing else that it could be."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_cli import fit_work
from pcs_cli.claims import release, take
from pcs_cli.output_folder import destination
from pcs_core.errors import InputError


def leave(folder: Path, *lines: dict[str, object]) -> Path:
    """Write the journal of a command that died."""
    journal = folder.with_name(f".{folder.name}.pcs")
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"rem')
    return journal


def test_a_journal_of_somebody_else_removes_nothing(tmp_path: Path) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    for name in (".ssh", "letters", "out.partial.d", ".out.ffffffff.d", "away/result"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "out.partial").symlink_to(away)
    names = [".ssh", "letters", "..", "", str(away), "out.partial/../away", "out.partial/result"]
    names += ["out.partial.d", ".out.ffffffff.d", "out"]
    leave(out, *({"remove": name} for name in names), {"left": [".ssh", 3]})
    destination(out, overwrite=False)
    assert {p.name for p in tmp_path.iterdir()} == {
        *(".ssh", "letters", "out.partial.d", ".out.ffffffff.d", "away", "out.partial")
    }
    assert (away / "result").is_dir()


def test_what_is_noted_is_removed(tmp_path: Path) -> None:
    for name in ("out.partial", ".out.0123abcd"):
        (tmp_path / name / "x").mkdir(parents=True)
    leave(tmp_path / "out", {"remove": "out.partial"}, {"remove": ".out.0123abcd"})
    destination(tmp_path / "out", overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_journal_that_is_no_file_is_refused(
    pcs: Callable, tmp_path: Path, kind: str, fitted: Path
) -> None:
    journal, letter = tmp_path / ".out.pcs", tmp_path / "letter"
    letter.write_text("dear")
    {
        "link": lambda: journal.symlink_to(letter),
        "folder": journal.mkdir,
        "pipe": lambda: os.mkfifo(journal),
    }[kind]()
    done = pcs("sample", fitted, "a <rex>", "--out", tmp_path / "out")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert letter.read_text() == "dear"


def test_a_claim_keeps_others_out_and_leaves_no_parents(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    claim = take(out)
    assert take(out) is claim  # one command may ask again
    release(claim)
    child = os.fork()
    if not child:  # another process
        try:
            from pcs_cli import claims

            claims._CLAIMS.clear()
            take(out)
        except InputError as error:
            os._exit(3 if f"process {os.getppid()}" in str(error) else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    release(claim)
    assert not list(tmp_path.iterdir())


def test_what_was_begun_and_not_kept_goes_with_its_command(tmp_path: Path) -> None:
    claim = take(tmp_path / "out")
    half, whole = tmp_path / ".out.0123abcd", tmp_path / "out.partial"
    for folder in (half, whole):
        claim.making(folder)
        (folder / "x").mkdir(parents=True)
    claim.keeping(whole)
    release(claim)
    assert list(tmp_path.iterdir()) == [whole]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_a_fit_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A folder without its facts would be taken for somebody else's by the next fit."""

    def refuse(path: Path, data: object) -> None:
        path.with_name("run.json.new").touch()
        raise error

    monkeypatch.setattr(fit_work, "_write", refuse)
    with pytest.raises((InputError, KeyboardInterrupt)):
        fit_work.open_workplace(destination(tmp_path / "out", overwrite=False), {}, resume=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_written_since_it_was_looked_at_is_refused_before_the_work(tmp_path: Path) -> None:
    target = destination(tmp_path / "out", overwrite=False)
    (tmp_path / "out").mkdir()
    target.folder.joinpath("letter").touch()
    with pytest.raises(InputError, match="written by another command meanwhile"):
        target.take()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_fit_that_was_whole_when_its_command_died_may_be_taken_up(tmp_path: Path) -> None:
    target = destination(tmp_path / "out", overwrite=False)
    place = fit_work.open_workplace(target, {"seed": 1}, resume=False)
    place.result.mkdir()
    (place.result / "manifest.json").write_text("{}")
    place.publish(target)
    journal = (tmp_path / ".out.pcs").read_bytes()
    place.close()
    (tmp_path / ".out.pcs").write_bytes(journal)  # as after a death
    again = fit_work.choose_destination(tmp_path / "out", overwrite=False, resume=True)
    place = fit_work.open_workplace(again, {"seed": 1}, resume=True)
    assert place.finished
    place.close()
