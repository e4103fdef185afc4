"""``DIR.partial``: where a fit works, so that DIR appears whole and a killed fit goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_cli.claims import Claim, release
from pcs_cli.fingerprint import differences, summary
from pcs_cli.output_folder import Destination, destination
from pcs_core.errors import InputError
from pcs_core.small_files import read_json

if TYPE_CHECKING:
    from pcs_engine.processes import Processes

RUN = "run.json"
FORMAT = 1


@dataclass(slots=True)
class Workplace:
    """The partial folder of one fit: ``run.json``, ``work`` (checkpoints) and ``result``."""

    folder: Path
    resumed: bool = False
    finished: bool = False
    """Whether this very fit had been whole already when its command died: there is nothing to do."""
    facts: str = ""
    """What decides the result, as a hash."""
    claim: Claim | None = field(default=None, repr=False)

    @property
    def work(self) -> Path:
        """Checkpoints and what is made once."""
        return self.folder / "work"

    @property
    def result(self) -> Path:
        """The artifacts, before they get their name."""
        return self.folder / "result"

    @property
    def previews(self) -> Path:
        """A strip of pictures for each subject, which grow."""
        return self.folder / "previews"

    @property
    def kept(self) -> Path:
        """The artifacts along the way, until they lie in the result."""
        return self.folder / "steps"

    @property
    def whole(self) -> bool:
        """Whether the result has the destination's name."""
        return self.claim is not None and self.claim.whole

    @property
    def trained(self) -> bool:
        """Whether a checkpoint was written: without one, no step would be saved by resuming."""
        return any(self.work.glob("fit-*")) or any(self.work.glob("pretrain-*"))

    def publish(self, destination: Destination) -> None:
        """Give the result the destination's name; this folder has served."""
        destination.publish(self.result, facts=self.facts, works=[self.folder])

    def discard(self) -> None:
        """Remove the folder and all in it, and the parents that were made for it."""
        if self.claim is not None:
            self.claim.remove(self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let go of the folder, which stays."""
        if self.claim is not None:
            release(self.claim)
            self.claim = None


def partial_folder(destination: Destination) -> Path:
    """Return where a fit for ``destination`` works."""
    return destination.folder.with_name(destination.folder.name + ".partial")


def check_partial(destination: Destination, *, resume: bool) -> None:
    """Refuse what an earlier fit left behind, unless the user said what to do with it.

    Raises
    ------
    InputError
        Names both ways on.
    """
    folder = partial_folder(destination)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: remove it, or give another --out")
    if not (folder / RUN).exists() and any(folder.iterdir()):
        raise InputError(f"{folder} was not made by a fit: remove it, or give another --out")
    if not (resume or destination.overwrite):
        raise InputError(
            f"{folder} is left from a fit that did not finish: "
            "--resume continues it, --overwrite starts anew"
        )


def choose_destination(
    out: Path, *, overwrite: bool, resume: bool, inputs: Iterable[Path] = ()
) -> Destination:
    """Check ``--out`` and what an earlier run left beside it, in the first of several processes.

    The others write nothing, and would find what the first begins.

    Raises
    ------
    InputError
        It is taken, cannot be made, or an earlier run did not finish; the message says what to do.
    """
    from pcs_engine.processes import place

    if place()[0]:
        return Destination(out.expanduser().resolve(), overwrite)
    target = destination(out, overwrite=overwrite, inputs=inputs, resume=resume)
    check_partial(target, resume=resume)
    return target


def open_together(
    destination: Destination,
    facts: Mapping[str, Any],
    *,
    resume: bool,
    processes: Processes,
) -> Workplace:
    """Open the partial folder in the first of several processes, for all of them to work in.

    Raises
    ------
    InputError
        As :func:`open_workplace`.
    """
    if processes.index == 0:
        place = open_workplace(destination, facts, resume=resume)
    else:
        place = Workplace(partial_folder(destination))
    place.resumed, place.finished = processes.first(lambda: [place.resumed, place.finished], 2)
    return place


def open_workplace(
    destination: Destination, facts: Mapping[str, Any], *, resume: bool
) -> Workplace:
    """Make the partial folder, or take up the one that is there.

    Raises
    ------
    InputError
        It was begun with something else (named), is in use, or cannot be written.
    """
    text = json.dumps(facts, sort_keys=True)
    place = Workplace(partial_folder(destination), facts=hashlib.sha256(text.encode()).hexdigest())
    place.claim = claim = destination.take()
    try:
        if resume and claim.finished is not None:
            if claim.finished != place.facts:
                raise InputError(
                    f"{destination.folder} was finished, and begun with something else: give another --out, or "
                    "--overwrite without --resume"
                )
            place.finished = True
            return place
        begun = (place.folder / RUN).exists()
        if begun and resume:
            _compare(place.folder, facts)
        place.resumed = begun and resume
        if not place.resumed:
            claim.remove(place.folder)
            claim.making(place.folder)
            place.folder.mkdir()
            _write(place.folder / RUN, {"format": FORMAT, "facts": facts})
            claim.keeping(place.folder)
        place.work.mkdir(exist_ok=True)
        shutil.rmtree(place.result, ignore_errors=True)
    except OSError as error:
        place.close()
        raise InputError(f"cannot work in {place.folder}: {error.strerror or error}") from error
    except BaseException:
        place.close()
        raise
    return place


def _compare(folder: Path, facts: Mapping[str, Any]) -> None:
    anew = "--overwrite without --resume starts anew"
    try:
        data = read_json(folder / RUN)
        before = data["facts"]
        known = data["format"] == FORMAT and isinstance(before, dict)
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RUN} is damaged, so nothing can be resumed: {anew}") from error
    if not known:
        raise InputError(f"{folder / RUN} is of another version of pcs: {anew}")
    changes = differences(before, facts)
    if changes:
        raise InputError(
            f"{folder} was begun with something else: {summary(changes)}. "
            f"Give the same command with --resume; {anew}"
        )


def _write(path: Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
