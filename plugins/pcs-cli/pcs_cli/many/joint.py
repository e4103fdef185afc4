"""One fusion for several fits: what each trains stands side by side along the subject axis.

The fits keep their own parameters, optimizers and draws. Each technique plugs itself in once for all subjects,
as in a fit of several, and its stacked parameters are then those of the fits, one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F

from pcs_cli.many.each_weight import EachWeight, Runs
from pcs_core.catalogue import catalogue
from pcs_core.data import RENDERED, Fusion, TokenEdit, WeightEdit
from pcs_core.errors import PcsError
from pcs_core.merge import merge_fusions
from pcs_engine.run import EngineRun

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import Backbone
    from pcs_core.data import Edit, Features, Recipe

RANKS = frozenset({"rank"})
"""Settings that may differ between fits of one forward: what they make is filled up with zeros."""


class Apart(PcsError):
    """Why some fits cannot share a forward."""


class Made(Protocol):
    """What is put together: a fit, or a personalization that draws."""

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""

    @property
    def fusion(self) -> Fusion:
        """What it plugs in, for its one subject."""


def kind_of(recipe: Recipe) -> tuple[Any, ...]:
    """Return what must be alike for two fits to share a forward: what acts inside the network, and how."""
    uses = []
    for use in recipe.uses:
        settings = use.technique.settings() if hasattr(use.technique, "fuse") else {}
        alike = {name: value for name, value in settings.items() if name not in RANKS}
        uses.append((use.name, use.technique.id, repr(sorted(alike.items()))))
    return tuple(uses)


def why_apart(recipe: Recipe) -> str:
    """Return why fits of this recipe train one after the other, or an empty string."""
    if recipe.models:
        return f"the model {recipe.models[0].name!r} is asked about one subject"
    for phase in recipe.phases:
        if RENDERED in phase.batch:
            return f"phase {phase.name!r} learns from what it renders"
        if phase.reach:
            return f"phase {phase.name!r} gives each loss what it may move"
        if hasattr(optimizer_class(phase.optimizer), "search"):
            return f"phase {phase.name!r} searches without gradients"
    return ""


def optimizer_class(id: str) -> Any:
    """Return the optimizer that a plugin holds as ``id``; None for one of torch's."""
    known = catalogue()
    return known.get("optimizers", id) if id in known.ids("optimizers") else None


def check_packs(recipe: Recipe, fusion: Fusion) -> None:
    """Refuse what one alone says can never stand beside another of its kind.

    Raises
    ------
    Apart
        Names a technique without subject axis that does more than rewrite weights.
    """
    for use in recipe.uses:
        if use.technique.stacks_subjects:
            continue
        mine = [edit for edit in fusion.edits if edit.owner == use.name]
        if not mine or not all(_rewrites(edit) for edit in mine):
            raise Apart(f"{use.technique.id!r} has no subject axis")


def _rewrites(edit: Edit) -> bool:
    return isinstance(edit, WeightEdit) and not edit.stacked and edit.stage() == "weight"


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the joint fusion, and those of the fits that stand there."""

    module: nn.Module
    name: str
    parts: tuple[Tensor, ...]
    axis: int | None
    size: int

    def put(self) -> None:
        """Let the parts stand there, one behind the other, filled up with zeros along ``axis``."""
        parts = [self._filled(part) for part in self.parts]
        # beside the parameter, which stays registered: an attribute of the object itself is read first
        self.module.__dict__[self.name] = torch.cat(parts)

    def _filled(self, part: Tensor) -> Tensor:
        if self.axis is None or part.shape[self.axis] == self.size:
            return part
        behind = part.dim() - 1 - self.axis
        return F.pad(part, (*(0, 0) * behind, 0, self.size - part.shape[self.axis]))


class Joint:
    """The fusion of several, and how it comes to their tensors."""

    def __init__(
        self, made: Sequence[Made], backbone: Backbone, features: Features, names: Sequence[str]
    ) -> None:
        self.places: list[Place] = []
        if len(made) == 1:  # alone a fit is what it always was
            self.fusion = made[0].fusion
            return
        for one in made:
            check_packs(one.recipe, one.fusion)
            for edit in one.fusion.edits:  # what is bound is not theirs
                edit.to(backbone.device)
        largest = max(made, key=lambda one: _numbers(one.fusion))
        recipe = largest.recipe
        self.run = EngineRun(recipe, backbone, names=names, concepts=features.concepts)
        self.run.features = features
        answers = self.run.call_at(
            "fuse", lambda technique, _: technique.stacks_subjects, features=features
        )
        theirs: dict[str, list[tuple[Edit, ...]]] = {}
        for edits in _side_by_side([one.fusion for one in made]):
            theirs.setdefault(edits[0].owner, []).append(edits)
        runs = Runs()
        stacking = {use.name for use in recipe.uses if use.technique.stacks_subjects}
        answers += [
            (name, Fusion(edits=tuple(_each(row, backbone, runs) for row in rows)))
            for name, rows in theirs.items()
            if name not in stacking
        ]
        order = [use.name for use in recipe.uses]
        self.fusion = merge_fusions(sorted(answers, key=lambda pair: order.index(pair[0])))
        for edit in self.fusion.edits:
            edit.to(backbone.device)
        for name in stacking & theirs.keys():
            mine = [edit for edit in self.fusion.edits if edit.owner == name]
            if len(mine) != len(theirs[name]):
                raise Apart(f"{name!r} plugs in different numbers of edits")
            for edit, row in zip(mine, theirs[name], strict=True):
                self._pair(edit, row)

    def put(self) -> None:
        """Let the tensors of all stand where they act, inside autograd."""
        with torch.enable_grad():
            for place in self.places:
                place.put()

    def _pair(self, edit: Edit, theirs: Sequence[Edit]) -> None:
        """Note where the tensors of one edit come from.

        Raises
        ------
        Apart
            The fits' edits differ in more than their subject.
        """
        where = f"{edit.owner!r} at {edit.key(0)!r}"
        for other in theirs:
            if _plain(other) != _plain(edit) or other.owned().keys() != edit.owned().keys():
                raise Apart(f"{where} is not the same in all")
        owned = edit.owned()
        for key, tensor in owned.items():
            parts = [other.owned()[key] for other in theirs]
            if not edit.stacked:
                trained = any(isinstance(part, torch.nn.Parameter) for part in parts)
                if trained or any(not torch.equal(part, tensor) for part in parts):
                    raise Apart(f"{where} has one {key!r} for all subjects")
                continue
            self.places.append(_place(edit, key, tensor, parts, where))
        _check_buffers(edit, theirs, {id(t) for t in owned.values()}, where)


def _side_by_side(fusions: Sequence[Fusion]) -> list[tuple[Edit, ...]]:
    """Return the edits of all, those of one place together."""
    if len({len(fusion.edits) for fusion in fusions}) > 1:
        raise Apart("their techniques plug in different numbers of edits")
    rows = list(zip(*(fusion.edits for fusion in fusions), strict=True))
    for row in rows:
        if len({edit.owner for edit in row}) > 1:
            raise Apart("their techniques plug in different edits")
    return rows


def _each(edits: tuple[Edit, ...], backbone: Backbone, runs: Runs) -> EachWeight:
    """Return one edit for those of several fits, each of which rewrites the same weight."""
    rewriting = [edit for edit in edits if isinstance(edit, WeightEdit)]
    first = rewriting[0]
    if len({str(edit.site) for edit in rewriting}) > 1 or any(
        _plain(edit) != _plain(first) for edit in rewriting
    ):
        raise Apart(f"{first.owner!r} at {first.key(0)!r} is not the same in all")
    module = backbone.parts[first.site.part].get_submodule(first.site.name)
    return EachWeight(rewriting, module, runs)


def _numbers(fusion: Fusion) -> int:
    return sum(t.numel() for edit in fusion.edits for t in edit.owned().values())


def _plain(edit: Edit) -> tuple[Any, ...]:
    """Return what an edit says of itself in plain values; a token's names are its subject's own."""
    apart = {"name"} if isinstance(edit, TokenEdit) else set()
    plain = {
        k: v for k, v in vars(edit).items() if isinstance(v, int | float | str) and k not in apart
    }
    plain.pop("training", None)
    return (type(edit), edit.stage() if edit.STAGES else "", sorted(plain.items()))


def _place(edit: Edit, key: str, tensor: Tensor, parts: Sequence[Tensor], where: str) -> Place:
    path, _, name = key.replace("/", ".").rpartition(".")
    try:
        module = edit.get_submodule(path)
    except AttributeError:
        module = edit
    if getattr(module, name, None) is not tensor:
        raise Apart(f"{where} keeps its {key!r} in a way of its own")
    axis = edit.PADDED.get(key)
    for part in parts:
        fits = [
            mine == whole or (dim == axis and mine < whole)
            for dim, (mine, whole) in enumerate(zip(part.shape, tensor.shape, strict=True))
        ]
        if part.shape[0] != 1 or not all(fits[1:]):
            raise Apart(f"{where} has {key!r} in different sizes")
    return Place(module, name, tuple(parts), axis, tensor.shape[axis] if axis is not None else 0)


def _check_buffers(edit: Edit, theirs: Sequence[Edit], owned: set[int], where: str) -> None:
    """Refuse factors that differ: they are one for all rows, or hold a slice of each subject."""
    buffers = [dict(other.named_buffers()) for other in theirs]
    for name, buffer in edit.named_buffers():
        if id(buffer) in owned:
            continue
        parts = [one[name] for one in buffers]
        stacked = edit.stacked and buffer.dim() > 0 and buffer.shape[0] == len(theirs)
        whole: Mapping[int, Tensor] = (
            {i: buffer[i : i + 1] for i in range(len(theirs))}
            if stacked
            else dict.fromkeys(range(len(theirs)), buffer)
        )
        if not all(
            p.shape == whole[i].shape and torch.equal(p, whole[i]) for i, p in enumerate(parts)
        ):
            raise Apart(f"{where} has another {name!r} in each")
