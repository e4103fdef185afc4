"""What a recipe plugs into a backbone, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Edit, Fusion, Recipe


@dataclass(frozen=True, slots=True)
class EditRow:
    """Edits of one use at one stage. ``numbers`` is how many numbers they own per subject."""

    use: str
    kind: str
    stage: str
    count: int
    sites: str
    numbers: int


def overview(recipe: Recipe, backbone: Backbone) -> list[EditRow]:
    """Return what ``recipe`` plugs into ``backbone`` for one subject with one concept.

    Raises
    ------
    Exception
        Whatever a technique raises that needs to see a subject's pictures first.
    """
    from pcs_core.data import Concept, Features
    from pcs_core.merge import merge_fusions
    from pcs_engine.run import EngineRun

    concepts = ((Concept("subject", "<subject>", "dog"),),)
    run = EngineRun(recipe, backbone, names=("subject",), concepts=concepts)
    run.features = Features(concepts=concepts)
    fusion = merge_fusions(run.call("fuse", features=run.features))
    return [*_words(fusion), *_rows(fusion)]


def _words(fusion: Fusion) -> list[EditRow]:
    return [
        EditRow("", "text", "word", 1, f"{word.token} becomes {word.text!r}", 0)
        for word in fusion.words
    ]


def _rows(fusion: Fusion) -> list[EditRow]:
    groups: dict[tuple[str, str, str], list[Edit]] = {}
    for edit in fusion.edits:
        groups.setdefault((edit.owner, _kind(edit), edit.stage()), []).append(edit)
    return [
        EditRow(
            use=use,
            kind=kind,
            stage=stage,
            count=len(edits),
            sites=_sites(edits),
            numbers=sum(_numbers(edit) for edit in edits),
        )
        for (use, kind, stage), edits in groups.items()
    ]


def _kind(edit: Edit) -> str:
    base = next(c for c in type(edit).__mro__ if vars(c).get("STAGES"))
    return base.__name__.removesuffix("Edit").lower().replace("attn", "attention")


def _sites(edits: list[Edit]) -> str:
    kinds: dict[str, None] = {}
    for edit in edits:
        site: Any = getattr(edit, "site", None)
        kinds[f"{site.kind} ({site.part})" if site else getattr(edit, "part", edit.name)] = None
    return ", ".join(kinds)


def _numbers(edit: Edit) -> int:
    tensors = edit.owned().values()
    return sum(t[0].numel() if edit.stacked and t.dim() else t.numel() for t in tensors)
