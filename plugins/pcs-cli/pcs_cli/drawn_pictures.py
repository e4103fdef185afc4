"""Pictures of a drawing, written as they are made: an interruption keeps those that are finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_cli.claims import Claim, release
from pcs_cli.output import notice
from pcs_cli.output_folder import Destination, free_name
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import BackboneCard, Personalization

COLUMNS = 4
"""Pictures in a row of the sheet."""


@dataclass
class DrawnPictures:
    """The folder ``DIR.partial`` of one drawing, which becomes ``target`` when all pictures are there."""

    target: Destination
    claim: Claim
    folder: Path = field(init=False)
    count: int = 0
    """Pictures, or clips, that are written."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What each PNG says of itself, in chunks of text."""
    _shown: list[Tensor] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.folder = free_name(self.target.folder, "partial")

    def add(self, pictures: Tensor) -> None:
        """Write the next finished pictures [n 3 h w], or clips [n 3 t h w], in [0, 1].

        Raises
        ------
        InputError
            A picture holds nan, or the disk is full.
        """
        from pcs_cli.sample_facts import picture_name
        from pcs_core import clip_files
        from pcs_folders.pictures import frame_sheet, write_png

        if not self.count:
            self.claim.note(left=[self.claim.name(self.folder)])
            self.folder.mkdir(exist_ok=True)
        for picture in pictures:
            shown = picture
            if picture.dim() == 4:
                clip_files.write(picture, self.folder / f"{self.count:03d}")
                shown = frame_sheet(picture)
            write_png(shown, self.folder / picture_name(self.count), self.texts)
            self._shown.append(shown.detach().cpu())
            self.count += 1

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the sheet and ``sample.json``, and give the folder its name."""
        from pcs_core.storage.durable import replacing_file
        from pcs_folders.pictures import sheet, write_png

        columns = 1 if "clips" in facts else COLUMNS
        write_png(sheet(self._shown, columns), self.folder / "sheet.png", self.texts)
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        with replacing_file(self.folder / "sample.json") as file:
            file.write_text(text + "\n", encoding="utf-8")
        self.target.publish(self.folder)

    def leave(self, why: str, go_on: Callable[[int], str]) -> None:
        """Say what is kept of a drawing that ended early, and with ``go_on`` how to draw the others."""
        if self.count:
            self.claim.left.append(self.folder)  # removed when the same is drawn whole
            notice(
                f"{why}: {self.count} finished picture{'s are' if self.count > 1 else ' is'} kept in "
                f"{self.folder}; draw the others with:\n  {go_on(self.count)}"
            )
            return
        self.discard()
        notice(f"{why}: no picture was finished, so nothing is kept")

    def discard(self) -> None:
        """Remove the folder, if nothing is in it."""
        with suppress(OSError):  # there is none, or something is in it
            self.folder.rmdir()


def origin_texts(artifact: Personalization | None, card: BackboneCard) -> dict[str, str]:
    """Return what PNGs of a drawing say of where they come from; nothing where pcs-formats is not installed."""
    from pcs_core.catalogue import catalogue

    known = catalogue()
    if "drawing_origin" not in known.ids("services"):
        return {}
    texts: dict[str, str] = known.get("services", "drawing_origin")(artifact, card)
    return texts


@contextmanager
def drawing_into(target: Destination, go_on: Callable[[int], str]) -> Iterator[DrawnPictures]:
    """Give the place of a drawing's pictures; what is finished is kept and said where it ends early.

    Raises
    ------
    InputError
        The folder cannot be written, or another command is at work there.
    """
    claim = target.take()
    drawn = DrawnPictures(target, claim)
    try:
        yield drawn
    except KeyboardInterrupt:
        drawn.leave("interrupted", go_on)
        raise
    except BaseException as error:
        if drawn.count and drawn.folder.exists():  # a whole drawing may lie elsewhere by now
            drawn.leave("the drawing failed", go_on)
        elif not drawn.count:
            drawn.discard()
        if isinstance(error, OSError):
            raise InputError(f"cannot write {target.folder}: {error.strerror or error}") from error
        raise
    finally:
        release(claim)
