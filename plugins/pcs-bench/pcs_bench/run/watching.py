"""Choosing a checkpoint: the one that trades fidelity and alignment best, before the fit overfits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcs_bench.run.texts import plain, told

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


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint: both scores scaled so that 0 and 1 are the two baselines, and their merit.

    ``alignment`` 0 is a copy of the references and 1 the untuned backbone; ``fidelity`` the other way
    round. ``merit`` is their geometric mean: its highest point lies on the Pareto front.
    """

    alignment: float
    fidelity: float
    merit: float


@dataclass
class Watch:
    """The ``keep`` of :func:`pcs_core.fit`: draws at every checkpoint, and keeps the best so far.

    ``alignment`` and ``fidelity`` are metrics of pictures for which higher is better; ``seed`` is
    that of the pictures, which no report should score again. ``points`` are the checkpoints seen, by
    subject.
    """

    subjects: Sequence[Subject]
    backbone: Backbone
    alignment: Any
    fidelity: Any
    prompts: Sequence[str] = PROMPTS
    seed: int = 900_000
    points: dict[str, list[Point]] = field(default_factory=dict)
    _ends: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)

    def __call__(self, persons: Sequence[Personalization]) -> list[bool]:
        """Return for each personalization whether it is its subject's best so far."""
        by_name = {subject.name: subject for subject in self.subjects}
        return [self._best(person, by_name[person.subject]) for person in persons]

    def point(self, person: Personalization, subject: Subject) -> Point:
        """Draw with a personalization, and say where it lies between the baselines."""
        from pcs_core import sample

        texts = [told(p, subject.concepts) for p in self.prompts]
        drawn = sample(person, self.backbone, texts, seed=self.seed)
        alignment, fidelity = self._score(drawn, subject)
        low, high, bottom, top = self._baselines(person, subject)
        return _point(_scaled(alignment, low, high), _scaled(fidelity, bottom, top))

    def _best(self, person: Personalization, subject: Subject) -> bool:
        point = self.point(person, subject)
        before = self.points.setdefault(subject.name, [])
        best = all(
            (point.merit, point.fidelity) > (other.merit, other.fidelity) for other in before
        )
        before.append(point)
        return best

    def _baselines(
        self, person: Personalization, subject: Subject
    ) -> tuple[float, float, float, float]:
        """Return alignment of copies and untuned pictures, then fidelity of untuned and copies."""
        from pcs_core import sample

        if subject.name not in self._ends:
            settings = person.recipe.sample
            untuned = sample(
                None,
                self.backbone,
                [plain(p, subject.concepts) for p in self.prompts],
                seed=self.seed,
                steps=settings.steps,
                scale=settings.scale,
                scheduler=settings.scheduler,
            )
            references = self._references(subject)
            copies = references[[i % len(references) for i in range(len(self.prompts))]]
            free, far = self._score(untuned, subject)
            deaf, near = self._score(copies, subject)
            self._ends[subject.name] = (deaf, free, far, near)
        return self._ends[subject.name]

    def _score(self, pictures: Tensor, subject: Subject) -> tuple[float, float]:
        given = {
            "prompts": [plain(p, subject.concepts) for p in self.prompts],
            "references": self._references(subject),
        }
        scores = [metric.score(pictures, **given) for metric in (self.alignment, self.fidelity)]
        return float(scores[0].float().mean()), float(scores[1].float().mean())

    def try_metrics(self) -> None:
        """Score the references once, so that a metric without weights is refused at once."""
        self._score(
            self._references(self.subjects[0])[:1].expand(len(self.prompts), -1, -1, -1),
            self.subjects[0],
        )

    def _references(self, subject: Subject) -> Tensor:
        import torch

        from pcs_core import fit_image

        size = self.backbone.card.size
        return torch.stack([fit_image(image, size) for image in subject.images])


def fidelity(subjects: Sequence[Subject], backbone: Backbone) -> Watch:
    """Return the watch of ``pcs fit --watch fidelity``: CLIP-T and CLIP-I, on Mini through its ruler.

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


def _scaled(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0


def _point(alignment: float, fidelity: float) -> Point:
    return Point(alignment, fidelity, (alignment * fidelity) ** 0.5)
