"""Does a layout put things where its boxes are? For systems that draw by boxes and learn nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone

METRIC = "mini.in-box"
"""Share of the segmented subject's area that lies inside its box, 0..1."""
NOUNS = ("dog", "cat", "bus", "owl", "mushroom", "guitar")
BOXES = ((0.02, 0.3, 0.5, 0.95), (0.5, 0.3, 0.98, 0.95))
"""Left and right half: left, top, right, bottom in parts of the picture."""
PROMPT = "a photo of a {token} on the grass"


def inside(masks: Tensor, box: Sequence[float]) -> Tensor:
    """Return the share [n] of masks [n 1 h w] that lies inside ``box``; an empty mask gives 0."""
    height, width = masks.shape[-2:]
    left, top, right, bottom = (
        round(edge * size) for edge, size in zip(box, (width, height) * 2, strict=True)
    )
    area = masks.flatten(1).sum(1)
    kept = masks[..., top:bottom, left:right].flatten(1).sum(1)
    return kept / area.clamp_min(1e-6)


def differences(
    system: str,
    backbone: Backbone,
    segment: Callable[[Tensor], Tensor],
    *,
    nouns: Sequence[str] = NOUNS,
    seeds: int = 2,
    watch: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Return noun -> differences of the share inside the box, with the layout minus without it.

    Both pictures of a pair start from the same noise and have the same prompt; ``segment`` gives masks
    [n 1 h w] in [0, 1] of pictures [n 3 h w].
    """
    from pcs_core import fit, sample
    from pcs_core.data import Box, Concept, Layout, Subject

    drawn: dict[str, list[float]] = {}
    for noun in nouns:
        subject = Subject(name=noun, concepts=(Concept(noun, f"<{noun}>", noun),))
        (artifact,) = fit(system, subject, backbone)
        prompt = PROMPT.format(token=f"<{noun}>")
        for box in BOXES:
            layout = Layout((Box(f"<{noun}>", box),))
            given: dict[str, Any] = {"count": seeds, "seed": 0}
            guided = sample(artifact, backbone, prompt, layout=layout, **given)
            settings = artifact.recipe.sample
            plain = sample(
                None,
                backbone,
                PROMPT.format(token=noun),
                steps=settings.steps,
                scale=settings.scale,
                **given,
            )
            both = [inside(segment(pictures), box) for pictures in (guided, plain)]
            drawn.setdefault(noun, []).extend((both[0] - both[1]).tolist())
        watch(noun)
    return drawn
