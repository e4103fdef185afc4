"""The pictures read the reference; the reference reads no picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_attention.reference_rows import Shifted, adain
from pcs_attention.shared_attention import SharedAttention
from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Attachment, Backbone
from pcs_core.data import AttnEdit, Conditioning, Features, Subject
from pcs_testing import build_fusion, make_recipe, make_subject

BEHIND = 1  # the engine puts added rows behind the pictures


class Inverted(Technique):
    id = "test.inverted"

    @hookimpl
    def extract(self, moment: str) -> Features:
        rng = torch.Generator().manual_seed(0)
        way = torch.randn(4, 4, 16, 16, generator=rng)
        return Features(tensors={"ddim.trajectory": way}, keep=("ddim.trajectory",))


def look(
    backbone: Backbone, latents: torch.Tensor, *, rows: int, reference: int | None, **settings: Any
) -> torch.Tensor:
    fusion = build_fusion(
        make_recipe([SharedAttention(**settings)]), [Subject("s", concepts=())], backbone
    )
    rng = torch.Generator().manual_seed(5)
    text = torch.randn(2, 24, 32, generator=rng)[:rows]
    extra = {} if reference is None else {"row.reference": torch.full((rows,), reference)}
    level = backbone.process.level(torch.full((rows,), 500))
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        return net.evaluate(latents[:rows], level, Conditioning(text=text, extra=extra)).output


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def test_sharing_goes_one_way(backbone: Backbone, latents: torch.Tensor) -> None:
    both = look(backbone, latents, rows=2, reference=0)
    alone = look(backbone, latents, rows=1, reference=None)
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-5)
    moved = latents.clone()
    moved[0] += 0.5
    assert (look(backbone, moved, rows=2, reference=0)[1] - both[1]).abs().max() > 1e-3
    moved = latents.clone()
    moved[1] += 0.5
    assert torch.equal(look(backbone, moved, rows=2, reference=0)[0], both[0])


@pytest.mark.parametrize(
    "settings", [{"share": ("attention",)}, {"share": ("norm",)}, {"align": False}, {"shift": 0.7}]
)
def test_every_part_acts(
    backbone: Backbone, latents: torch.Tensor, settings: dict[str, Any]
) -> None:
    whole = look(backbone, latents, rows=2, reference=0)
    part = look(backbone, latents, rows=2, reference=0, **settings)
    none = look(backbone, latents, rows=2, reference=0, share=())
    assert (part[1] - whole[1]).abs().max() > 1e-5
    assert (part[1] - none[1]).abs().max() > 1e-5
    torch.testing.assert_close(part[0], none[0], rtol=0, atol=1e-5)


def test_adain_takes_mean_and_spread() -> None:
    rng = torch.Generator().manual_seed(0)
    x, style = torch.randn(2, 50, 3, generator=rng), 2 * torch.randn(2, 50, 3, generator=rng) + 1
    normalised = adain(x, style)
    torch.testing.assert_close(normalised.mean(1), style.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.std(1), style.std(1), rtol=1e-3, atol=0)


def test_a_drawn_reference_has_its_own_noise_and_the_first_prompt(backbone: Backbone) -> None:
    (row,) = build_fusion(make_recipe([SharedAttention()]), [make_subject()], backbone).rows
    assert (row.role, row.latents, row.prompt) == ("reference", "noise", "{prompt}")


def test_an_inverted_reference_is_shown_with_the_noun_and_a_shift(backbone: Backbone) -> None:
    recipe = make_recipe([Inverted(), SharedAttention()])
    fusion = build_fusion(recipe, [make_subject()], backbone)
    (row,) = fusion.rows
    assert (row.latents, row.key, row.prompt) == (
        "trajectory",
        "ddim.trajectory",
        "a picture of a dog",
    )
    shifts = [e.shift for e in fusion.of(AttnEdit) if e.stage() == "bias"]  # type: ignore[attr-defined]
    assert shifts == pytest.approx([0.6931472] * len(backbone_selves(backbone)))
    (artifact,) = fit(recipe, make_subject(), backbone)
    shared = sample(artifact, backbone, "a <fido>", steps=3, scheduler="ddim")
    plain = sample(None, backbone, "a <fido>", steps=3, scale=2.0, scheduler="ddim")
    assert (shared - plain).abs().max() > 1e-4


def backbone_selves(backbone: Backbone) -> list[Any]:
    return [s for s in backbone.sites if s.part == "denoiser" and s.kind == "self"]


def test_logits_are_shifted_where_there_is_a_shift_alone(backbone: Backbone) -> None:
    def shifts(**settings: Any) -> int:
        fusion = build_fusion(
            make_recipe([SharedAttention(**settings)]), [Subject("s", concepts=())], backbone
        )
        return sum(isinstance(edit, Shifted) for edit in fusion.of(AttnEdit))

    sites = len([s for s in backbone.sites if s.kind == "self" and s.part == "denoiser"])
    assert shifts() == shifts(shift=0.0) == shifts(shift=1.0, replace=True) == 0
    assert shifts(shift=1.0) == sites
