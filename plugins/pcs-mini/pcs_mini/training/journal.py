"""What a run writes down while it goes: one JSON object a line, and pictures at fixed seeds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

FORMER = "lesson"
"""Key under which journals of earlier versions name the curriculum."""


class Journal:
    """``journal.jsonl`` in a run's folder: measures by step, appended, so a resumed run goes on.

    Only the process with `active` writes. A line holds the time (UTC), the stage, the optimizer
    step, the pictures seen and the caller's measures.
    """

    def __init__(self, folder: Path, stage: str, *, active: bool = True) -> None:
        self.path = folder / "journal.jsonl"
        self.stage = stage
        self.active = active
        self._last: tuple[float, int] | None = None

    def note(self, step: int, images: int, **measures: Any) -> dict[str, Any]:
        """Append one line; ``images_per_s`` is the rate since the line before of this process."""
        now = time.monotonic()
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "stage": self.stage,
            "step": step,
            "images": images,
        }
        if self._last is not None and now > self._last[0]:
            line["images_per_s"] = round((images - self._last[1]) / (now - self._last[0]), 2)
        self._last = (now, images)
        line |= measures
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line


def read_journal(folder: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's journal, oldest first; of one stage if it is named.

    Where a run went back to a checkpoint, the lines that it wrote twice are one, with the measures
    written last.
    """
    path = folder / "journal.jsonl"
    if not path.exists():
        return []
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if FORMER in line:
            line["curriculum"] = line.pop(FORMER)
        if stage is None or line["stage"] == stage:
            key = line["stage"], line["step"]
            lines[key] = {**lines.pop(key, {}), **line}
    return list(lines.values())


def contact_sheet(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures ``[n, 3, h, w]`` in 0..1 as one image, row by row; the last row may be short."""
    n, _, h, w = pictures.shape
    sheet = Image.new("RGB", (columns * w, -(-n // columns) * h), (255, 255, 255))
    pixels = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (i % columns * w, i // columns * h))
    return sheet
