"""Putting a personalization together again: its run, and its fusion with what was trained.

What was put together stays ready on the backbone, so that going back and forth between subjects
makes no edit twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcs_core.backbone import import_tensors
from pcs_core.data import Features, Recipe, Word
from pcs_core.errors import InputError
from pcs_core.merge import merge_fusions
from pcs_engine.adapters import adapter_of
from pcs_engine.freeing import size_of
from pcs_engine.run import EngineRun
from pcs_engine.strengths import weighed_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Fusion, Personalization, Use

KEPT = 8
"""Personalizations that stay ready on one backbone."""
KEPT_BYTES = 2**30
"""What their edits may hold together. The last one drawn stays, whatever it holds."""


@contextmanager
def restored(
    artifact: Personalization | None,
    backbone: Backbone,
    seed: int,
    added: Sequence[Use] = (),
    weights: Mapping[str, float] | None = None,
) -> Iterator[tuple[EngineRun, Fusion]]:
    """Lend what :func:`restore` gives, kept from the last time where it is the same still.

    It is lent to one at a time: a second borrower gets one of its own. A fusion that changes the
    network itself, by other weights or another library's layers, is not kept, for it is large; nor is one
    with a preset's uses, nor one whose loan ended in an error. ``weights`` are strengths of uses by name.
    """
    weights = weights or {}
    if artifact is None or added:
        yield restore(artifact, backbone, seed, added, weights)
        return
    # a backbone with slots alone keeps nothing
    attributes = getattr(backbone, "__dict__", {})
    shelf: OrderedDict[Any, Any] = attributes.setdefault("_restored", OrderedDict())
    tensors = (*artifact.tensors.values(), *artifact.features.values())
    # the number that torch counts up with every change in place: a tensor may be trained on
    key = (
        id(artifact),
        str(backbone.device),
        backbone.card.size,  # a deployment may draw another size from now on
        *sorted(weights.items()),
        *((id(t), t._version) for t in tensors),
    )
    kept = shelf.pop(key, None)
    if kept is None:
        run, fusion = restore(artifact, backbone, seed, (), weights)
        features, size = run.features, size_of(fusion)
    else:
        _, _, run, fusion, features, size = kept
        run.seed, run.features = seed, features
        run.scratch.clear()
    yield run, fusion
    if not any(edit.LARGE for edit in fusion.edits):
        # the artifact and its tensors too: an id is free for others once its object is gone
        shelf[key] = (artifact, tensors, run, fusion, features, size)
        sizes = [entry[-1] for entry in shelf.values()]
        while len(sizes) > KEPT or (len(sizes) > 1 and sum(sizes) > KEPT_BYTES):
            shelf.popitem(last=False)
            sizes.pop(0)


def restore(
    artifact: Personalization | None,
    backbone: Backbone,
    seed: int,
    added: Sequence[Use] = (),
    weights: Mapping[str, float] | None = None,
) -> tuple[EngineRun, Fusion]:
    """Build the run and the trained fusion of a personalization (none: the bare backbone).

    ``added`` are uses of a preset, behind those of the recipe; ``weights`` strengths of uses by name.

    Raises
    ------
    InputError
        One of them needs what only a fit gives, or has the name of one in the recipe.
    """
    if artifact is None:
        run = EngineRun(Recipe(id="base", uses=tuple(added)), backbone, seed=seed)
        fusion = merge_fusions(run.call("fuse", features=run.features))
        run.plug(fusion)
        check_added(added, (), fusion)
        return run, fusion
    uses = artifact.recipe.uses
    check_added(added, uses)
    run = run_of(artifact, backbone, seed, added)
    if artifact.parts:
        answers, tensors = answers_of_parts(artifact, run, weights or {})
        new = [use.technique for use in added]
        answers += run.call_at("fuse", lambda one, _: one in new, features=run.features)
    else:
        answers = run.call("fuse", features=run.features)
        stored = {**adapter_of(artifact, backbone), **artifact.tensors}
        tensors = weighed_tensors(artifact, stored, weights or {}, run)
    fusion = with_words(merge_fusions(answers), artifact)
    run.plug(fusion)
    check_added(added, uses, fusion)
    import_tensors(fusion, tensors)
    return run, fusion


def run_of(
    artifact: Personalization, backbone: Backbone, seed: int, added: Sequence[Use] = ()
) -> EngineRun:
    """Return the run in which `fuse` is asked, with the features of ``artifact``."""
    run = EngineRun(
        replace(artifact.recipe, uses=(*artifact.recipe.uses, *added)),
        backbone,
        seed=seed,
        start_seed=artifact.seed,
        names=(artifact.subject or "subject",),
        concepts=(artifact.concepts,),
    )
    run.features = Features(
        tensors={k: v.unsqueeze(0).to(backbone.device) for k, v in artifact.features.items()},
        concepts=(artifact.concepts,),
    )
    return run


def answers_of_parts(
    artifact: Personalization, run: EngineRun, weights: Mapping[str, float]
) -> tuple[list[tuple[str, Any]], dict[str, Tensor]]:
    """Return what `fuse` says of each part by the names of its uses here, and the tensors of all.

    Each is asked in a run of its own, with its own subject and seed.
    """
    answers: list[tuple[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for prefix, part in artifact.parts:
        part_run = run_of(part, run.backbone, run.seed)
        answers += [
            (prefix + name, said)
            for name, said in part_run.call("fuse", features=part_run.features)
        ]
        stored = {**adapter_of(part, run.backbone), **part.tensors}
        named = {use.name: weights.get(prefix + use.name, 1.0) for use in part.recipe.uses}
        weighed = weighed_tensors(part, stored, named, part_run)
        tensors |= {prefix + name: value for name, value in weighed.items()}
    return answers, tensors


def with_words(fusion: Fusion, artifact: Personalization) -> Fusion:
    """Return ``fusion`` with the words that the artifact itself says its tokens stand for.

    ``extra["words"]``: token -> ``{"text": ..., "noun": ...}``. One recipe cannot say them of a merged
    artifact, whose subjects were fitted with words of their own.
    """
    said: Any = artifact.extra.get("words", {})
    if not said:
        return fusion
    others = tuple(word for word in fusion.words if word.token not in said)
    stored = tuple(Word(token, word["text"], word["noun"]) for token, word in said.items())
    return replace(fusion, words=(*others, *stored))


def check_added(added: Sequence[Use], uses: Sequence[Use], fusion: Fusion | None = None) -> None:
    """Refuse uses of a preset that cannot be put behind ``uses``, or whose edits would have to be trained."""
    taken = {use.name for use in uses}
    for use in added:
        if use.name in taken:
            raise InputError(
                f"the recipe has a use {use.name!r} already: leave it out of what is added, or give it "
                "a name of its own"
            )
        owned = [e for e in (fusion.edits if fusion else ()) if e.owner == use.name and e.owned()]
        if owned or hasattr(use.technique, "extract"):
            raise InputError(
                f"{use.name!r} needs a fit, so it cannot be added when drawing: put it into the recipe"
            )
