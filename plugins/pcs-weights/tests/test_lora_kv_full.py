"""LoRA, key/value deltas and full fine-tuning against what their papers define."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import Backbone, trainable
from pcs_core.data import AttnEdit, Conditioning, Fusion, Phase, Site, WeightEdit
from pcs_core.errors import ConflictError
from pcs_testing import Snapshot, build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.full import FullFinetune
from pcs_weights.kv import KVDelta
from pcs_weights.lora import LoRA, LowRank


def fusion_of(backbone: Backbone, technique: Any, *, moved: bool = True) -> Fusion:
    fusion = build_fusion(make_recipe([technique]), [make_subject()], backbone)
    if moved:
        perturb(fusion, scale=0.2)
    return fusion


def merged(backbone: Any, fusion: Fusion, deltas: dict[str, Tensor]) -> Tensor:
    """The network's answer with the deltas added to its weights, restored after."""
    weights = {n: backbone.denoiser.get_submodule(n).weight for n in deltas}
    kept = {n: w.detach().clone() for n, w in weights.items()}
    with torch.no_grad():
        for name, delta in deltas.items():
            weights[name] += delta.reshape(weights[name].shape)
        answer = evaluate(backbone)
        for name, weight in weights.items():
            weight.copy_(kept[name])
    return answer


@pytest.mark.parametrize(
    ("sites", "kind"),
    [("*.to_q|*.to_out.0", "linear"), ("*", "conv"), ("time_embedding*", "linear")],
)
def test_lora_is_w_plus_scaled_b_a(sites: str, kind: Any) -> None:
    backbone: Any = open_backbone(
        "tiny"
    )  # in fp32 rounding alone comes near the bound on some processors
    backbone.denoiser.double()
    backbone.dtype = torch.float64
    fusion = fusion_of(backbone, LoRA(rank=2, alpha=3.0, sites=sites, kind=kind))
    for edit in fusion.edits:
        edit.double()
    assert fusion.of(WeightEdit)
    if kind == "conv":  # strided and pointwise ones are among them
        assert any("downsamplers" in e.name for e in fusion.of(WeightEdit))
    deltas = {e.name: 3.0 / 2 * (e.B[0] @ e.A[0]).detach() for e in fusion.of(WeightEdit)}
    plain = evaluate(backbone)
    ours = evaluate(backbone, fusion)
    assert (ours - plain).abs().max() > 1e-3
    torch.testing.assert_close(ours, merged(backbone, fusion, deltas), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_each_row_s_convolution_has_its_subject_s_update(
    kernel: int, stride: int, frames: int
) -> None:
    """Two subjects in one forward, grids that are no squares; frames of a clip are rows side by side."""
    site = Site("x", "denoiser", "conv", shape=(6, 4, kernel, kernel))
    edit = LowRank(site, torch.randn(2, 3, 4 * kernel * kernel), 0.5)
    torch.nn.init.normal_(edit.B)
    weight, x = torch.randn(site.shape), torch.randn(3 * frames, 4, 7, 11)
    given = {"stride": stride, "padding": kernel // 2}
    y = F.conv2d(x, weight, **given)
    subject = torch.tensor([1, 0, 1])
    with torch.no_grad():
        added = edit.residual(x, y, Conditioning(text=torch.zeros(3, 1, 1), subject=subject))
        for row, which in enumerate(subject.repeat_interleave(frames).tolist()):
            delta = 0.5 * (edit.B[which] @ edit.A[which]).reshape(weight.shape)
            expected = F.conv2d(x[row : row + 1], delta, **given)
            torch.testing.assert_close(added[row : row + 1], expected, atol=1e-4, rtol=1e-4)


def test_lora_sizes_and_default_scale(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, LoRA(rank=1000, sites="mid_block*.to_q"), moved=False)
    (q1, _) = fusion.of(WeightEdit)
    assert q1.A.shape == (1, 64, 64)  # no larger than the layer
    assert q1.scale == 1.0
    assert not q1.B.detach().any()
    assert q1.A.detach().std() > 0


@pytest.mark.parametrize("technique", [LoRA(sites="*", kind="*"), KVDelta(sites="attention")])
def test_a_half_precision_network(technique: Any) -> None:
    backbone: Any = open_backbone("tiny")
    exact = evaluate(backbone, fusion_of(backbone, technique))
    backbone.denoiser.to(torch.bfloat16)
    backbone.dtype = torch.bfloat16
    fusion = fusion_of(backbone, technique)
    assert {p.dtype for p in trainable(fusion).values()} == {torch.float32}
    rough = evaluate(backbone, fusion)
    assert rough.dtype == torch.bfloat16
    assert F.cosine_similarity(rough.float().flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("parts", [("k", "v"), ("q",), ("q", "k", "v")])
@pytest.mark.parametrize("sites", ["cross", "self"])
def test_deltas_are_added_to_the_projections(
    backbone: Backbone, sites: str, parts: tuple[Any, ...]
) -> None:
    fusion = fusion_of(backbone, KVDelta(sites=sites, parts=parts, strength=0.5))
    deltas = {
        f"{e.name}.to_{part}": 0.5 * getattr(e, part)[0].detach()
        for e in fusion.of(AttnEdit)
        for part in parts
    }
    assert all(k == sites for k in {e.site.kind for e in fusion.of(AttnEdit)})
    ours = evaluate(backbone, fusion)
    assert (ours - evaluate(backbone)).abs().max() > 1e-3
    torch.testing.assert_close(ours, merged(backbone, fusion, deltas), rtol=1e-4, atol=2e-5)


def test_only_keys_and_values_of_text_attention_by_default(backbone: Backbone) -> None:
    names = list(trainable(fusion_of(backbone, KVDelta())))
    assert {n.rsplit("/", 1)[1] for n in names} == {"k", "v"}
    assert all("attn2" in n for n in names)


@pytest.mark.parametrize("parts", [("denoiser",), ("text",), ("denoiser", "text")])
def test_full_owns_every_weight_of_its_parts(backbone: Backbone, parts: tuple[Any, ...]) -> None:
    before = Snapshot(backbone)
    fusion = fusion_of(backbone, FullFinetune(parts=parts), moved=False)
    named = {
        f"weights.full/{p}/{n}" for p in parts for n, _ in backbone.parts[p].named_parameters()
    }
    assert set(trainable(fusion)) == named
    plain = evaluate(backbone)
    assert torch.equal(evaluate(backbone, fusion), plain)
    perturb(fusion)
    assert (evaluate(backbone, fusion) - plain).abs().max() > 1e-3
    before.assert_unchanged()


def test_full_stores_the_difference(backbone: Backbone) -> None:
    name = "mid_block.resnets.0.conv1.weight"
    technique = FullFinetune(pattern="mid_block.resnets.0.conv1.*")
    (artifact,) = fit(
        make_recipe([technique], Phase("p", 2, lr={"*": 1e-3})), make_subject(), backbone
    )
    assert {k.rsplit(".", 1)[0] for k in artifact.tensors} == {
        "weights.full/denoiser/mid_block.resnets.0.conv1"
    }
    delta = artifact.tensors[f"weights.full/denoiser/{name}"]
    assert 0 < delta.abs().max() <= 2.1e-3  # two steps of adam at this rate


def test_full_and_an_injection_on_one_layer_conflict(backbone: Backbone) -> None:
    from pcs_weights.parameterised import Peft

    uses = {"all": FullFinetune(), "some": Peft(sites="*.to_q")}
    with pytest.raises(ConflictError, match=r"'all' and 'some' both claim the weight of"):
        build_fusion(make_recipe(uses), [make_subject()], backbone)


def test_full_and_lora_go_together(backbone: Backbone) -> None:
    uses = {"all": FullFinetune(), "some": LoRA()}
    fusion = build_fusion(make_recipe(uses), [make_subject()], backbone)
    perturb(fusion)
    both, one, other = (evaluate(backbone, fusion, edits=e) for e in ("*", "all", "some"))
    assert not torch.equal(both, one)
    assert not torch.equal(both, other)
    assert not torch.equal(one, other)


def test_a_lora_of_the_fit_is_left_out_of_sampling(backbone: Backbone) -> None:
    subject, prompt = make_subject(), "a photo of <fido>"
    phase = Phase("p", 3, lr={"*": 0.1})
    plain = sample(None, backbone, prompt, steps=2)
    for mode, alike in (("fit", True), ("both", False)):
        technique = LoRA.from_settings({"mode": mode})
        (artifact,) = fit(make_recipe([technique], phase), subject, backbone)
        assert max(t.abs().max() for n, t in artifact.tensors.items() if n.endswith("/B")) > 0.01
        drawn = sample(artifact, backbone, prompt, steps=2, scale=7.5)
        assert torch.equal(drawn, plain) == alike
