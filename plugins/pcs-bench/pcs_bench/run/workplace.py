"""What one process of a run works with: the backbone, the subjects, the store, the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pcs_bench.run.plan import Protocol, find_subject
from pcs_bench.run.scoring import Metrics
from pcs_bench.run.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Recipe, Subject


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
            entry = find_subject(self.suite, name)
            source = entry.folder
            self._subjects[name] = (
                source()
                if callable(source)
                else load_subject(source, noun=entry.noun, token=entry.token)
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
        masks = next(iter(subject.masks.values()), ())
        if not masks or any(mask is None for mask in masks):
            return None
        return torch.stack([fit_image(m, self.backbone.card.size) for m in masks if m is not None])


def load_system(protocol: Protocol, system: str) -> Recipe:
    """Return the recipe of a system with the protocol's settings."""
    from pcs_core import load_recipe

    return load_recipe(
        system, backbone=protocol.backbone, overrides=list(protocol.overrides(system))
    )
