"""What draws the pictures of a job: a fitted system, the backbone alone, or the references in turn."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_bench.run.documents import read_fit
from pcs_bench.run.keys import fit_key, picture_key, subject_hash
from pcs_bench.run.memory import peak_memory
from pcs_bench.run.plan import COPY, UNTUNED, Cell, Job
from pcs_bench.run.store import Store, write_json
from pcs_bench.run.texts import plain, with_tokens
from pcs_bench.run.workplace import Workplace, load_system
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization, Recipe


class Source:
    """What draws the pictures of a job."""

    fit = ""

    def __init__(self, place: Workplace, job: Job) -> None:
        self.place, self.job = place, job
        self.subject = place.subject(job.subject)

    def text(self, cell: Cell) -> str:
        """Return the prompt as it is told."""
        return plain(cell.text, self.subject.concepts)

    def prepare(self) -> None:
        """Do what comes once before all pictures: the fit."""

    def key(self, cell: Cell) -> str:
        """Return the content hash of the cell's picture."""
        raise NotImplementedError

    def draw(self, chunk: Sequence[Cell]) -> Tensor:
        """Return the pictures [n 3 h w] of cells that are drawn together."""
        raise NotImplementedError


class Copy(Source):
    """The references in turn."""

    def key(self, cell: Cell) -> str:
        """See :meth:`Source.key`."""
        return picture_key(
            COPY,
            "",
            (cell.seed + cell.index),
            subject=subject_hash(self.subject),
            size=list(self.place.backbone.card.size),
        )

    def draw(self, chunk: Sequence[Cell]) -> Tensor:
        """See :meth:`Source.draw`."""
        references = self.place.references(self.job.subject)
        return references[[(c.seed + c.index) % len(references) for c in chunk]]


class Untuned(Source):
    """The backbone alone, with the sampling settings of the first system that loads."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Sampling steps, scale and scheduler."""
        protocol = self.place.protocol
        for system in protocol.systems:
            with contextlib.suppress(PcsError):
                if system not in (UNTUNED, COPY):
                    sample = load_system(protocol, system).sample
                    return {
                        "steps": sample.steps,
                        "scale": sample.scale,
                        "scheduler": sample.scheduler,
                    }
        return {}

    def key(self, cell: Cell) -> str:
        """See :meth:`Source.key`."""
        return picture_key(
            self.place.backbone.card.hash, self.text(cell), cell.noise, **self.settings
        )

    def draw(self, chunk: Sequence[Cell]) -> Tensor:
        """See :meth:`Source.draw`."""
        from pcs_core import sample

        texts = [self.text(cell) for cell in chunk]
        return sample(None, self.place.backbone, texts, seed=chunk[0].noise, **self.settings)


class Fitted(Source):
    """A system, fitted once on the subject; the artifact is kept."""

    def __init__(self, place: Workplace, job: Job) -> None:
        super().__init__(place, job)
        self._artifact: Personalization | None = None
        self._why: Exception | None = None
        self.recipe: Recipe = load_system(place.protocol, job.system)
        self.fit = fit_key(
            self.recipe.hash,
            place.backbone.card.hash,
            subject_hash(self.subject),
            place.protocol.fit_seed,
        )

    def text(self, cell: Cell) -> str:
        """See :meth:`Source.text`."""
        return with_tokens(cell.text, self.subject.concepts)

    def key(self, cell: Cell) -> str:
        """See :meth:`Source.key`."""
        return picture_key(self.fit, self.text(cell), cell.noise)

    def draw(self, chunk: Sequence[Cell]) -> Tensor:
        """See :meth:`Source.draw`."""
        from pcs_core import sample

        texts = [self.text(cell) for cell in chunk]
        drawn = sample(self.artifact, self.place.backbone, texts, seed=chunk[0].noise)
        if drawn.dim() != 4:
            raise InputError(f"{self.job.system!r} draws clips, and a benchmark compares pictures")
        return drawn[: len(chunk)]

    def prepare(self) -> None:
        """See :meth:`Source.prepare`."""
        _ = self.artifact

    @property
    def artifact(self) -> Personalization:
        """The fit, made when it is first asked for; what fails once is not tried for every picture."""
        if self._why is not None:
            raise self._why
        if self._artifact is None:
            try:
                self._artifact = self._open()
            except Exception as error:
                self._why = error
                raise
        return self._artifact

    def _open(self) -> Personalization:
        """Read the fit where it lies already, else make it, or go on with it after a kill."""
        from pcs_core import load

        folder = self.place.store.fit(self.fit)
        if folder.exists():
            try:
                artifact = load(folder)
            except PcsError:  # damaged: the fit is made anew
                shutil.rmtree(folder)
            else:
                shutil.rmtree(self._work(folder), ignore_errors=True)  # left by a kill
                return artifact
        return self._fit(folder)

    def _work(self, folder: Path) -> Path:
        return folder.with_name(f"{self.fit}.work")

    def _fit(self, folder: Path) -> Personalization:
        from pcs_core import fit, save

        work = self._work(folder)
        resumed = work.exists()
        protocol, done = self.place.protocol, {"step": 0}
        work.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()

        def once(resume: bool) -> Personalization:
            return fit(
                self.recipe,
                self.subject,
                self.place.backbone,
                seed=protocol.fit_seed,
                work=work,
                resume=resume,
                watch=(lambda progress: done.update(step=progress.total),),
            )[0]

        with peak_memory(protocol.device) as peak:
            try:
                artifact = once(resumed)
            except PcsError:
                if not resumed:
                    raise
                shutil.rmtree(work)  # a checkpoint that a kill damaged
                work.mkdir()
                resumed = False
                artifact = once(False)
        seconds = time.monotonic() - started
        facts = {
            "key": self.fit,
            "system": self.job.system,
            "subject": self.job.subject,
            "seconds": round(seconds, 2),
            "resumed": resumed,
            "steps": done["step"],
            "peak_bytes": peak.bytes,
            "peak_of": peak.what,
            "parameters": sum(t.numel() for t in artifact.tensors.values()),
            "recipe_hash": self.recipe.hash,
            "backbone_hash": self.place.backbone.card.hash,
            "losses": {k: v for k, v in artifact.losses.items() if v == v},
        }
        for name, tensor in artifact.tensors.items():
            if not bool(tensor.isfinite().all()):
                raise InputError(f"the fit diverged ({name} is not finite): use a smaller lr")
        write_json(folder.with_name(f"{self.fit}.json"), facts)
        write_json(folder.with_name(f"{self.fit}.recipe.json"), dict(self.recipe.document))
        save(artifact, folder)
        shutil.rmtree(work, ignore_errors=True)
        return artifact


def open_source(place: Workplace, job: Job) -> Source:
    """Return what draws a job's pictures; nothing is fitted yet.

    Raises
    ------
    PcsError
        Unknown system, a setting it has not, a subject whose pictures are missing.
    """
    kinds: dict[str, type[Source]] = {UNTUNED: Untuned, COPY: Copy}
    return kinds.get(job.system, Fitted)(place, job)


def read_fits(store: Store) -> dict[str, Mapping[str, Any]]:
    """Return what is known of each fit, by its key."""
    fits = {}
    for path in sorted((store.folder / "fits").glob("*.json")):
        if not path.name.endswith(".recipe.json") and (facts := read_fit(path)) is not None:
            fits[path.stem] = facts
    return fits
