"""Maps are held to masks, in four ways."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pcs_attention.localization_loss import MODES, Compared, LocalizationLoss, mean_map
from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Concept, Phase, Site, Subject
from pcs_core.errors import CapabilityError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

MAP = torch.tensor([[[[0.4, 0.2], [0.0, 0.0]]]])  # [b t y x]
INSIDE = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
LAST = torch.tensor([[True]])


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("match", (0.25 + 1.0) / 4),  # the map over its peak: 1, 0.5, 0, 0
        ("contrast", 0.1 - 0.2),
        ("unmix", 0.04 / 4),
        ("split", (0.25 + 1.0) / 4),
        ("outside", 0.5 / 2),
    ],
)
def test_values_are_those_of_the_papers(mode: str, value: float) -> None:
    actual = MODES[mode](Compared(MAP, INSIDE, 1 - INSIDE, LAST))
    assert actual.shape == (1, 1)
    assert float(actual) == pytest.approx(value)


def test_split_holds_all_but_the_last_word_inside() -> None:
    maps, last = MAP.expand(-1, 2, -1, -1), torch.tensor([[False, True]])
    first, second = MODES["split"](Compared(maps, INSIDE, 1 - INSIDE, last))[0].tolist()
    assert first == pytest.approx(0.25)  # mean of 0.5 and 0 outside
    assert second == pytest.approx(0.3125)


def test_outside_holds_the_last_word_like_the_others() -> None:
    """Five of Mix-of-Show's six configurations: no word has to fill the region."""
    maps, last = MAP.expand(-1, 2, -1, -1), torch.tensor([[False, True]])
    assert MODES["outside"](Compared(maps, INSIDE, 1 - INSIDE, last))[0].tolist() == [0.25, 0.25]


def test_a_place_that_the_mask_touches_is_not_outside() -> None:
    touched = INSIDE.clone()
    touched[0, 0, 0, 1] = 0.1
    assert float(MODES["outside"](Compared(MAP, touched, 1 - touched, LAST))) == 0.0


def test_peaks_of_a_group_of_rows_are_shared_and_their_places_counted_together() -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 4, 4, generator=rng)
    inside = torch.zeros(3, 1, 4, 4)
    inside[0, ..., :1], inside[1, ..., :3], inside[2, ..., :2] = 1.0, 1.0, 1.0
    last = torch.tensor([[False, True]] * 3)
    group = torch.tensor([0, 0, 1])
    actual = MODES["outside"](Compared(maps, inside, 1 - inside, last, group))
    for token in range(2):
        ours = maps[:2, token] / maps[:2, token].max()
        expected = ours[inside[:2, 0] == 0].mean()
        torch.testing.assert_close(actual[:2, token].mean(), expected)
        alone = maps[2, token] / maps[2, token].max()
        torch.testing.assert_close(actual[2, token], alone[inside[2, 0] == 0].mean())


def test_grids_are_brought_to_the_finest() -> None:
    sites = [Site("fine", "denoiser", "cross", 1), Site("coarse", "denoiser", "cross", 2)]
    tape = {"fine": torch.full((1, 2, 16, 3), 0.2), "coarse": torch.full((1, 1, 4, 3), 0.4)}
    maps = mean_map(tape, sites, (4, 4), 1)
    assert maps.shape == (1, 3, 4, 4)
    torch.testing.assert_close(maps, torch.full_like(maps, 0.3))


def two_halves() -> Subject:
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    concepts = (Concept("a", "<a>", "dog"), Concept("b", "<b>", "cat"))
    masks = {"a": (left,), "b": (left.flip(-1),)}
    return replace(make_subject(images=1), concepts=concepts, masks=masks)


def losses(backbone: Backbone, subject: Subject, **settings: Any) -> Any:
    phase = Phase("p", 1, batch={"subject": 1}, lr={"*": 0.1})
    uses = [catalogue().get("techniques", "tokens.rare")(), LocalizationLoss(**settings), Probe()]
    return fit(make_recipe(uses, phase), subject, backbone)[0].losses


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_term_is_weighed_and_named(backbone: Backbone, mode: str) -> None:
    one, two = (losses(backbone, two_halves(), mode=mode, weight=w) for w in (1.0, 2.0))
    assert one["localization"] != 0.0
    assert two["localization"] == pytest.approx(2 * one["localization"], rel=1e-4)


def test_without_regions_or_weight_there_is_no_term(backbone: Backbone) -> None:
    assert "localization" not in losses(backbone, make_subject())
    assert "localization" not in losses(backbone, two_halves(), weight=0.0)


def test_a_grid_that_is_not_there_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match=r"at scale 8 \(scales there: 1, 2\)"):
        losses(backbone, two_halves(), scale=8)


STEPS: list[Any] = []


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        STEPS.append(step)


def one_step(backbone: Backbone, subject: Subject, rows: int, **settings: Any) -> tuple[Any, float]:
    """Return a step of ``rows`` rows, and the term of its only subject."""
    STEPS.clear()
    phase = Phase("p", 1, batch={"subject": rows}, lr={"*": 0.1})
    word = catalogue().get("techniques", "tokens.learnable")(vectors=2, noise=0.5)
    uses = [word, Spy(), LocalizationLoss(weight=1.0, **settings)]
    artifact = fit(make_recipe(uses, phase), subject, backbone)[0]
    return STEPS[0], artifact.losses["localization"]


def grids_of(backbone: Backbone, step: Any) -> dict[int, torch.Tensor]:
    """Return the maps [b y x m] of each grid: the mean over all heads of all layers there."""
    heads: dict[int, list[torch.Tensor]] = {}
    for site in backbone.sites:
        if site.kind == "cross" and site.name in step.tape:
            probs = step.tape[site.name].detach()  # [b h n m]
            side = int(probs.shape[2] ** 0.5)
            heads.setdefault(side, []).append(probs.unflatten(2, (side, side)))
    return {side: torch.cat(maps, dim=1).mean(1) for side, maps in heads.items()}


def test_mix_of_shows_term_is_that_of_its_release(backbone: Backbone) -> None:
    """Written from `trainer_edlora.py`: a term for each grid and word, the peak and the mean over the batch."""
    mask = torch.zeros(1, 32, 32)
    mask[..., :20] = 1.0
    subject = replace(make_subject(images=2), masks={"fido": (mask, mask.flip(-1))})
    released = {"mode": "outside", "grids": "each", "tokens": "sum", "peaks": "batch"}
    step, actual = one_step(backbone, subject, 3, masks="nearest", **released)
    region = step.batch.regions["mask.concept.0"]
    span = step.cond.spans["concept.0"]
    expected, terms = 0.0, 0
    for side, maps in grids_of(backbone, step).items():
        inside = F.interpolate(region, (side, side), mode="nearest")[:, 0]
        for word in range(2):
            word_maps = torch.stack([m[..., p] for m, p in zip(maps, span[:, word], strict=True)])
            word_maps = word_maps / word_maps.max()
            expected += float(word_maps[inside == 0].mean())
            terms += 1
    assert terms == 4  # two words on the two grids of this network; eight in Stable Diffusion
    assert actual == pytest.approx(expected, rel=1e-5)


def test_the_mean_over_a_word_s_tokens_is_their_sum_divided_by_their_number(
    backbone: Backbone,
) -> None:
    left = torch.zeros(1, 32, 32)
    left[..., :20] = 1.0
    subject = replace(make_subject(images=2), masks={"fido": (left, left.flip(-1))})
    total, mean = (one_step(backbone, subject, 3, tokens=t)[1] for t in ("sum", "mean"))
    assert mean == pytest.approx(total / 2, rel=1e-5)  # the word has two


@pytest.mark.parametrize(
    "other", [{"tokens": "mean"}, {"grids": "finest"}, {"peaks": "row"}, {"mode": "split"}]
)
def test_each_of_its_reductions_matters(backbone: Backbone, other: dict[str, str]) -> None:
    mask = torch.zeros(1, 32, 32)
    mask[..., :20] = 1.0
    subject = replace(make_subject(images=2), masks={"fido": (mask, mask.flip(-1))})
    released = {"mode": "outside", "grids": "each", "tokens": "sum", "peaks": "batch"}
    _, actual = one_step(backbone, subject, 3, **released)
    _, changed = one_step(backbone, subject, 3, **{**released, **other})
    assert changed != pytest.approx(actual, rel=1e-3)


def test_break_a_scenes_term_is_that_of_its_release(backbone: Backbone) -> None:
    """Written from `train.py`: each row's own peak, the mean squared difference, summed over concepts."""
    STEPS.clear()
    phase = Phase("p", 1, batch={"subject": 2}, lr={"*": 0.1})
    word = catalogue().get("techniques", "tokens.learnable")(noise=0.5)
    loss = LocalizationLoss(weight=0.01, scale=1, sites="cross@down|cross@up", masks="nearest")
    artifact = fit(make_recipe([word, Spy(), loss], phase), two_halves(), backbone)[0]
    (step,) = STEPS
    side = step.noisy.shape[-1]
    maps = grids_of(backbone, step)[side]
    expected = 0.0
    for row in range(2):
        for concept in range(2):
            word_map = maps[row, ..., int(step.cond.spans[f"concept.{concept}"][row, 0])]
            mask = step.batch.regions[f"mask.concept.{concept}"][row, 0]
            expected += float(F.mse_loss(word_map / word_map.max(), mask)) / 2
    assert artifact.losses["localization"] == pytest.approx(0.01 * expected, rel=1e-5)


def stepped(concepts: int = 2, side: int = 8) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Return a run of two sites, a step of two rows on latents of ``side``, and its regions."""
    rng = torch.Generator().manual_seed(4)
    sites = [Site("fine", "denoiser", "cross", 1), Site("coarse", "denoiser", "cross", 2)]
    tape = {
        "fine": torch.rand(2, 3, side**2, 9, generator=rng).softmax(-1),
        "coarse": torch.rand(2, 2, (side // 2) ** 2, 9, generator=rng).softmax(-1),
    }
    regions = {
        f"mask.concept.{k}": (torch.rand(2, 1, side, side, generator=rng) > 0.5).float()
        for k in range(concepts)
    }
    spans = {f"concept.{k}": torch.tensor([[2 + 3 * k, 3 + 3 * k]] * 2) for k in range(concepts)}
    if concepts == 2:
        spans["concept.1"][1] = -1  # the second row names the first subject alone
    batch = SimpleNamespace(regions=regions, rows=lambda role: torch.ones(2, dtype=torch.bool))
    noisy = torch.zeros(2, 4, side, side)
    step = SimpleNamespace(batch=batch, cond=SimpleNamespace(spans=spans), tape=tape, noisy=noisy)
    return SimpleNamespace(sites=lambda glob: sites), step, regions


def released(step: Any, sites: tuple[str, ...]) -> torch.Tensor:
    """Return the authors' loss [b]: mean over layers, heads and a row's subjects of outside less inside."""
    rows = []
    for row in range(2):
        layers = []
        for name in sites:
            probs = step.tape[name][row]
            side = int(probs.shape[1] ** 0.5)
            values = []
            for k in range(2):
                at = int(step.cond.spans[f"concept.{k}"][row].max())
                if at < 0:
                    continue
                mask = torch.nn.functional.interpolate(
                    step.batch.regions[f"mask.concept.{k}"][row : row + 1],
                    (side, side),
                    mode="bilinear",
                    antialias=True,
                ).flatten()
                maps = probs[:, :, at]
                outside = (maps * (1 - mask)).sum(1) / ((1 - mask).sum() + 1e-5)
                values.append((outside - (maps * mask).sum(1) / (mask.sum() + 1e-5)).mean())
            layers.append(torch.stack(values).mean())
        rows.append(torch.stack(layers).mean())
    return torch.stack(rows)


def test_fastcomposer_s_loss_is_the_mean_over_subjects_heads_and_layers_on_each_layer_s_grid() -> (
    None
):
    run, step, _ = stepped()
    loss = LocalizationLoss(
        mode="contrast", grids="site", masks="bilinear", concepts="mean", tokens="last", weight=1e-3
    )
    term = loss.regularize(run, step)
    torch.testing.assert_close(term.value, released(step, ("fine", "coarse")), atol=1e-6, rtol=1e-4)
    assert term.weight == 1e-3


def test_a_row_of_two_subjects_counts_once_where_their_mean_is_taken() -> None:
    run, step, _ = stepped()
    for k in (0, 1):
        step.cond.spans[f"concept.{k}"] = torch.tensor([[2, 3]] * 2)
        step.batch.regions[f"mask.concept.{k}"] = torch.ones(2, 1, 8, 8).tril()
    mean, total = (
        LocalizationLoss(mode="contrast", concepts=c).regularize(run, step).value
        for c in ("mean", "sum")
    )
    torch.testing.assert_close(total, 2 * mean)


def test_a_word_may_be_the_first_token_of_its_text() -> None:
    """T5's texts have no token before the first word."""
    run, step, _ = stepped(concepts=1)
    step.cond.spans["concept.0"] = torch.tensor([[0, 1]] * 2)
    both = LocalizationLoss(mode="contrast", tokens="sum").regularize(run, step).value
    parts = []
    for position in (0, 1):
        step.cond.spans["concept.0"] = torch.tensor([[position]] * 2)
        parts.append(LocalizationLoss(mode="contrast", tokens="sum").regularize(run, step).value)
    torch.testing.assert_close(both, parts[0] + parts[1])
    assert (parts[0] - parts[1]).abs().min() > 1e-5


def test_the_last_token_alone_is_held_where_the_recipe_says_so() -> None:
    run, step, _ = stepped()
    loss = LocalizationLoss(mode="contrast", tokens="last")
    before = loss.regularize(run, step).value
    for name in step.tape:
        step.tape[name] = step.tape[name].clone()
        step.tape[name][..., 2] += 0.3 * torch.rand(step.tape[name].shape[:-1])  # no last token
    torch.testing.assert_close(loss.regularize(run, step).value, before)
    both = LocalizationLoss(mode="contrast").regularize(run, step).value
    assert not torch.allclose(both, before)


def test_fastcomposer_holds_the_five_middle_groups_of_blocks_of_stable_diffusion() -> None:
    """``unet_store_cross_attention_scores`` with 5 of 7 groups: all but the outermost of SD 1.5."""
    from fnmatch import fnmatchcase

    from pcs_core import load_recipe

    (use,) = (
        u for u in load_recipe("fastcomposer").uses if u.name == "attention.localization_loss"
    )
    globs = use.technique.settings()["sites"].split("|")
    groups = [
        "down_blocks.0",
        "down_blocks.1",
        "down_blocks.2",
        "mid_block",
        "up_blocks.1",
        "up_blocks.2",
        "up_blocks.3",
    ]
    names = [f"{g}.attentions.0.transformer_blocks.0.attn2" for g in groups]
    covered = [any(fnmatchcase(name, glob) for glob in globs) for name in names]
    assert covered == [False, True, True, True, True, True, False]
