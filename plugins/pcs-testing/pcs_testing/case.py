"""A technique and how to try it on a small network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, trainable
from pcs_core.data import Features, Fusion, Personalization, Phase, Recipe, Subject
from pcs_engine import fit, open_backbone
from pcs_testing.fixtures import build, evaluate_attached, make_recipe, make_subject

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Evaluation
    from pcs_core.technique import Technique

_OPENED: dict[str, Any] = {}

DECLARED: Mapping[str, Any] = {}
"""Stands for what the technique's class declares."""


@dataclass
class Case:
    """A technique class and how to try it.

    What is not given is what the class declares: ``settings`` are its ``tiny``, ``beside`` its
    ``tiny_beside`` (these uses stand before it, and must change nothing by themselves), ``roles``
    (the batch of a fit step) its ``tiny_batch``. ``backbone`` is a backbone's id,
    ``unreached`` globs of parameters that this network's output does not depend on.
    """

    technique: type[Technique]
    settings: Mapping[str, Any] = field(default_factory=lambda: DECLARED)
    backbone: str = ""
    roles: Mapping[str, int] = field(default_factory=lambda: DECLARED)
    features: Features = field(default_factory=Features)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: DECLARED)
    unreached: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        cls = self.technique
        self.settings = cls.tiny if self.settings is DECLARED else self.settings
        self.roles = cls.tiny_batch if self.roles is DECLARED else self.roles
        self.beside = cls.tiny_beside if self.beside is DECLARED else self.beside
        usual = "tiny-video" if cls.tiny_clips else "tiny"
        self.backbone = self.backbone or cls.tiny_on or usual

    def open(self) -> Backbone:
        """Return the backbone, opened once per process."""
        if self.backbone not in _OPENED:
            _OPENED[self.backbone] = open_backbone(self.backbone)
        return _OPENED[self.backbone]  # type: ignore[no-any-return]

    def make(self, **changes: Any) -> Technique:
        """Return an instance."""
        return self.technique.from_settings({**self.settings, **changes})

    def fusion(self, technique: Technique | None = None) -> Fusion:
        """Return what an instance plugs in for one subject."""
        recipe = make_recipe([*self.others(), technique or self.make()])
        fusion, self.features = build(recipe, [self.subject()], self.open())
        return fusion

    def others(self) -> list[Technique]:
        """Return instances of what stands beside it."""
        from pcs_core.catalogue import catalogue

        made = []
        for id, settings in self.beside.items():
            technique = catalogue().get("techniques", id)
            made.append(technique.from_settings({**technique.tiny, **settings}))
        return made

    def named_others(self) -> dict[str, Technique]:
        """Return :meth:`others` by use name."""
        return {t.id: t for t in self.others()}

    def look(self, net: Attachment, prompts: Sequence[str], **options: Any) -> Evaluation:
        """Run the attached network once, streams included."""
        return evaluate_attached(net, prompts, features=self.features, **options)

    def own_parameters(self, fusion: Fusion) -> dict[str, torch.nn.Parameter]:
        """Return the trainable parameters of the technique itself."""
        return {n: p for n, p in trainable(fusion).items() if n.startswith(f"{self.technique.id}/")}

    def subject(self) -> Subject:
        """Return the subject it is tried on."""
        return make_subject()

    def prompt(self) -> str:
        """Return a prompt that names the subject."""
        return f"a photo of {self.subject().concept.token} on the beach"

    def trains(self) -> bool:
        """True when the technique owns trainable parameters."""
        return bool(self.own_parameters(self.fusion()))

    def phase(self, steps: int = 2, **changes: Any) -> Phase:
        """Return a short phase that trains everything."""
        return Phase("p", steps, batch=self.roles, lr={"*": 1e-2}, **changes)

    def recipe(self) -> Recipe:
        """Return a recipe that can be saved, with a phase if there is something to train."""
        from pcs_core.assembly import recipe_from_document

        phases = [{"name": "p", "steps": 2, "batch": dict(self.roles), "lr": 1e-2}]
        uses = [{"technique": t.id, **t.settings()} for t in (*self.others(), self.make())]
        return recipe_from_document(
            {
                "recipe": {"id": "contract"},
                "use": uses,
                "phase": phases if self.trains() else [],
                "fit": {},
                "sample": {"steps": 2, "scale": 2.0},
            }
        )

    def fit(self, *, seed: int = 0) -> Personalization:
        """Return a short fit of the technique alone."""
        return fit(self.recipe(), self.subject(), self.open(), seed=seed)[0]
