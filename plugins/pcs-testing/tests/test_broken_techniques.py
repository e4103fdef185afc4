"""Techniques that break one promise each: the contract catches every one, and says what to do."""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import gather
from pcs_core.data import (
    AttnEdit,
    Features,
    Fusion,
    LayerEdit,
    Loss,
    MaskQuery,
    Masks,
    Run,
    Subject,
    TokenEdit,
)
from pcs_core.errors import PluginError
from pcs_core.hookspecs import RUN_HOOKS
from pcs_testing import CHECKS, Case


class Scale(AttnEdit):
    """Stacked factors of one site's output; what the good technique is made of."""

    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, stacked=True)
        self.scale = nn.Parameter(torch.zeros(subjects, site.width))

    def out(self, state: Any, cond: Any) -> Any:
        state.out = state.out * (1 + gather(self.scale, cond.subject)[:, None])
        return state


class Scaling(Technique):
    """Scale the outputs of the cross-attention sites."""

    id = "test.scaling"
    rowwise = True
    edit: ClassVar[type[Scale]] = Scale

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        return Fusion(edits=tuple(self.edit(s, features.subjects) for s in run.sites("cross")))


def with_edit(kind: type[Scale], name: str) -> type[Technique]:
    """Return the good technique with another edit."""
    return type(name, (Scaling,), {"id": f"test.{name}", "edit": kind, "__doc__": "Broken."})


class ListedEdit(Scale):
    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        self.more = [nn.Parameter(torch.zeros(site.width))]

    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out + self.more[0]
        return state


class TuckedAwayEdit(Scale):
    """The parameter is known to a function alone."""

    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        more = types.SimpleNamespace(rows=[nn.Parameter(torch.zeros(site.width))])
        self.shift = lambda x: x + more.rows[0]

    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = self.shift(state.out)
        return state


class NamedAsAMethodEdit(Scale):
    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        self.key = "values"  # type: ignore[assignment,method-assign]


class NarrowEdit(Scale):
    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out.chunk(2, -1)[0]
        return state


class MeanEdit(Scale):
    """Broadcasts, so that nothing stops."""

    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out.mean(1, keepdim=True)
        return state


class UnstackedEdit(Scale):
    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        self.scale = nn.Parameter(torch.zeros(site.width))


class ConstantEdit(Scale):
    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        self.offset = torch.zeros(site.width)

    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out + self.offset
        return state


class HiddenEdit(Scale):
    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        self.shift = nn.Parameter(torch.zeros(subjects, site.width))

    def owned(self) -> Any:
        return {"scale": self.scale}


class CountingEdit(Scale):
    """Grows with every step of a fit, and nobody saves by how much."""

    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        self.register_buffer("steps", torch.zeros(1), persistent=False)

    def out(self, state: Any, cond: Any) -> Any:
        if self.training:
            with torch.no_grad():
                self.steps += 1
        state = super().out(state, cond)
        state.out = state.out * (1 + 0.1 * self.steps)
        return state


class WriterEdit(Scale):
    def out(self, state: Any, cond: Any) -> Any:
        cond.text.mul_(1.01)
        return super().out(state, cond)


class NotingEdit(Scale):
    def out(self, state: Any, cond: Any) -> Any:
        cond.extra["seen"] = cond.text[:, 0, 0]
        return super().out(state, cond)


class MixingEdit(Scale):
    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out + 0.1 * state.out.mean(0, keepdim=True)
        return state


class BoundEdit(Scale):
    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out * torch.tensor([1.0])
        return state


class Doubled(LayerEdit):
    def before(self, x: Any, cond: Any) -> Any:
        return x.double()


class DoubledLayers(Technique):
    """Broken."""

    id = "test.doubled"

    @hookimpl
    def fuse(self, run: Run) -> Fusion:
        return Fusion(edits=(Doubled(run.sites("*", "resnet")[0]),))


class StartingAway(Scaling):
    """Broken."""

    id = "test.starting_away"

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        edits = []
        for site in run.sites("cross"):
            edit = Scale(site, features.subjects)
            edit.scale.data.fill_(0.5)
            edits.append(edit)
        return Fusion(edits=tuple(edits))


class FromTheRunsSeed(Scaling):
    """Broken: the start follows the seed of the pictures."""

    id = "test.run_seed"
    starts_away = "it is what the test is about"

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        edits = []
        for site in run.sites("cross"):
            edit = Scale(site, features.subjects)
            rng = torch.Generator().manual_seed(run.seed)
            edit.register_buffer("way", torch.rand(site.width, generator=rng), persistent=False)
            edits.append(edit)
            edit.out = lambda state, cond, e=edit: _along(state, e)  # type: ignore[method-assign]
        return Fusion(edits=tuple(edits))


def _along(state: Any, edit: Any) -> Any:
    state.out = state.out + edit.way
    return state


class Unkept(Technique):
    """Broken: reads a feature that no artifact keeps."""

    id = "test.unkept"

    @hookimpl
    def extract(self, moment: str) -> Features | None:
        return Features(tensors={"mean": torch.ones(1)}) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        features.get("mean", self.id)
        return Fusion(edits=tuple(Scale(s, features.subjects) for s in run.sites("cross")))


def _fresh() -> float:
    rng = torch.Generator()
    rng.seed()  # from the system's entropy
    return float(torch.rand((), generator=rng))


class Drawing(Scaling):
    """Broken: draws from whatever generator there is."""

    id = "test.drawing"
    starts_away = "it is what the test is about"

    source: str = "torch"
    """Which generator."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        edits = []
        for site in run.sites("cross"):
            edit = Scale(site, features.subjects)
            value = {
                "torch": lambda: float(torch.rand(())),
                "python": random.random,
                "numpy": lambda: float(np.random.rand()),
                "fresh": lambda: float(
                    torch.rand(
                        (), generator=torch.Generator().manual_seed(torch.Generator().seed())
                    )
                ),
            }[self.source]()
            edit.scale.data.fill_(value)
            edits.append(edit)
        return Fusion(edits=tuple(edits))


def losing(name: str, value: Callable[[Any], Any], *, rowwise: bool = False) -> type[Technique]:
    """Return a technique with one loss."""

    @hookimpl
    def regularize(self: Any, step: Any) -> Any:
        return value(step)

    return type(
        name,
        (Technique,),
        {
            "id": f"test.{name}",
            "regularize": regularize,
            "rowwise": rowwise,
            "__doc__": "Broken.",
        },
    )


class Idle(Technique):
    """Broken: does nothing."""

    id = "test.idle"


class PaintingOver(Technique):
    """Broken."""

    id = "test.painting"

    @hookimpl
    def extract(self, subject: Subject, moment: str) -> None:
        subject.images[0].mul_(0.5)


class Seeding(Technique):
    """Broken."""

    id = "test.seeding"

    @hookimpl
    def fuse(self, run: Any) -> None:
        run.seed = 1


class ScalingBatches(Technique):
    """Broken."""

    id = "test.scaling_batches"

    @hookimpl
    def regularize(self, step: Any) -> None:
        step.batch.latents.mul_(0.5)


SEEN: list[torch.Tensor] = []


class Remembering(Technique):
    """Broken: the features of a subject hang on the one before."""

    id = "test.remembering"

    @hookimpl
    def extract(self, subject: Subject, moment: str) -> Features | None:
        if moment != "start":
            return None
        SEEN.append(torch.stack([i.mean() for i in subject.images]).mean())
        return Features(tensors={"mean": torch.stack(SEEN).mean()[None]}, keep=("mean",))


class FixedMask(Technique):
    """Broken: the masks have the size of one of the pictures."""

    id = "test.fixed_mask"

    @hookimpl
    def mask(self, query: MaskQuery) -> Masks | None:
        if query.moment != "subject" or query.subject is None:
            return None
        return Masks({"fido": torch.ones(1, *query.subject.images[0].shape[-2:])})


class Unstacked(Technique):
    """Broken: as many rows as the subject has pictures."""

    id = "test.unstacked"

    @hookimpl
    def extract(self, subject: Subject, moment: str) -> Features | None:
        if moment != "start":
            return None
        rows = torch.stack([i.mean()[None] for i in subject.images])
        return Features(tensors={"means": rows}, keep=("means",))


class EverywhereEdit(TokenEdit):
    """Adds to the last position of a text that does not hold the token."""

    def __init__(self, token: str, host: str, width: int) -> None:
        super().__init__([token], count=1, hosts=[host])
        self.row = nn.Parameter(torch.zeros(width))

    def output(self, text: Any, span: Any, cond: Any) -> Any:
        changed = text.clone()
        rows = torch.arange(len(text), device=text.device)
        changed[rows, span[:, 0]] = changed[rows, span[:, 0]] + self.row
        return changed


class Everywhere(Technique):
    """Broken."""

    id = "test.everywhere"

    @hookimpl
    def fuse(self, run: Any, features: Features) -> Fusion:
        concept = features.concepts[0][0]
        width = run.embed_words(concept.noun).shape[-1]
        return Fusion(edits=(EverywhereEdit(concept.token, concept.noun, width),))


class OneWindowEdit(EverywhereEdit):
    """Takes a position of a longer text for one of its first window."""

    def output(self, text: Any, span: Any, cond: Any) -> Any:
        return super().output(text, span % 24, cond)


class OneWindow(Technique):
    """Broken."""

    id = "test.one_window"

    @hookimpl
    def fuse(self, run: Any, features: Features) -> Fusion:
        concept = features.concepts[0][0]
        width = run.embed_words(concept.noun).shape[-1]
        return Fusion(edits=(OneWindowEdit(concept.token, concept.noun, width),))


class Unsaid(Technique):
    """Broken."""

    id = "test.unsaid"

    @hookimpl
    def extract(self, moment: str) -> Features | None:
        return (
            Features(tensors={"mean": torch.ones(1)}, keep=("mean",)) if moment == "start" else None
        )


class Unasked(Technique):
    """Broken."""

    id = "test.unasked"

    @hookimpl
    def fuse(self, features: Features) -> None:
        features.tensors.get("face")


class AlwaysAnswers(Scaling):
    """Gives captions at every moment but two, whatever later ones there may be."""

    id = "test.always_answers"

    @hookimpl
    def extract(self, moment: str) -> Features | None:
        """Give captions."""
        return None if moment in ("phase", "finish") else Features(captions=("a {token}",))


class DefaultEdit(Scale):
    """The parameter is the default of an argument."""

    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, subjects)
        more = {"shift": [nn.Parameter(torch.zeros(site.width))]}
        self.moved = lambda x, rows=more: x + rows["shift"][0]

    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = self.moved(state.out)
        return state


class CopyingEdit(Scale):
    """What it says it owns is a copy."""

    def owned(self) -> Any:
        return {"scale": self.scale.detach().clone()}


COUNTED: list[int] = []


class CountedEdit(Scale):
    """Acts as often as a list of its module has entries."""

    def out(self, state: Any, cond: Any) -> Any:
        state = super().out(state, cond)
        state.out = state.out * (1 + 0.1 * len(COUNTED))
        return state


class Counted(Scaling):
    """Broken: what a fit counts stands in its module alone."""

    id = "test.counted"
    edit = CountedEdit

    @hookimpl
    def extract(self, moment: str) -> None:
        if moment == "start":
            COUNTED.clear()

    @hookimpl
    def regularize(self, step: Any) -> None:
        COUNTED.append(step.index)

    @hookimpl(wrapper=True)
    def fuse(self, run: Run, features: Features) -> Any:
        """As at the beginning: what is put together again counts anew."""
        COUNTED.clear()
        answers = yield
        edits = tuple(self.edit(s, features.subjects) for s in run.sites("cross"))
        return [*answers, Fusion(edits=edits)]


class OffsetEdit(LayerEdit):
    """Adds what it has not learned yet."""

    def __init__(self, site: Any, subjects: int) -> None:
        super().__init__(site, stacked=True)
        self.shift = nn.Parameter(torch.full((subjects, 1), 0.1))

    def after(self, y: Any, cond: Any) -> Any:
        return y + gather(self.shift, cond.subject)[:, :, None, None]


class Offset(Technique):
    """Broken: away from the base in a layer before anything is learned."""

    id = "test.offset"

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        return Fusion(edits=(OffsetEdit(run.sites("*", "resnet")[0], features.subjects),))


class NormalisingFeatures(Scaling):
    """Broken: scales in place what others read too."""

    id = "test.normalising"
    writes = ("feature:mean",)

    @hookimpl
    def extract(self, moment: str) -> Features | None:
        return Features(tensors={"mean": torch.ones(4)}) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        features.tensors["mean"].div_(2)
        return Fusion(edits=tuple(Scale(s, features.subjects) for s in run.sites("cross")))


class Halved(LayerEdit):
    """Answers in half precision whatever it was given."""

    def after(self, y: Any, cond: Any) -> Any:
        return y.half()


class HalvedLayers(Technique):
    """Broken: what stands behind the layer cannot compute in that type."""

    id = "test.halved"

    @hookimpl
    def fuse(self, run: Run) -> Fusion:
        return Fusion(edits=(Halved(run.sites("*", "resnet")[0]),))


class ByName(Scaling):
    """Broken: looks for U-Nets' names, and finds nothing where layers are called otherwise."""

    id = "test.by_name"

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        sites = run.sites("down_blocks.*|up_blocks.*|mid_block.*", "cross")
        return Fusion(edits=tuple(Scale(site, features.subjects) for site in sites))


class Nowhere(Scaling):
    """Broken: its sites are of no kind that there is."""

    id = "test.nowhere"

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion:
        sites = run.sites("*.no_such_layer")
        return Fusion(edits=tuple(Scale(site, features.subjects) for site in sites))


BROKEN: list[tuple[type[Technique], str, str, dict[str, Any]]] = [
    (
        with_edit(ListedEdit, "listed"),
        "everything_is_registered",
        "ListedEdit.more holds a parameter in a plain list",
        {},
    ),
    (
        with_edit(TuckedAwayEdit, "tucked_away"),
        "everything_is_registered",
        "TuckedAwayEdit.shift holds a parameter in a plain function",
        {},
    ),
    (
        with_edit(NamedAsAMethodEdit, "named_as_a_method"),
        "everything_is_registered",
        "NamedAsAMethodEdit.key is also the name of a method",
        {},
    ),
    (
        with_edit(NarrowEdit, "narrow"),
        "stages_keep_shapes",
        "is given out of shape [1, 256, 32] and returns [1, 256, 16]",
        {},
    ),
    (with_edit(MeanEdit, "mean"), "stages_keep_shapes", "and returns [1, 1, 32]", {}),
    (
        with_edit(UnstackedEdit, "unstacked"),
        "stages_keep_shapes",
        "its scale has shape [32] for one subject",
        {},
    ),
    (
        with_edit(ConstantEdit, "constant"),
        "everything_is_registered",
        "ConstantEdit.offset is a plain tensor",
        {},
    ),
    (
        with_edit(HiddenEdit, "hidden"),
        "nothing_is_hidden",
        "HiddenEdit.shift is a parameter that owned",
        {},
    ),
    (
        with_edit(CountingEdit, "counting"),
        "state_is_saved",
        "end of the fit and the loaded one differ",
        {},
    ),
    (FromTheRunsSeed, "state_is_saved", "end of the fit and the loaded one differ", {}),
    (Unkept, "state_is_saved", "must be in `Features.keep`", {}),
    (StartingAway, "starts_at_the_base", "before any training the output is", {}),
    (Drawing, "no_global_randomness", "global generator of torch", {"source": "torch"}),
    (Drawing, "no_global_randomness", "global generator of Python's random", {"source": "python"}),
    (Drawing, "no_global_randomness", "global generator of numpy", {"source": "numpy"}),
    (Drawing, "no_global_randomness", "differs between two fits of one seed", {"source": "fresh"}),
    (
        losing("scalar", lambda s: Loss("far", s.error.mean())),
        "losses_are_per_row",
        "'far' is a scalar",
        {},
    ),
    (
        losing("mean_of_rows", lambda s: Loss("far", s.error.mean()[None])),
        "losses_are_per_row",
        "its loss 'far' has shape [1]: give one value per row",
        {},
    ),
    (
        losing("detached", lambda s: Loss("far", s.error.flatten(1).mean(1).detach())),
        "losses_are_per_row",
        "'far' has no gradient",
        {},
    ),
    (
        losing(
            "coupled", lambda s: Loss("far", s.error.mean((1, 2, 3)) * s.error.mean()), rowwise=True
        ),
        "rows_share_out",
        "a row depends on the other rows",
        {},
    ),
    (
        losing(
            "choosy",
            lambda s: Loss(
                "far", s.error.mean((1, 2, 3)), rows=s.level.sigma > s.level.sigma.mean()
            ),
            rowwise=True,
        ),
        "rows_share_out",
        "a loss speaks about some rows of a role only",
        {},
    ),
    (
        losing(
            "expanded_mean",
            lambda s: Loss("far", s.error.mean().expand(len(s.batch.roles))),
        ),
        "losses_are_per_row",
        "it is a mean over the batch, expanded",
        {},
    ),
    (
        losing(
            "summed_into_each_row",
            lambda s: Loss(
                "far",
                s.error.sum().repeat(len(s.batch.roles)) / 1e3,
                rows=s.batch.rows("subject"),
            ),
        ),
        "losses_are_per_row",
        "it is a mean over the batch, expanded",
        {},
    ),
    (
        losing("noisy", lambda s: Loss("far", (s.x0 + torch.randn_like(s.x0)).mean((1, 2, 3)))),
        "no_global_randomness",
        "global generator of torch",
        {},
    ),
    (
        with_edit(DefaultEdit, "default"),
        "everything_is_registered",
        "DefaultEdit.moved holds a",
        {},
    ),
    (with_edit(CopyingEdit, "copying"), "nothing_is_hidden", "CopyingEdit.scale is a", {}),
    (Counted, "state_is_saved", "end of the fit and the loaded one differ", {}),
    (Offset, "starts_at_the_base", "before any training the output is", {}),
    (NormalisingFeatures, "what_is_given_stays", "changed the feature 'mean' in place", {}),
    (HalvedLayers, "detaching_restores", "RuntimeError: ", {}),
    (ByName, "joint_sites_are_met", "edits into a U-Net and none into SD 3", {}),
    (Nowhere, "has_an_effect", "it has no effect", {}),
    (Idle, "has_an_effect", "it has no effect", {}),
    (PaintingOver, "what_is_given_stays", "picture 0 of the subject was changed in place", {}),
    (Seeding, "what_is_given_stays", "a hook set run.seed", {}),
    (ScalingBatches, "what_is_given_stays", "changed batch.latents", {}),
    (
        with_edit(WriterEdit, "writer"),
        "what_is_given_stays",
        "changed a tensor of `cond` in place",
        {},
    ),
    (
        with_edit(NotingEdit, "noting"),
        "what_is_given_stays",
        "put or removed something in `cond`",
        {},
    ),
    (with_edit(MixingEdit, "mixing"), "rows_are_apart", "when another row stands beside it", {}),
    (Everywhere, "other_texts_stay", "a span of -1 means", {}),
    (OneWindow, "later_windows_are_read", "says other things than its words alone", {}),
    (FixedMask, "pictures_of_any_size", "'fido' has shape", {}),
    (Unstacked, "pictures_of_any_size", "subjects of 2 and of 3 pictures do not stack", {}),
    (Remembering, "subjects_leave_no_trace", "differs after a fit of another subject", {}),
    (
        with_edit(BoundEdit, "bound"),
        "constants_follow_the_device",
        "makes a tensor without saying",
        {},
    ),
    (Unsaid, "words_are_declared", "it gives feature:mean without saying so", {}),
    (Unasked, "words_are_declared", "it reads the feature 'face' without saying so", {}),
    (AlwaysAnswers, "other_moments_are_left_alone", "a moment of no version", {}),
    (DoubledLayers, "works_in_half_precision", "in half precision", {}),
]


@pytest.mark.parametrize(
    ("technique", "check", "message", "settings"),
    BROKEN,
    ids=[f"{kind.id}-{'-'.join(settings.values())}" for kind, _, _, settings in BROKEN],
)
def test_a_broken_technique_is_caught(
    technique: type[Technique], check: str, message: str, settings: dict[str, Any]
) -> None:
    SEEN.clear()
    with pytest.raises((AssertionError, PluginError)) as caught:
        CHECKS[check](Case(technique, settings))
    said = str(caught.value)
    assert message in said
    # whoever reads it knows whose it is: the plugin, the use and the hook
    assert said.startswith(f"module {__name__!r}: the use ")
    assert repr(technique.id) in said
    hooks = [hook for hook in RUN_HOOKS if hasattr(technique, hook)]
    assert any(f"`{hook}`" in said for hook in hooks) or not hooks


@pytest.mark.parametrize("check", sorted({check for _, check, _, _ in BROKEN}))
def test_the_good_technique_passes(check: str) -> None:
    CHECKS[check](Case(Scaling))


def test_every_promise_is_broken_by_one() -> None:
    from pcs_testing.promises import PROMISES

    broken = {check for _, check, _, _ in BROKEN}
    assert {p.__name__ for p in PROMISES} <= broken <= set(CHECKS)
