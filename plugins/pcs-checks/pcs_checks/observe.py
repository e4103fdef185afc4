"""One instrumented fit and its pictures: what all claims of a check look at, made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from pcs_checks.records import RandomRecords
from pcs_core import Technique, fit, hookimpl, load_recipe, open_backbone, pretrain, sample
from pcs_core.backbone import trainable
from pcs_core.backbone.attach import attached
from pcs_core.data import LOSS, Box, Concept, FitStep, Layout, Recipe, Subject, Use

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

TOKEN, OTHER = "<thing>", "<other>"
NOUN = "dog"
PROMPT = f"a photo of {TOKEN} on the beach"
POINTS = ((0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7))
SEED = 3
MASKED = "mask.concept."
"""Beginning of the names of regions that say where a concept stands."""
VALID = "mask.valid."
"""Beginning of the names of regions that say what is picture, where a technique set it on a ground."""


@dataclass
class Term:
    """A loss term of one step: its weight, mean value, and what it gives a gradient to.

    ``reached`` are names of trained tensors with a gradient that is not zero, only known of the first
    step of a phase: what a term that begins at its least reaches first in a later step stands there too.
    """

    name: str
    weight: float
    value: float
    reached: frozenset[str] = frozenset()


@dataclass
class Step:
    """What one fit step showed.

    ``error`` is the unmasked mean squared error of its rows. ``padded`` counts rows with a ground around a
    smaller picture, ``ground`` is the largest weight of the error there, ``uneven`` how far the mean weight of
    such a row is from 1. ``words`` are the learned rows in front of the step. ``weights`` are, of rows with a
    mask of the subject, the largest weight outside of it and the smallest where it covers all.
    """

    phase: str
    index: int
    roles: tuple[str, ...]
    captions: tuple[str, ...]
    terms: dict[str, Term] = field(default_factory=dict)
    error: float = float("nan")
    padded: int = 0
    ground: float = 0.0
    uneven: float = 0.0
    weights: list[tuple[float, float]] = field(default_factory=list)
    words: dict[str, Tensor] = field(default_factory=dict)


class Probe(Technique):
    """Looks at every step of a fit from outside all other techniques, and changes nothing."""

    id = "checks.probe"

    @hookimpl(wrapper=True, tryfirst=True)
    def regularize(self, run: Any, step: FitStep) -> Any:
        """Pass the loss terms on, and keep what they are."""
        answers = yield
        _SEEN[-1].note(run.backbone, step, answers)
        return answers


_SEEN: list[Notes] = []
"""The notes in force: a probe is frozen, and what it saw outlives it."""


@dataclass
class Notes:
    """What a probe saw: steps in order, and all owned tensors when each phase began.

    ``latest`` are those tensors at the last step of a phase, before its update.
    """

    steps: list[Step] = field(default_factory=list)
    starts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    latest: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    trained: dict[str, frozenset[str]] = field(default_factory=dict)

    def note(self, backbone: Any, step: FitStep, answers: Any) -> None:
        """Keep a step."""
        terms = [t for a in answers for t in (a if isinstance(a, list | tuple) else [a])]
        first = step.phase not in self.starts
        net = attached(backbone)
        params = {} if net is None else trainable(net.fusion)
        now = {n: p.detach().clone() for n, p in params.items()}
        self.latest[step.phase] = now
        if first:
            self.starts[step.phase] = now
            self.trained[step.phase] = frozenset(n for n, p in params.items() if p.requires_grad)
        kept = Step(step.phase, step.index, step.batch.roles, step.batch.captions)
        kept.words = {n: t for n, t in now.items() if n.endswith("/rows")}
        asked = {n: p for n, p in params.items() if p.requires_grad}
        for term in terms:
            value = term.value.detach().float().mean()
            known = next(
                (s.terms.get(term.name) for s in self.steps if s.phase == step.phase), None
            )
            reached = _reached(term, asked) if known is None or not known.reached else frozenset()
            if known is not None and reached:
                known.reached = reached
            kept.terms[term.name] = Term(term.name, float(term.weight), float(value), reached)
        if "evaluation" in step.__dict__:
            kept.error = float(step.error.detach().mean())
        _note_ground(kept, step)
        _note_weights(kept, step)
        self.steps.append(kept)


def _note_ground(kept: Step, step: FitStep) -> None:
    """Keep what the reconstruction loss makes of the ground that "mask.valid.*" leaves out."""
    regions = [v for k, v in step.batch.regions.items() if k.startswith(VALID)]
    if not regions:
        return
    weight = step.masks.get(LOSS)
    for region in regions:
        for row in range(len(region)):
            shown = region[row]
            if not 0 < float(shown.mean()) < 1:
                continue
            cells = torch.ones_like(shown) if weight is None else weight[row]
            kept.padded += 1
            kept.ground = max(kept.ground, float((cells * (shown == 0)).max()))
            kept.uneven = max(kept.uneven, abs(float(cells.mean()) - 1.0))


def _note_weights(kept: Step, step: FitStep) -> None:
    """Keep what the reconstruction loss makes of the places outside and inside of the subject's masks."""
    regions = [v for k, v in step.batch.regions.items() if k.startswith(MASKED)]
    if not regions:
        return
    union, weight = torch.stack(regions).amax(dim=0), step.masks.get(LOSS)
    for row in range(len(union)):
        outside, inside = union[row] == 0, union[row] == 1
        if bool(outside.any()) and bool(inside.any()):
            cells = torch.ones_like(union[row]) if weight is None else weight[row].to(union)
            kept.weights.append((float(cells[outside].max()), float(cells[inside].min())))


def _reached(term: Any, params: Mapping[str, Any]) -> frozenset[str]:
    value = (term.weight * term.value).sum()
    if not params or not value.requires_grad:
        return frozenset()
    gradients = torch.autograd.grad(
        value, list(params.values()), retain_graph=True, allow_unused=True
    )
    return frozenset(
        name
        for name, gradient in zip(params, gradients, strict=True)
        if gradient is not None and bool(gradient.abs().max() > 0)
    )


def watched(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with a probe around it."""
    return replace(recipe, uses=(*recipe.uses, Use(Probe.id, Probe())))


def random_pictures(seed: int, *, clips: bool = False, concepts: int = 1) -> Subject:
    """Return a subject of two random pictures [3 40 48] (clips [3 4 32 32]) with masks and key points.

    With two ``concepts`` each picture shows one of them, and its caption says which.
    """
    rng = torch.Generator().manual_seed(seed)
    shape = (3, 4, 32, 32) if clips else (3, 40, 48)
    mask = torch.zeros(1, *shape[1:])
    mask[..., 8:30, 8:30] = 1.0
    two = concepts == 2
    named = (Concept("thing", TOKEN, NOUN), Concept("other", OTHER, "cat"))
    masks = {"thing": (mask, None if two else mask), **({"other": (None, mask)} if two else {})}
    return Subject(
        name="thing",
        concepts=named[:concepts],
        images=tuple(torch.rand(*shape, generator=rng) for _ in range(2)),
        captions=(f"a photo of {TOKEN}", f"a photo of {OTHER}") if two else (None,) * 2,
        masks={} if clips else masks,
        extra=({"points": [list(p) for p in POINTS]},) * 2,
    )


@dataclass
class Observation:
    """A recipe on a small random network. Everything is computed when first asked for, once."""

    recipe: Recipe
    backbone_id: str = "tiny"
    concepts: int = 1
    notes: Notes = field(default_factory=Notes)

    @cached_property
    def backbone(self) -> Backbone:
        """The network."""
        return open_backbone(self.backbone_id)

    def subject(self, seed: int) -> Subject:
        """Return a random subject that suits the network."""
        return random_pictures(seed, clips=self.clips, concepts=self.concepts)

    @property
    def clips(self) -> bool:
        """Whether the network draws clips."""
        return len(self.backbone.latent_shape) == 4

    @cached_property
    def before(self) -> dict[str, Tensor]:
        """All tensors of the network before anything was done with it."""
        return {
            f"{part}/{name}": tensor.detach().clone()
            for part, module in self.backbone.parts.items()
            for name, tensor in module.state_dict().items()
        }

    @cached_property
    def adapter(self) -> Personalization | None:
        """Weights of the brief pre-training, where the recipe has one."""
        if not any(phase.pretrain for phase in self.recipe.phases):
            return None
        return self._noting(lambda: pretrain(watched(self.recipe), Records(), self.backbone))

    @cached_property
    def artifact(self) -> Personalization:
        """The fitted subject."""
        _ = self.before
        return self.fit(self.subject(1), noted=True)

    @cached_property
    def other(self) -> Personalization:
        """Another subject, fitted alike."""
        return self.fit(self.subject(2))

    def fit(self, subject: Subject, *, noted: bool = False) -> Personalization:
        """Return ``subject`` fitted by the recipe."""
        adapter = self.adapter

        def run() -> Personalization:
            recipe = watched(self.recipe) if noted else self.recipe
            return fit(recipe, subject, self.backbone, seed=SEED, adapter=adapter)[0]

        made = self._noting(run) if noted else run()
        return replace(made, recipe=self.recipe)

    def _noting(self, run: Callable[[], Any]) -> Any:
        _SEEN.append(self.notes)
        try:
            return run()
        finally:
            _SEEN.pop()

    def variant(self, settings: Sequence[str]) -> Observation:
        """Return the same with other settings, fitted and drawn alike."""
        recipe = load_recipe(self.recipe, overrides=list(settings))
        return Observation(recipe, self.backbone_id, self.concepts)

    @cached_property
    def layout(self) -> Layout | None:
        """A box and key points, where the recipe reads them."""
        if not any(use.technique.reads_layout for use in self.recipe.uses):
            return None
        return Layout((Box(TOKEN, (0.0, 0.0, 0.5, 1.0)),), POINTS)

    def draw(self, artifact: Personalization | None = None, **more: Any) -> Tensor:
        """Return a picture of ``artifact``, the fitted subject's where none is given."""
        given: dict[str, Any] = {"seed": 1, "layout": self.layout, **more}
        return sample(artifact or self.artifact, self.backbone, PROMPT, **given)

    @cached_property
    def picture(self) -> Tensor:
        """The fitted subject's picture."""
        return self.draw()

    @cached_property
    def untuned(self) -> Tensor:
        """The picture that the network alone draws of the class noun, from the same noise."""
        settings = self.recipe.sample
        prompt = PROMPT.replace(TOKEN, NOUN)
        return sample(
            None, self.backbone, prompt, seed=1, steps=settings.steps, scale=settings.scale
        )


class Records(RandomRecords):
    """Random records with key points, of as many subjects as a picture may hold."""

    def __init__(self) -> None:
        super().__init__(count=4, subjects=1, points=True)
