"""``pcs fit --preview-every``: a picture that grows by a row as the fit goes on, always from one seed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_cli.output import notice
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe, Subject
    from pcs_core.engine.live import Drawing

NAME = "previews.png"
STEPS, PROMPTS = "steps", "prompts"
"""Texts in the PNG file: the step of each row, and the prompt of each column, as JSON."""


@dataclass(frozen=True, slots=True)
class Previews:
    """What is drawn along the way and at the end. ``{token}`` in a prompt is the subject's."""

    prompts: tuple[str, ...] = ()
    negative: str | None = None
    every: int = 0

    def of(self, tokens: Sequence[str]) -> tuple[str, ...]:
        """Return the prompts of a subject; without any, the plainest that names all its ``tokens``."""
        named = " and ".join(tokens) or "a dog"
        return tuple(p.replace("{token}", named) for p in self.prompts or ("a photo of {token}",))


def read_previews(
    prompts: Sequence[str],
    negative: str | None,
    every: int | None,
    recipe: Recipe,
    subjects: Sequence[Subject],
    *,
    last: bool,
) -> Previews:
    """Return what the options of a fit ask for; ``last`` whether a picture is drawn at the end.

    Raises
    ------
    InputError
        An empty prompt, or one that names no token of a subject; the fit is over before the first row; or
        nothing is drawn at all.
    """
    from pcs_core.backbone import names_token

    if (prompts or negative is not None) and not (every or last):
        raise InputError(
            "--preview-prompt and --preview-negative show nothing with --no-preview: add --preview-every N"
        )
    previews = Previews(tuple(prompts), negative, every or 0)
    for subject in subjects:
        tokens = [concept.token for concept in subject.concepts]
        for prompt in previews.of(tokens):
            if not prompt.strip():
                raise InputError("--preview-prompt: give a prompt that is not empty")
            if tokens and not any(names_token(prompt, token) for token in tokens):
                raise InputError(
                    f"--preview-prompt {prompt!r} does not name {subject.name!r}: write "
                    f"{' or '.join(tokens)}, or {{token}}, where it should stand"
                )
    total = sum(p.steps for p in recipe.phases if not p.pretrain) * recipe.cycles
    if every is not None and every > total:
        raise InputError(
            f"--preview-every {every} draws nothing along the way: the fit has {total} steps"
        )
    return previews


@dataclass(frozen=True, slots=True)
class PreviewStrips:
    """A strip for each subject, ``folder/<subject>.png``, written whole at each row."""

    folder: Path
    previews: Previews
    subjects: Sequence[Subject]
    seed: int

    def draw(self, done: int, drawings: Mapping[str, Drawing]) -> None:
        """Add the row of ``done`` steps to each strip."""
        for name, drawing in drawings.items():
            self.add(name, done, drawing)

    def add(self, name: str, done: int, drawing: Drawing) -> None:
        """Add a row to the strip of the subject ``name``. Whatever goes wrong with it, the fit goes on."""
        path = self.strip(name)
        try:
            # the only one may go by the name of the artifact that the fit goes on with
            alone = len(self.subjects) == 1
            (subject,) = (s for s in self.subjects if alone or s.name == name)
            prompts = self.previews.of([concept.token for concept in subject.concepts])
            pictures = drawing(prompts, seed=self.seed, negative=self.previews.negative)
            write_row(path, done, prompts, pictures)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            notice(f"no preview of {name!r} at step {done} ({reason}); the fit goes on")
            return
        notice(f"preview at step {done}: {path}")

    def strip(self, name: str) -> Path:
        """Return the file of the strip of the subject ``name``."""
        return self.folder / f"{name}.png"


def final_previews(
    artifact: Personalization, backbone: Backbone, strips: PreviewStrips, *, preview: bool
) -> dict[str, bytes]:
    """Return ``preview.png``, if ``preview``, and the strip with a last row of the finished ``artifact``."""
    from functools import partial

    from pcs_cli.preview import draw_preview
    from pcs_core.engine import sample

    previews = strips.previews
    first = previews.of([concept.token for concept in artifact.concepts])[0]
    files = draw_preview(artifact, backbone, first, previews.negative) if preview else {}
    if previews.every:
        steps = sum(p.steps for p in artifact.recipe.phases if not p.pretrain)
        strips.add(
            artifact.subject, steps * artifact.recipe.cycles, partial(sample, artifact, backbone)
        )
        strip = strips.strip(artifact.subject)
        files |= {NAME: strip.read_bytes()} if strip.exists() else {}
    return files


def write_row(path: Path, step: int, prompts: Sequence[str], pictures: Tensor) -> None:
    """Put a row of ``pictures`` [n 3 h w], or clips, below those of earlier steps in ``path``, whole or not.

    Rows of this step and later ones, as of a fit that goes on from an older checkpoint, are drawn anew. A
    strip of other prompts is begun anew.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from pcs_core.storage.durable import replacing_file
    from pcs_folders.pictures import GAP, frame_sheet, png_bytes, sheet

    row = [frame_sheet(picture) if picture.dim() == 4 else picture for picture in pictures]
    with Image.open(io.BytesIO(png_bytes(sheet(row, len(row))))) as image:
        rows = {**rows_before(path, step, prompts, image.size), step: image.copy()}
    width, height = image.size
    strip = Image.new("RGB", (width, len(rows) * (height + GAP) - GAP), "white")
    for index, one in enumerate(rows.values()):
        strip.paste(one, (0, index * (height + GAP)))
    texts = PngInfo()
    texts.add_text(STEPS, json.dumps(list(rows)))
    texts.add_itxt(PROMPTS, json.dumps(list(prompts), ensure_ascii=False))
    with replacing_file(path) as temporary:
        strip.save(temporary, "PNG", pnginfo=texts)


def rows_before(
    path: Path, step: int, prompts: Sequence[str], size: tuple[int, int]
) -> dict[int, Image.Image]:
    """Return step -> row of ``size`` (width, height) in ``path`` before ``step``; none of other prompts."""
    from PIL import Image

    from pcs_folders.pictures import GAP

    if not path.exists():
        return {}
    with Image.open(path) as image:
        image.load()
        texts = getattr(image, "text", {})
        steps = json.loads(texts.get(STEPS, "[]"))
        if json.loads(texts.get(PROMPTS, "[]")) != list(prompts) or image.width != size[0]:
            return {}
        width, height = size
        boxes = [
            (0, i * (height + GAP), width, i * (height + GAP) + height) for i in range(len(steps))
        ]
        return {at: image.crop(box) for at, box in zip(steps, boxes, strict=True) if at < step}
