"""What commands do with the disk, without a network: all deaths of it take seconds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pcs_cli.claims import release, release_all
from pcs_cli.fit_work import choose_destination, open_workplace
from pcs_cli.main import BAD_INPUT, DISK
from pcs_cli.output_folder import destination, free_name
from pcs_cli.own_files import record
from pcs_core.errors import PcsError
from pcs_core.storage.durable import replacing_file
from reliability.commands import Program
from reliability.deaths import Fault, Trials
from reliability.disk_changes import DEATH, POWER, READ_ONLY
from reliability.scenarios import Scenario


def fill(words: list[str], out: Path, overwrite: bool) -> None:
    """Write as ``pcs export`` and ``pcs merge`` do."""
    with destination(out, overwrite=overwrite).filling() as ready:
        _artifact(ready, "new")


def report(words: list[str], out: Path, overwrite: bool) -> None:
    """Write as ``pcs protect`` does: a file comes along with the folder."""
    with destination(out, overwrite=overwrite).filling(along=".json") as ready:
        _artifact(ready, "new")
        ready.with_name("ready.json").write_text("{}")


def draw(words: list[str], out: Path, overwrite: bool) -> None:
    """Write as ``pcs sample`` does: picture after picture."""
    target = destination(out, overwrite=overwrite)
    claim = target.take()
    folder = free_name(target.folder, "partial")
    claim.note(left=[claim.name(folder)])
    folder.mkdir()
    for index in range(2):
        with replacing_file(folder / f"{index:03}.png") as picture:
            picture.write_text(f"picture {index}")
    with replacing_file(folder / "sample.json") as facts:
        facts.write_text("{}")
    target.publish(folder)
    release(claim)


def fit(words: list[str], out: Path, overwrite: bool) -> None:
    """Write as ``pcs fit`` does: a checkpoint, the result, and the name."""
    resume = "--resume" in words
    target = choose_destination(out, overwrite=overwrite, resume=resume)
    place = open_workplace(target, {"seed": 0}, resume=resume)
    if place.finished:
        place.close()
        return
    (place.work / "fit-0.safetensors").write_text("a step")
    place.result.mkdir()
    for name in ("a", "b"):
        _artifact(place.result / name, "new")
    place.publish(target)
    place.discard()


KINDS = {"fill": fill, "report": report, "draw": draw, "fit": fit}


def program(name: str) -> Program:
    """Return what does as a command with ``--out out`` does, and its exit code."""

    def run(words: list[str]) -> int:
        try:
            try:
                KINDS[name](words, Path("deep/er/out"), "--overwrite" in words)
            finally:
                release_all()
        except PcsError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_code
        except OSError as error:  # as the command does with a disk that takes no more
            if error.errno not in DISK:
                raise
            print(f"Error: {error.filename}: {error.strerror}", file=sys.stderr)
            return BAD_INPUT
        return 0

    return run


def scenarios(folder: Path) -> Iterator[Scenario]:
    """Yield each kind without and with something old in its place; what is old is written to ``folder``."""
    old = folder / "old"
    if not old.exists():
        (old / "er").mkdir(parents=True)
        _artifact(old / "er" / "out", "old")
        foreign = folder / "foreign"
        shutil.copytree(old, foreign)
        (foreign / "er" / "out" / "letter.txt").write_text("of somebody else")
        exported = folder / "exported" / "er" / "out"
        (exported / "unet").mkdir(parents=True)
        for name in ("unet/lora.safetensors", "README.md"):
            (exported / name).write_text("old")
        record(exported)
    for name in KINDS:
        options = {"program": program(name), "out": "deep/er/out", "resumes": name == "fit"}
        yield Scenario(f"{name} alone", (), **options)
        for before in ("old", "foreign", "exported"):
            words = ("--overwrite",)
            yield Scenario(f"{name} over {before}", words, {"deep": folder / before}, **options)


def journal_deaths(
    folder: Path, *, step: int = 1, every_way: bool = True
) -> tuple[int, list[Fault]]:
    """Place every ``step``-th death of every kind; return their number and what is bad.

    With ``every_way`` each way to go on is tried after each of them, else they take turns. Each of them
    also comes with the power, as a disk that takes no change from then on, and with a second death while the
    next command cleans up.
    """
    count, faults = 0, []
    for index, scenario in enumerate(scenarios(folder)):
        trials = Trials(scenario, folder / "trials", every_way=every_way)
        deaths = range(1 + index % step, len(trials.changes) + 1, step)
        pairs = [(first, 1 + (7 * first + index) % 9) for first in deaths]
        for how in (DEATH, POWER, READ_ONLY):
            faults += trials.faults(deaths, how)
        faults += trials.faults_of_two(pairs)
        count += 4 * len(deaths)
    return count, faults


def _artifact(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    for name in ("manifest.json", "weights.safetensors"):
        (folder / name).write_text(text)


if __name__ == "__main__":
    apart = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    number, bad = journal_deaths(Path(sys.argv[1]), step=apart, every_way=apart == 1)
    print(f"{number} deaths, {len(bad)} bad", *bad, sep="\n")
    sys.exit(bool(bad))
