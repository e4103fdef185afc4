"""Several subjects in one forward: the gradients and the results of separate runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core.backbone import Attachment, Backbone, import_tensors, trainable
from pcs_core.catalogue import catalogue
from pcs_core.data import (
    AttnEdit,
    AttnState,
    Conditioning,
    Features,
    Fusion,
    Phase,
    Recipe,
    Site,
    Subject,
)
from pcs_core.errors import RecipeError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import Progress, fit
from pcs_engine.clipping import clip_per_subject
from pcs_testing import (
    CHECKS,
    Case,
    build_fusion,
    evaluate_attached,
    make_recipe,
    make_subject,
    perturb,
)
from pcs_testing.probe import Probe

STACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens": ("tokens.learnable", {"vectors": 2, "noise": 0.1}),
    "lora-linear": ("weights.lora", {"rank": 2}),
    "lora-conv": ("weights.lora", {"rank": 2, "sites": "*", "kind": "conv"}),
    "lora-text": ("weights.lora", {"rank": 2, "sites": "*_proj", "part": "text"}),
    "kv": ("weights.kv", {"parts": ["q", "k", "v"], "sites": "attention"}),
}
ROWS = {
    "even": [0, 0, 1, 1, 2, 2],
    "ragged": [0, 1, 1, 1, 2],
    "shuffled": [2, 0, 1, 0, 2, 1, 0],
}


def three() -> list[Subject]:
    return [
        make_subject(name, token=f"<{name}>", noun=noun, seed=i)
        for i, (name, noun) in enumerate([("ann", "dog"), ("bob", "cat"), ("cy", "car")])
    ]


def recipe_of(kind: str, *phases: Phase) -> Recipe:
    id, settings = STACKED[kind]
    return make_recipe([catalogue().get("techniques", id).from_settings(settings)], *phases)


def per_subject_loss(output: Tensor, owners: Sequence[int]) -> Tensor:
    """The sum over subjects of the mean over each one's rows."""
    rows = output.square().mean(dim=(1, 2, 3))
    index = torch.tensor(owners)
    return torch.stack([rows[index == s].mean() for s in sorted(set(owners))]).sum()


def slice_of(fusion: Fusion, subject: int) -> dict[str, Tensor]:
    return {
        f"{e.owner}/{e.key(subject)}/{k}": t.detach()[subject].clone()
        for e in fusion.edits
        for k, t in e.owned().items()
    }


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", STACKED)
def test_gradients_equal_those_of_separate_runs(backbone: Backbone, kind: str, rows: str) -> None:
    owners, subjects = ROWS[rows], three()
    fusion = build_fusion(recipe_of(kind), subjects, backbone)
    perturb(fusion)
    rng = torch.Generator().manual_seed(5)
    latents = torch.randn(len(owners), *backbone.latent_shape, generator=rng)
    prompts = [f"a photo of {subjects[o].concept.token} on the beach" for o in owners]
    with Attachment(backbone, fusion, fitting=True) as net:
        output = evaluate_attached(net, prompts, owners, latents=latents).output
        per_subject_loss(output, owners).backward()
    together = trainable(fusion)
    for index, subject in enumerate(subjects):
        mine = [i for i, o in enumerate(owners) if o == index]
        alone = build_fusion(recipe_of(kind), [subject], backbone)
        import_tensors(alone, slice_of(fusion, index))
        with Attachment(backbone, alone, fitting=True) as net:
            output = evaluate_attached(
                net, [prompts[i] for i in mine], latents=latents[mine]
            ).output
            per_subject_loss(output, [0] * len(mine)).backward()
        pairs = [
            (name, p.grad[index], q.grad[0])
            for (name, p), q in zip(together.items(), trainable(alone).values(), strict=True)
            if p.grad is not None and q.grad is not None
        ]
        assert len(pairs) == len(together)
        largest = max(theirs.abs().max() for _, _, theirs in pairs)
        for name, ours, theirs in pairs:
            assert theirs.abs().max() > 0, name
            # a tensor whose gradient is a thousandth of the largest holds its rounding error
            scale = torch.maximum(theirs.abs().max(), 1e-2 * largest)
            error = (ours - theirs).abs().max() / scale
            assert error < 1e-5, f"{name} of {subject.name}: {error:.2e}"
        ours, theirs = (torch.cat([p[i].flatten() for p in pairs]) for i in (1, 2))
        assert (ours - theirs).norm() / theirs.norm() < 3e-6


@pytest.mark.parametrize("kind", STACKED)
def test_a_fit_of_three_equals_three_fits(backbone: Backbone, kind: str) -> None:
    phase = Phase("p", 4, batch={"subject": 2}, lr={"*": 1e-2}, optimizer="sgd", clip=0.5)
    recipe, subjects = recipe_of(kind, phase), three()
    together = fit(recipe, subjects, backbone, seed=3)
    start = build_fusion(recipe, subjects, backbone, seed=3)
    assert [p.subject for p in together] == ["ann", "bob", "cy"]
    for index, subject in enumerate(subjects):
        (alone,) = fit(recipe, subject, backbone, seed=3)
        ours = together[index]
        assert set(ours.tensors) == set(alone.tensors)
        first = slice_of(start, index)
        moved = max((t - first[n]).abs().max() for n, t in alone.tensors.items())
        assert moved > 1e-6
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-4, atol=1e-6)
        assert ours.losses["core.denoise"] == pytest.approx(alone.losses["core.denoise"], rel=1e-4)
    first_loss, second_loss, _ = (p.losses["core.denoise"] for p in together)
    assert first_loss != second_loss


def test_the_order_of_subjects_does_not_matter(backbone: Backbone) -> None:
    recipe = recipe_of("kv", Phase("p", 3, lr={"*": 1e-2}))
    forward = fit(recipe, three(), backbone)
    backward = fit(recipe, three()[::-1], backbone)
    for one, other in zip(forward, backward[::-1], strict=True):
        assert one.subject == other.subject
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, other.tensors[name], rtol=1e-4, atol=1e-5)


def test_clipping_one_subject_leaves_the_others(backbone: Backbone) -> None:
    def param(*norms: float) -> torch.nn.Parameter:
        made = torch.nn.Parameter(torch.zeros(len(norms), 2, 2))
        made.grad = torch.stack([torch.full((2, 2), n / 2) for n in norms])
        return made

    huge, also = param(100.0, 0.1, 0.3), param(0.0, 0.1, 0.4)
    flat = torch.nn.Parameter(torch.zeros(3))
    flat.grad = torch.zeros(3)
    clip_per_subject([(huge, True), (also, True), (flat, True)], 0.5, 3)
    assert huge.grad is not None
    assert also.grad is not None
    norms = [(huge.grad[s].norm() ** 2 + also.grad[s].norm() ** 2).sqrt().item() for s in range(3)]
    assert norms == pytest.approx([0.5, 0.02**0.5, 0.5], rel=1e-4)


class Shared(AttnEdit):
    """One factor for all subjects."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.scale = torch.nn.Parameter(torch.zeros(site.width))

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        assert state.out is not None
        state.out = state.out * (1 + self.scale)
        return state


class First(AttnEdit):
    """Stacked factors, of which every row gets the first subject's."""

    def __init__(self, site: Site, subjects: int) -> None:
        super().__init__(site, stacked=True)
        self.scale = torch.nn.Parameter(torch.zeros(subjects, site.width))

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        assert state.out is not None
        state.out = state.out * (1 + self.scale[0])
        return state


class Sharing(Technique):
    """Claims a subject axis that it does not have."""

    id = "test.sharing"

    @hookimpl
    def fuse(self, run: Any) -> Fusion:
        return Fusion(edits=tuple(Shared(site) for site in run.sites("cross")))


class Confusing(Technique):
    """Has a subject axis and does not read it."""

    id = "test.confusing"

    @hookimpl
    def fuse(self, run: Any, features: Features) -> Fusion:
        sites = run.sites("cross")
        return Fusion(edits=tuple(First(site, features.subjects) for site in sites))


def test_parameters_that_subjects_would_share_are_refused_by_name(backbone: Backbone) -> None:
    recipe = make_recipe({"mine": Sharing()}, Phase("p", 1, lr={"*": 1e-2}))
    with pytest.raises(RecipeError, match=r"'mine' has one set .*stacks_subjects = False"):
        fit(recipe, three(), backbone)
    fit(recipe, three()[0], backbone)


def test_the_contract_finds_subjects_that_do_not_train_as_if_alone() -> None:
    check = CHECKS["subjects_train_as_if_alone"]
    check(Case(Probe))
    with pytest.raises(AssertionError, match=r"differs by .*cond\.subject"):
        check(Case(Confusing))
    with pytest.raises(RecipeError, match="stacks_subjects = False"):
        check(Case(Sharing))


def test_without_a_subject_axis_they_are_fitted_one_after_the_other(backbone: Backbone) -> None:
    for id, settings in (
        ("weights.full", {"pattern": "mid_block*"}),
        ("weights.peft", {"kind": "lora", "sites": "mid_block*.to_v"}),
    ):
        technique = catalogue().get("techniques", id).from_settings(settings)
        phase = Phase("p", 2, lr={"*": 1e-3})
        seen: list[Progress] = []
        artifacts = fit(make_recipe([technique], phase), three(), backbone, watch=[seen.append])
        assert [p.subjects for p in seen] == [("ann",), ("bob",), ("cy",)]
        assert [(p.done, p.total) for p in seen] == [(2, 6), (4, 6), (6, 6)]
        for subject, artifact in zip(three(), artifacts, strict=True):
            (alone,) = fit(make_recipe([technique], phase), subject, backbone)
            assert all(torch.equal(t, alone.tensors[n]) for n, t in artifact.tensors.items())


def test_subjects_with_different_numbers_of_concepts_are_fitted_apart(backbone: Backbone) -> None:
    from dataclasses import replace

    one, other = three()[:2]
    extra = replace(one.concept, name="ball", token="<ball>", noun="toy")
    two = replace(other, concepts=(*other.concepts, extra))
    recipe = recipe_of("tokens", Phase("p", 1, lr={"*": 1e-2}))
    first, second = fit(recipe, [one, two], backbone)
    assert {n.split("/")[1] for n in first.tensors} == {"<ann>"}
    assert {n.split("/")[1] for n in second.tensors} == {"<bob>", "<ball>"}


def test_subjects_may_share_a_placeholder(backbone: Backbone) -> None:
    subjects = [make_subject(n, token="<it>", noun="dog", seed=i) for i, n in enumerate("ab")]
    recipe = recipe_of("tokens", Phase("p", 3, lr={"*": 1e-2}, optimizer="sgd"))
    first, second = fit(recipe, subjects, backbone)
    (name,) = first.tensors
    assert not torch.equal(first.tensors[name], second.tensors[name])
    (alone,) = fit(recipe, subjects[1], backbone)
    torch.testing.assert_close(second.tensors[name], alone.tensors[name], rtol=1e-4, atol=1e-6)


def test_masks_of_one_subject_do_not_need_masks_of_the_other() -> None:
    from pcs_engine.batches import draw_batch
    from pcs_engine.captions import CaptionTable
    from pcs_engine.pools import Pool

    def pool(mask: Tensor | None) -> Pool:
        latents = torch.zeros(1, 4, 2, 2)
        return Pool({"subject": [0]}, latents, latents, torch.ones(1), mask, [[0]], [0], {})

    table = CaptionTable(captions=[(0, "a")])
    rngs = [torch.Generator(), torch.Generator()]

    class Process:
        def draw_times(self, count: int, rng: torch.Generator) -> Tensor:
            return torch.zeros(count, dtype=torch.long)

    half = torch.full((1, 1, 2, 2), 0.5)
    batch = draw_batch(
        [pool(half), pool(None)], table, {"subject": 1}, rngs, Process(), [0, 1]
    ).batch
    assert batch.masks["loss"].mean(dim=(1, 2, 3)).tolist() == [0.5, 1.0]
    batch = draw_batch(
        [pool(None), pool(None)], table, {"subject": 1}, rngs, Process(), [0, 1]
    ).batch
    assert not batch.masks
