"""A fit and a drawing, run as they are on a backbone of unknown numbers, with what they take."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from pcs_core import fit, load_recipe, pretrain, sample
from pcs_core.data import Concept, Subject
from pcs_memory.moving import moving_unknowns
from pcs_memory.opening import open_unknown, weights_of
from pcs_memory.taken import ASKED, DECODING, DENOISING, ENCODING, READING, Taken
from pcs_memory.unknown import OPENING, UnknownNumbers
from pcs_testing.whole_run import FEWER, TwoRecords

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe

STEPS = 2
"""Of a phase: from the second on an optimizer has its state."""
KEPT_SIZE = frozenset({"size"})
"""Settings that change what a step takes, and so stay."""
TOKEN, NOUN = "<thing>", "thing"


class Run:
    """Runs of one recipe on one backbone of unknown numbers.

    ``aside``: frozen weights that precision casts wait in another memory, as a fit on a GPU keeps them in that
    of the host. ``size`` is height and width of the pictures, the backbone's own where it is None. ``read``:
    weights were read, and forgotten, because the backbone is not described by configurations alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: str,
        *,
        dtype: torch.dtype | None = None,
        aside: bool = False,
        size: tuple[int, int] | None = None,
        opened: Callable[[UnknownNumbers], Backbone] | None = None,
    ) -> None:
        self.numbers = numbers = UnknownNumbers(aside=aside)
        network: Any
        network, self.read = (
            open_unknown(backbone, numbers, dtype) if opened is None else (opened(numbers), False)
        )
        self.backbone: Backbone = network
        self.recipe = load_recipe(recipe, overrides=shortened(recipe))
        self.size = size
        numbers.peaks.clear()
        self.weights = {
            name: numbers.weights(weights_of(part)) for name, part in network.parts.items()
        }
        whole = network.dtype
        numbers.lowered = lambda: network.dtype != whole
        self.artifact: Personalization | None = None
        self.graded: set[str] = set()

    def fit(
        self,
        *,
        pictures: int = 4,
        subjects: int = 1,
        precision: str = "fp32",
        checkpointing: bool = False,
    ) -> Taken:
        """Fit ``subjects`` of ``pictures`` pictures each together for two steps a phase; return what it took.

        Raises
        ------
        PcsError
            The recipe cannot run on this backbone.
        """
        learned, stay = Learned(), Staying()
        self.graded.clear()

        def look(_: Any) -> None:
            parts = self.backbone.parts
            stay.weights = {name: _size(weights_of(part)) for name, part in parts.items()}
            used = [tensor for part in parts.values() for tensor in weights_of(part)]
            stay.waiting = self.numbers.idle(used)
            beside = 0 if self.numbers.aside else stay.waiting
            stay.kept = self.numbers.live - beside - sum(stay.weights.values())

        together = [self._subject(pictures, number) for number in range(subjects)]
        adapter = None
        with self._counting(), learned.watched():
            if any(phase.pretrain for phase in self.recipe.phases):
                adapter = pretrain(self.recipe, TwoRecords(), self.backbone)
                self.numbers.peaks.clear()
            self.artifact, *_ = fit(
                self.recipe,
                together,
                self.backbone,
                adapter=adapter,
                precision=precision,
                checkpointing=checkpointing,
                size=self.size,
                watch=[look],
            )
        return Taken(
            weights=stay.weights or self.weights,
            peaks=dict(self.numbers.peaks),
            trained=learned.trained,
            gradients=learned.gradients,
            optimizer=learned.optimizer,
            kept=max(0, stay.kept - learned.trained - learned.optimizer),
            waiting=stay.waiting,
            elsewhere=self.numbers.aside,
            graded=frozenset(self.graded),
        )

    def draw(self, count: int = 1) -> Taken:
        """Draw ``count`` pictures in two steps with what was fitted; return what it took."""
        gc.collect()  # what the fit left is no part of a drawing
        self.numbers.peaks.clear()
        self.numbers.stage = OPENING
        prompt = f"a photo of {TOKEN}"
        with self._counting():
            sample(self.artifact, self.backbone, prompt, count=count, size=self.size)
        return Taken(weights=self.weights, peaks=dict(self.numbers.peaks))

    def _subject(self, pictures: int, number: int = 0) -> Subject:
        height, width = self.size or self.backbone.card.size
        frames = self.backbone.latent_shape[1:2] if len(self.backbone.latent_shape) == 4 else ()
        shape = (3, *frames, height, width)
        return Subject(
            name=f"thing{number or ''}",
            concepts=(Concept(name="thing", token=f"<thing{number or ''}>", noun=NOUN),),
            images=tuple(torch.rand(shape) for _ in range(pictures)),
        )

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count, and know what the run is doing: each stage begins when the backbone is asked for it."""
        entries = {
            "moments": ENCODING,
            "encode_ids": READING,
            "denoise": DENOISING,
            "decode": DECODING,
        }
        network: Any = self.backbone
        for name, stage in entries.items():
            setattr(network, name, self._announced(getattr(network, name), stage))
        try:
            with moving_unknowns(), self.numbers:
                yield
        finally:
            for name in entries:
                delattr(network, name)

    def _announced(self, entry: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """Return ``entry``, which says that ``stage`` begins."""

        def announced(*args: Any, **kwargs: Any) -> Any:
            self.numbers.stage = stage
            if torch.is_grad_enabled():
                self.graded.add(ASKED[stage])
            result = entry(*args, **kwargs)
            if stage == DECODING and isinstance(result, FakeTensor) and not result.requires_grad:
                # pictures are looked at: they are told apart by the place of their pixels
                return torch.full(result.shape, 0.5, dtype=result.dtype)
            return result

        return announced


@dataclass
class Staying:
    """What stays from step to step, in bytes: weights by part, originals that wait, all else."""

    weights: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    kept: int = 0


class Learned:
    """What an optimizer holds, looked at after each of its steps: the most of each, in bytes."""

    trained = gradients = optimizer = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look after each step of any optimizer meanwhile."""
        hook = register_optimizer_step_post_hook(self._look)
        try:
            yield
        finally:
            hook.remove()

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        state = [
            value
            for per_parameter in optimizer.state.values()
            for value in per_parameter.values()
            if isinstance(value, torch.Tensor)
        ]
        self.trained = max(self.trained, _size(params))
        self.gradients = max(self.gradients, _size(p.grad for p in params if p.grad is not None))
        self.optimizer = max(self.optimizer, _size(state))


def shortened(recipe: Recipe) -> list[str]:
    """Return overrides that change numbers of steps and pictures alone, and nothing that a step takes."""
    changes = [
        f"{use.name}.{key}={json.dumps(value)}"
        for use in recipe.uses
        for key, value in FEWER.get(use.technique.id, {}).items()
        if key not in KEPT_SIZE
    ]
    changes += [f"{phase.name}.steps={STEPS}" for phase in recipe.phases]
    return [*changes, "sample.steps=2", "fit.cycles=1"]


def _size(tensors: Any) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
