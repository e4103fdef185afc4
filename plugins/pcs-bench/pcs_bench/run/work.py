"""One job: fit a system on a subject once, draw its cells, score them. Each failure is a row."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_bench.run.keys import fit_key, picture_key, subject_hash
from pcs_bench.run.memory import peak_memory
from pcs_bench.run.plan import COPY, UNTUNED, Cell, Job, Protocol, cells, chunks, find_subject
from pcs_bench.run.scoring import Metrics, complete, one_line
from pcs_bench.run.store import Store, file_hash, write_json
from pcs_bench.run.texts import plain, told
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe, Subject

Line = Mapping[str, Any]
"""A line of ``cells.jsonl``, or ``{"key": ..., "kept": True}`` for one that stands."""


@dataclass
class Workplace:
    """What one process works with: opened once, used for every job it is given."""

    store: Store
    protocol: Protocol
    suite: Any = None
    metrics: Any = None
    _subjects: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.suite is None:
            from pcs_bench import suites

            self.suite = suites.load(self.protocol.suite)
        if self.metrics is None:
            self.metrics = Metrics(self.protocol.metrics)

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone of the protocol."""
        from pcs_core import open_backbone

        return open_backbone(self.protocol.backbone, device=self.protocol.device)

    def subject(self, name: str) -> Subject:
        """Return a subject of the suite, its pictures read.

        Raises
        ------
        InputError
            It is missing, or damaged.
        """
        from pcs_core import load_subject

        if name not in self._subjects:
            found = find_subject(self.suite, name)
            source = found.folder
            self._subjects[name] = (
                source()
                if callable(source)
                else load_subject(source, noun=found.noun, token=found.token)
            )
        return self._subjects[name]  # type: ignore[no-any-return]

    def references(self, name: str) -> Tensor:
        """Return a subject's pictures [m 3 h w] as a fit sees them, kept for the report."""
        import torch

        from pcs_core import fit_image, write_png

        size = self.backbone.card.size
        seen = torch.stack([fit_image(i, size) for i in self.subject(name).images])
        folder = self.store.references(name)
        for number, picture in enumerate(seen):
            path = folder / f"{number:02d}.png"
            if not path.exists():
                write_png(picture, path)
        return seen

    def masks(self, name: str) -> Tensor | None:
        """Return where the subject is in its references [m 1 h w], None unless all have a mask."""
        import torch

        from pcs_core import fit_image

        subject = self.subject(name)
        found = next(iter(subject.masks.values()), ())
        if not found or any(mask is None for mask in found):
            return None
        return torch.stack([fit_image(m, self.backbone.card.size) for m in found if m is not None])


def run_job(place: Workplace, job: Job, known: Mapping[str, Line]) -> Iterator[Line]:
    """Do what is missing of a job and give each line; ``known`` are the lines so far.

    A cell that fails is a line too.
    """
    wanted = cells(place.protocol, place.suite, job)
    try:
        source = open_source(place, job)
    except Exception as error:
        for cell in wanted:
            yield failed(cell, one_line(error))
        return
    ids = place.metrics.of_pictures()
    left: list[Cell] = []
    for cell in wanted:
        line = known.get(cell.key, {})
        stands = line.get("hash") == source.key(cell) and line.get("state") == "done"
        if (
            stands
            and complete(line, ids)
            and place.store.read_picture(line["hash"], line["sha256"]) is not None
        ):
            yield {"key": cell.key, "kept": True}
        else:
            left.append(cell)
    for chunk in chunks(wanted):
        missing = [cell for cell in chunk if cell in left]
        if missing:
            yield from _chunk(place, source, chunk, missing, known, ids)


def _chunk(
    place: Workplace,
    source: Source,
    chunk: Sequence[Cell],
    missing: Sequence[Cell],
    known: Mapping[str, Line],
    ids: Sequence[str],
) -> Iterator[Line]:
    import torch

    name = source.job.subject
    try:
        references, masks = place.references(name), place.masks(name)
        seconds, broken = draw_chunk(place, source, chunk, missing, known)
    except Exception as error:
        for cell in missing:
            yield failed(cell, one_line(error))
        return
    found = {cell: place.store.read_picture(source.key(cell)) for cell in missing}
    for cell in missing:
        if found[cell] is None:
            yield failed(cell, broken.get(cell, "its picture cannot be read back: check the disk"))
    drawn = {cell: picture for cell, picture in found.items() if picture is not None}
    if not drawn:
        return
    rows, errors = place.metrics.score(
        ids,
        torch.stack(list(drawn.values())),
        prompts=[plain(cell.text, source.subject.concepts) for cell in drawn],
        references=references,
        masks=masks,
        untuned=lambda: untuned(place, name, list(drawn)),
    )
    for cell, scores in zip(drawn, rows, strict=True):
        path = place.store.picture(source.key(cell))
        yield {
            **_line(cell),
            "state": "done",
            "hash": source.key(cell),
            "picture": path.relative_to(place.store.folder).as_posix(),
            "sha256": file_hash(path),
            "prompt": source.text(cell),
            "fit": source.fit,
            "seconds": known.get(cell.key, {}).get("seconds") if seconds is None else seconds,
            "scores": scores,
            "errors": errors,
        }


def draw_chunk(
    place: Workplace,
    source: Source,
    chunk: Sequence[Cell],
    missing: Sequence[Cell],
    known: Mapping[str, Line] | None = None,
) -> tuple[float | None, dict[Cell, str]]:
    """Draw what the cache lacks of ``missing``.

    Returns seconds per picture, None if it lacks none, and why a picture could not be written.
    """
    store = place.store
    lacking = []
    for cell in missing:
        line = (known or {}).get(cell.key, {})
        sha256 = line.get("sha256", "") if line.get("hash") == source.key(cell) else ""
        if store.read_picture(source.key(cell), sha256) is None:
            lacking.append(cell)
    if not lacking:
        return None, {}
    source.prepare()
    started = time.monotonic()
    drawn = source.draw(chunk)
    seconds = (time.monotonic() - started) / len(chunk)
    broken = {}
    for cell, picture in zip(chunk, drawn, strict=True):
        if cell in lacking:
            try:
                store.write_picture(source.key(cell), picture)
            except PcsError as error:
                broken[cell] = one_line(error)
    return round(seconds, 4), broken


def untuned(place: Workplace, subject: str, wanted: Sequence[Cell]) -> Tensor:
    """Return what the backbone draws untuned [n 3 h w] for the prompts and noise of these cells."""
    import torch

    job = Job(UNTUNED, subject)
    source = open_source(place, job)
    keys = {(c.index, c.seed) for c in wanted}
    pictures: dict[tuple[int, int], Tensor] = {}
    for chunk in chunks(cells(place.protocol, place.suite, job)):
        own = [c for c in chunk if (c.index, c.seed) in keys]
        if own:
            draw_chunk(place, source, chunk, own)
            for cell in own:
                found = place.store.read_picture(source.key(cell))
                if found is None:
                    raise InputError("an untuned picture cannot be read back: check the disk")
                pictures[cell.index, cell.seed] = found
    return torch.stack([pictures[c.index, c.seed] for c in wanted])


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
        self._person: Personalization | None = None
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
        return told(cell.text, self.subject.concepts)

    def key(self, cell: Cell) -> str:
        """See :meth:`Source.key`."""
        return picture_key(self.fit, self.text(cell), cell.noise)

    def draw(self, chunk: Sequence[Cell]) -> Tensor:
        """See :meth:`Source.draw`."""
        from pcs_core import sample

        texts = [self.text(cell) for cell in chunk]
        drawn = sample(self.person, self.place.backbone, texts, seed=chunk[0].noise)
        if drawn.dim() != 4:
            raise InputError(f"{self.job.system!r} draws clips, and a benchmark compares pictures")
        return drawn[: len(chunk)]

    def prepare(self) -> None:
        """See :meth:`Source.prepare`."""
        _ = self.person

    @property
    def person(self) -> Personalization:
        """The fit, made when it is first asked for; what fails once is not tried for every picture."""
        if self._why is not None:
            raise self._why
        if self._person is None:
            try:
                self._person = self._open()
            except Exception as error:
                self._why = error
                raise
        return self._person

    def _open(self) -> Personalization:
        """Read the fit where it lies already, else make it, or go on with it after a kill."""
        from pcs_core import load

        folder = self.place.store.fit(self.fit)
        if folder.exists():
            try:
                return load(folder)
            except PcsError:  # damaged: the fit is made anew
                shutil.rmtree(folder)
        return self._fit(folder)

    def _fit(self, folder: Path) -> Personalization:
        from pcs_core import fit, save

        work = folder.with_name(f"{self.fit}.work")
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
                person = once(resumed)
            except PcsError:
                if not resumed:
                    raise
                shutil.rmtree(work)  # a checkpoint that a kill damaged
                work.mkdir()
                resumed = False
                person = once(False)
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
            "parameters": sum(t.numel() for t in person.tensors.values()),
            "recipe_hash": self.recipe.hash,
            "backbone_hash": self.place.backbone.card.hash,
            "losses": {k: v for k, v in person.losses.items() if v == v},
        }
        for name, tensor in person.tensors.items():
            if not bool(tensor.isfinite().all()):
                raise InputError(f"the fit diverged ({name} is not finite): use a smaller lr")
        write_json(folder.with_name(f"{self.fit}.json"), facts)
        write_json(folder.with_name(f"{self.fit}.recipe.json"), dict(self.recipe.document))
        save(person, folder)
        shutil.rmtree(work, ignore_errors=True)
        return person


def open_source(place: Workplace, job: Job) -> Source:
    """Return what draws a job's pictures; nothing is fitted yet.

    Raises
    ------
    PcsError
        Unknown system, a setting it has not, a subject whose pictures are missing.
    """
    kinds: dict[str, type[Source]] = {UNTUNED: Untuned, COPY: Copy}
    return kinds.get(job.system, Fitted)(place, job)


def load_system(protocol: Protocol, system: str) -> Recipe:
    """Return the recipe of a system with the protocol's settings."""
    from pcs_core import load_recipe

    return load_recipe(
        system, backbone=protocol.backbone, overrides=list(protocol.overrides(system))
    )


def failed(cell: Cell, why: str) -> dict[str, Any]:
    """Return the line of a cell that has no picture."""
    return {**_line(cell), "state": "failed", "error": why}


def _line(cell: Cell) -> dict[str, Any]:
    return {
        "key": cell.key,
        "system": cell.system,
        "subject": cell.subject,
        "index": cell.index,
        "seed": cell.seed,
        "template": cell.text,
        "kind": cell.kind,
    }


def read_fits(store: Store) -> dict[str, dict[str, Any]]:
    """Return what is known of each fit, by its key."""
    found = {}
    for path in sorted((store.folder / "fits").glob("*.json")):
        if not path.name.endswith(".recipe.json"):
            with contextlib.suppress(ValueError, OSError):
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


__all__ = ["Workplace", "read_fits", "run_job"]
