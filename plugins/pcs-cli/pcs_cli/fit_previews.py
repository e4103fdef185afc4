"""``pcs fit --preview-every``: a picture that grows by a row as the fit goes on, always from one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_cli.output import notice
from pcs_core.errors import InputError
from pcs_folders.strips import write_row

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe, Subject
    from pcs_engine.live import Drawing

NAME = "previews.png"


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
            if self.add(name, done, drawing):
                notice(f"preview at step {done}: {self.strip(name)}")

    def add(self, name: str, done: int, drawing: Drawing) -> bool:
        """Add a row to the strip of the subject ``name``; return whether it could be drawn."""
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
            return False
        return True

    def strip(self, name: str) -> Path:
        """Return the file of the strip of the subject ``name``."""
        return self.folder / f"{name}.png"


def final_previews(
    artifact: Personalization, backbone: Backbone, strips: PreviewStrips, *, preview: bool
) -> dict[str, bytes]:
    """Return ``preview.png``, if ``preview``, and the strip with a last row of the finished ``artifact``."""
    from functools import partial

    from pcs_cli.preview import draw_preview
    from pcs_engine import sample

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
