"""The fit loop: phases, batches over subjects, named losses, checkpoints. Nothing constant in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import (
    Attachment,
    export_tensors,
    import_tensors,
    suspended,
    trainable,
)
from pcs_core.data import (
    CANVAS,
    FitStep,
    Fusion,
    HeadEdit,
    Masks,
    Personalization,
    Phase,
    Recipe,
    Subject,
)
from pcs_core.engine.adapters import digest, find_adapter, needs_adapter
from pcs_core.engine.batches import draw_batch, render_batch
from pcs_core.engine.captions import text_is_constant
from pcs_core.engine.checkpoints import Checkpoints
from pcs_core.engine.clipping import clip_per_subject
from pcs_core.engine.opening import check_subjects, needs_pictures, open_backbone
from pcs_core.engine.optimizers import make_optimizer, set_rates
from pcs_core.engine.pools import encode_pools
from pcs_core.engine.prepare import extract
from pcs_core.engine.randomness import generator
from pcs_core.engine.run import EngineRun
from pcs_core.engine.steps import edits_of, lawful, make_step
from pcs_core.errors import InputError, RecipeError
from pcs_core.merge import flatten_losses, merge_fusions, reduce_loss

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone

REPORT_EVERY = 10
"""Steps between two readings of the losses: reading them waits for the device."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What ``watch`` sees. ``losses`` are means over subjects of the last reading, by term."""

    phase: str
    index: int
    steps: int
    done: int
    total: int
    losses: Mapping[str, float]
    seconds: float
    subjects: tuple[str, ...] = ()


def fit(
    recipe: Recipe | str | Path,
    subjects: Sequence[Subject] | Subject,
    backbone: Backbone | str | Path = "mini",
    *,
    seed: int = 0,
    watch: Sequence[Callable[[Progress], None]] = (),
    work: Path | None = None,
    resume: bool = False,
    adapter: str | Path | Personalization | None = None,
    keep: Callable[[Sequence[Personalization]], Sequence[bool]] | None = None,
    checkpoints: int = 8,
    memory: dict[str, Mapping[str, Tensor]] | None = None,
) -> list[Personalization]:
    """Personalise: return one personalization per subject.

    Several subjects train together in one forward where every technique has a subject axis, with
    the gradients of separate runs; otherwise one after the other. ``work`` is a folder for
    checkpoints and cached pictures; with ``resume`` a fit goes on from there, bit for bit on a CPU.
    ``adapter`` is the folder of a pre-trained system's weights, where no plugin holds them for this
    backbone. ``keep`` is shown the subjects as they are at ``checkpoints`` even points, the end among
    them, and says of each whether it is the best so far: that one is returned. It may draw. ``memory``
    keeps what is drawn before a fit, as class pictures, for the next fit that is given it.

    Raises
    ------
    InputError
        A subject without images, or with a token that already means something.
    RecipeError, ConflictError
        The recipe does not fit together.
    """
    if keep is not None and resume:
        raise InputError("a fit that chooses among its checkpoints cannot be resumed: start anew")
    subjects = [subjects] if isinstance(subjects, Subject) else list(subjects)
    opened: Any = open_backbone(backbone) if isinstance(backbone, str | Path) else backbone
    if not isinstance(recipe, Recipe):
        from pcs_core.assembly import load_recipe

        recipe = load_recipe(recipe, backbone=opened)
    check_subjects(subjects, opened, trains=needs_pictures(recipe))
    base = find_adapter(recipe, opened, adapter) if needs_adapter(recipe) else None
    # subjects share one stack of parameters: they need the same number of concepts
    alike = len({len(s.concepts) for s in subjects}) == 1
    together = len(subjects) == 1 or (
        alike and all(u.technique.stacks_subjects for u in recipe.uses)
    )
    groups = [subjects] if together else [[s] for s in subjects]
    results: list[Personalization] = []
    memory = {} if memory is None else memory  # class pictures serve every subject of the class
    for number, group in enumerate(groups):
        fitting = Fitting(
            recipe, group, opened, seed, watch, work, resume, memory, number, len(groups), base
        )
        fitting.keep, fitting.looks = keep, checkpoints
        with suspended(opened):
            results += fitting.run()
    return results


@dataclass
class Fitting:
    """One fit of subjects that train together."""

    recipe: Recipe
    subjects: Sequence[Subject]
    backbone: Backbone
    seed: int
    watch: Sequence[Callable[[Progress], None]]
    work: Path | None
    resume: bool
    memory: dict[str, Mapping[str, Tensor]]
    offset: int = 0
    groups: int = 1
    base: tuple[Personalization, str] | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)
    snapshots: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    done: int = 0
    keep: Callable[[Sequence[Personalization]], Sequence[bool]] | None = None
    looks: int = 0
    kept: dict[str, Personalization] = field(default_factory=dict)

    def run(self) -> list[Personalization]:
        """Prepare, train every phase, and return the personalizations."""
        self.run_ = EngineRun(
            self.recipe,
            self.backbone,
            seed=self.seed,
            names=[s.name for s in self.subjects],
            concepts=[s.concepts for s in self.subjects],
            work=self.work,
            memory=self.memory,
        )
        features, own = extract(self.run_, self.subjects)
        self.run_.features = features
        fusion = merge_fusions(self.run_.call("fuse", features=features))
        self.run_.heads = {e.name: e for e in fusion.of(HeadEdit)}
        if self.base is not None:
            import_tensors(fusion, dict(self.base[0].tensors))
        else:
            check_stacked(fusion, len(self.subjects))
        # without pictures only what a canvas renders is left to learn from
        pictures = any(s.images for s in self.subjects)
        own_phases = [
            p for p in self.recipe.phases if not p.pretrain and (pictures or CANVAS in p.batch)
        ]
        phases = [p for _ in range(self.recipe.cycles) for p in own_phases]
        self.total = sum(p.steps for p in phases)
        self.started = time.monotonic()
        self.rngs = [generator(self.seed, "fit", s.name) for s in self.subjects]
        names = "+".join(s.name for s in self.subjects)
        self.checkpoints = Checkpoints(
            self.work,
            names,
            fusion,
            self.rngs,
            identity={
                "recipe": self.recipe.hash,
                "backbone": self.backbone.card.hash,
                "seed": self.seed,
            },
            resume=self.resume,
            snapshots=self.snapshots,
        )
        self.losses = self.checkpoints.losses
        with Attachment(self.backbone, fusion, fitting=True) as net:
            self.net = net
            if self.total:
                roles = sorted({r for p in phases for r, n in p.batch.items() if n})
                self.pools, self.table = encode_pools(net, own, roles)
                if fusion.source is not None:
                    for caption in fusion.source.captions:
                        self.table.add(0, caption)
            for number, phase in enumerate(phases):
                if phase.steps:
                    self._phase(number, phase, fusion)
            finished = self._finish(fusion)
            self._look(finished)
        return [self.kept.get(person.subject, person) for person in finished]

    def _look(self, persons: Sequence[Personalization]) -> None:
        if self.keep is None:
            return
        for person, best in zip(persons, self.keep(persons), strict=True):
            if best:
                self.kept[person.subject] = person

    def _due(self) -> bool:
        """Return whether a checkpoint before the end is to be looked at after this step."""
        if self.keep is None or self.done >= self.total:
            return False
        return self.done * self.looks // self.total > (self.done - 1) * self.looks // self.total

    def _phase(self, number: int, phase: Phase, fusion: Fusion) -> None:
        everything = trainable(fusion)
        params = {
            n: p for n, p in everything.items() if any(fnmatchcase(n, g) for g in phase.train)
        }
        if not params:
            raise RecipeError(
                f"phase {phase.name!r} trains nothing: no parameter matches "
                f"{', '.join(phase.train)} (uses: {', '.join(u.name for u in self.recipe.uses)})"
            )
        for name, param in everything.items():
            param.requires_grad_(name in params)
        optimizer = make_optimizer(phase, params)
        start = self.checkpoints.restore(number, optimizer, params)
        if start is None:  # a later phase was reached before
            self.done += phase.steps
            return
        self.done += start
        self.table.encode(
            self.net,
            constant=text_is_constant(self.net, list(params)),
            concepts=[[c.token for c in s.concepts] for s in self.subjects],
        )
        if phase.snapshot and not start:  # a resumed phase brought the one of its beginning
            self.snapshots[phase.snapshot] = {
                n: p.detach().clone() for n, p in everything.items() if n in params
            }
        stacked_names = {
            f"{e.owner}/{e.key(0)}/{k}" for e in fusion.edits if e.stacked for k in e.owned()
        }
        norms = [(p, n in stacked_names) for n, p in params.items()]
        optimizer.zero_grad(set_to_none=True)
        for index in range(start, phase.steps):
            set_rates(optimizer, phase, index)
            for _ in range(phase.accumulate):
                step = self._step(phase, index)
                losses = flatten_losses(self.run_.call("regularize", step=step), phase.losses)
                if not losses:
                    raise RecipeError(
                        f"phase {phase.name!r}: no loss matches {', '.join(phase.losses)}"
                    )
                terms = {loss.name: reduce_loss(loss, step.batch) for loss in losses}
                total = torch.stack(list(terms.values())).sum() / phase.accumulate
                if not total.requires_grad:
                    raise RecipeError(
                        f"phase {phase.name!r}: none of its losses depends on what it trains "
                        f"({', '.join(phase.train)})"
                    )
                total.backward()
            if phase.clip:
                clip_per_subject(norms, phase.clip, len(self.subjects))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.done += 1
            if (index + 1) % REPORT_EVERY == 0 or index + 1 == phase.steps:
                self._report(phase, index, terms)
            self.checkpoints.maybe_write(
                number,
                index + 1,
                optimizer,
                params,
                losses=self.losses,
                last=index + 1 == phase.steps,
            )
            if self._due():
                self._look(self._finish(fusion))
        if phase.restore:
            self._restore(phase, everything)

    @torch.no_grad()
    def _restore(self, phase: Phase, everything: Mapping[str, torch.nn.Parameter]) -> None:
        kept = self.snapshots.get(phase.restore)
        if kept is None:
            raise RecipeError(
                f"phase {phase.name!r} restores {phase.restore!r}, but no phase before it took a "
                f"snapshot of that name ({', '.join(self.snapshots) or 'there is none'})"
            )
        for name, value in kept.items():
            everything[name].copy_(value)

    def _report(self, phase: Phase, index: int, terms: Mapping[str, Tensor]) -> None:
        self.losses = {name: value.detach().tolist() for name, value in terms.items()}
        progress = Progress(
            phase=phase.name,
            index=index + 1,
            steps=phase.steps,
            done=self.offset * self.total + self.done,
            total=self.groups * self.total,
            losses={name: sum(values) / len(values) for name, values in self.losses.items()},
            seconds=time.monotonic() - self.started,
            subjects=tuple(s.name for s in self.subjects),
        )
        for function in self.watch:
            function(progress)

    def _step(self, phase: Phase, index: int) -> FitStep:
        net, process = self.net, self.backbone.process
        device = self.backbone.device
        progress = index / phase.steps
        edits = edits_of(phase)
        if CANVAS in phase.batch:
            with net.under(edits=edits):
                drawn = render_batch(net, self.table, phase, self.rngs, progress)
        else:
            drawn = draw_batch(self.pools, self.table, phase.batch, self.rngs, process)
        batch, noise, times = drawn.batch, drawn.noise.to(device), drawn.times.to(device)
        noise, times = lawful(net, phase, self.rngs, noise, times, progress)
        if drawn.images is not None:
            # the seed's mean alone: a draw from the posterior would hide what a pixel edit does
            latents = net.latents(drawn.images, drawn.batch.index, edits)
            batch = replace(batch, latents=latents)
        level = process.level(times)
        fraction = process.fraction(level)
        features = net.read_features(self.run_.features.tensors, batch.subject)
        with net.under(edits=edits):
            streams = net.streams(features)
        cond = self.table.read(net, drawn.texts, batch.subject, fraction, streams, edits)
        strengths = net.strengths(len(batch.roles))
        cond = cond.with_(extra={**cond.extra, **strengths, **batch.extra})
        batch = replace(batch, features=features)
        return make_step(
            self.run_,
            net,
            phase,
            index,
            batch,
            level=level,
            noise=noise,
            cond=cond,
            encode=lambda text: self.table.tell(net, text, cond, edits),
        )

    def _finish(self, fusion: Fusion) -> list[Personalization]:
        features = self.run_.features
        tensors = dict(features.tensors)
        keep = list(features.keep)
        for index, subject in enumerate(self.subjects):
            found = self.run_.call_at(
                "extract",
                lambda _, implementation: "moment" in implementation.argnames,
                subject=subject,
                masks=Masks(),
                moment="finish",
            )
            for _, extra in found:
                for key in extra.keep:
                    tensors.setdefault(
                        key, torch.zeros(len(self.subjects), *extra.tensors[key].shape)
                    )[index] = extra.tensors[key]
                    keep.append(key)
        own, extra = self._own_tensors(fusion)
        return [
            Personalization(
                recipe=self.recipe,
                backbone=self.backbone.card,
                concepts=subject.concepts,
                tensors=own(index),
                extra=extra,
                features={k: tensors[k][index].detach().cpu() for k in dict.fromkeys(keep)},
                seed=self.seed,
                losses={name: values[index] for name, values in self.losses.items()},
                subject=subject.name,
            )
            for index, subject in enumerate(self.subjects)
        ]

    def _own_tensors(
        self, fusion: Fusion
    ) -> tuple[Callable[[int], dict[str, Tensor]], dict[str, Any]]:
        """Return what an artifact stores: all, or what a fit changed of pre-trained weights."""
        if self.base is None:
            return (lambda index: export_tensors(fusion, index)), {}
        base, name = self.base
        phases = [p for p in self.recipe.phases if not p.pretrain]
        globs = [glob for phase in phases for glob in phase.train]

        def own(index: int) -> dict[str, Tensor]:
            tensors = export_tensors(fusion, index)
            return {
                k: v
                for k, v in tensors.items()
                if not name or any(fnmatchcase(k, glob) for glob in globs)
            }

        reference = {"name": name, "sha256": digest(base.tensors)} if name else {}
        return own, ({"adapter": reference} if reference else {})


def check_stacked(fusion: Fusion, subjects: int) -> None:
    """Refuse parameters that subjects of one forward would share.

    Raises
    ------
    RecipeError
        Names the use and the place of the edit.
    """
    if subjects == 1:
        return
    for edit in fusion.edits:
        if not edit.stacked and any(
            isinstance(t, torch.nn.Parameter) for t in edit.owned().values()
        ):
            raise RecipeError(
                f"the use {edit.owner!r} has one set of parameters at {edit.key(0)!r} for {subjects} "
                "subjects that train together: set `stacks_subjects = False` on its technique, or "
                "stack its parameters [S, ...] and give the edit `stacked=True`"
            )


__all__ = ["Progress", "fit"]
