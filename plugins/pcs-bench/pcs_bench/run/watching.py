"""Choosing a checkpoint: the one that trades fidelity and alignment best, before the fit overfits.

A few pictures are a noisy judge, and the best of many noisy scores is mostly luck. An earlier
checkpoint is therefore kept only if it leads the last by more than one standard error of their
difference (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcs_bench.run.quality import Point, mean, means, quality, scaled
from pcs_bench.run.texts import plain, with_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Subject

PROMPTS = (
    "a picture of {token} on the beach",
    "a picture of {token} in the snow",
    "a picture of {token} at night",
    "a picture of {token} on a red background",
)


@dataclass
class Watch:
    """The ``keep`` of :func:`pcs_core.fit`: draws at every checkpoint, and keeps one of the best so far.

    Kept is the latest checkpoint that the best one does not lead by more than one standard error.
    ``alignment`` and ``fidelity`` are metrics of pictures for which higher is better; ``count``
    pictures of each prompt are drawn; ``seed`` is that of the pictures, which no report should score
    again. ``points`` are the checkpoints seen and ``kept`` the number of the kept one, by subject.
    """

    subjects: Sequence[Subject]
    backbone: Backbone
    alignment: Any
    fidelity: Any
    prompts: Sequence[str] = PROMPTS
    seed: int = 900_000
    count: int = 2
    points: dict[str, list[Point]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    _ends: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)

    def __call__(self, artifacts: Sequence[Personalization]) -> list[bool]:
        """Return for each personalization whether it takes the place of the one kept so far."""
        by_name = {subject.name: subject for subject in self.subjects}
        return [self._keeps(artifact, by_name[artifact.subject]) for artifact in artifacts]

    def point(self, artifact: Personalization, subject: Subject) -> Point:
        """Draw with a personalization, and say where it lies between the baselines."""
        from pcs_core import sample

        texts = [with_tokens(p, subject.concepts) for p in self.prompts]
        drawn = sample(artifact, self.backbone, texts, seed=self.seed, count=self.count)
        alignment, fidelity = self._score(drawn, subject)
        low, high, bottom, top = self._baselines(artifact, subject)
        pictures = [
            (scaled(a, low, high), scaled(f, bottom, top))
            for a, f in zip(alignment, fidelity, strict=True)
        ]
        return Point(*means(pictures), quality(pictures), tuple(pictures))

    def _keeps(self, artifact: Personalization, subject: Subject) -> bool:
        seen = self.points.setdefault(subject.name, [])
        seen.append(point := self.point(artifact, subject))
        lead, error = max(seen, key=lambda p: (p.quality, p.fidelity)).lead(point)
        if lead > error:
            return False
        self.kept[subject.name] = len(seen)
        return True

    def _baselines(
        self, artifact: Personalization, subject: Subject
    ) -> tuple[float, float, float, float]:
        """Return alignment of copies and untuned pictures, then fidelity of untuned and copies."""
        from pcs_core import sample

        if subject.name not in self._ends:
            settings = artifact.recipe.sample
            untuned = sample(
                None,
                self.backbone,
                [plain(p, subject.concepts) for p in self.prompts],
                seed=self.seed,
                count=self.count,
                steps=settings.steps,
                scale=settings.scale,
                scheduler=settings.scheduler,
            )
            references = self._references(subject)
            copies = references[[i % len(references) for i in range(len(untuned))]]
            free, far = map(mean, self._score(untuned, subject))
            deaf, near = map(mean, self._score(copies, subject))
            self._ends[subject.name] = (deaf, free, far, near)
        return self._ends[subject.name]

    def _score(self, pictures: Tensor, subject: Subject) -> tuple[list[float], list[float]]:
        """Return alignment and fidelity of each picture."""
        given = {
            "prompts": [
                plain(p, subject.concepts) for p in self.prompts for _ in range(self.count)
            ],
            "references": self._references(subject),
        }
        alignment, fidelity = (
            metric.score(pictures, **given).float().tolist()
            for metric in (self.alignment, self.fidelity)
        )
        return alignment, fidelity

    def try_metrics(self) -> None:
        """Score the references once, so that a metric without weights is refused at once."""
        self._score(
            self._references(self.subjects[0])[:1].expand(
                len(self.prompts) * self.count, -1, -1, -1
            ),
            self.subjects[0],
        )

    def _references(self, subject: Subject) -> Tensor:
        import torch

        from pcs_core import fit_image

        size = self.backbone.card.size
        return torch.stack([fit_image(image, size) for image in subject.images])


def fidelity(subjects: Sequence[Subject], backbone: Backbone) -> Watch:
    """Return the watch of ``pcs fit --watch fidelity``: CLIP-T and CLIP-I, on Mini through its metric.

    Raises
    ------
    InputError
        Their weights are not here, found out before the fit.
    """
    from pcs_bench import metrics

    prefix = "mini." if backbone.card.id == "mini" else ""
    watch = Watch(
        subjects, backbone, metrics.get(f"{prefix}clip-t"), metrics.get(f"{prefix}clip-i")
    )
    watch.try_metrics()
    return watch
