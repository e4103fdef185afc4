"""peft's parameterisations: no-op at the start, gradients, exact ejection, side by side, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, load, recipe_from_document, sample, save
from pcs_core.backbone import Attachment, Backbone, trainable
from pcs_core.data import Fusion, Phase, WeightEdit
from pcs_core.errors import CapabilityError, ConflictError
from pcs_testing import (
    Snapshot,
    build_fusion,
    evaluate,
    evaluate_attached,
    make_recipe,
    make_subject,
    perturb,
)
from pcs_weights.lora import LoRA
from pcs_weights.parameterised import Peft

KINDS = ("lora", "rslora", "dora", "loha", "lokr", "boft", "oft")
LINEAR = "*.to_q|*.to_k|*.to_v|*.to_out.0"
SITE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
PROMPTS = ("a photo of a dog", "a red toy on the beach")
WHERE: dict[str, dict[str, Any]] = {
    "linear": {"sites": LINEAR},
    "conv": {"sites": "mid_block*.conv1|*.conv_shortcut", "convolutions": True},
    "text": {"sites": "*_proj|*.fc1", "part": "text"},
}
CASES = [(k, w) for k in KINDS for w in WHERE if (k, w) != ("oft", "conv")]

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def fusion_of(backbone: Backbone, uses: dict[str, Any] | Any) -> Fusion:
    recipe = make_recipe(uses if isinstance(uses, dict) else [uses])
    return build_fusion(recipe, [make_subject()], backbone)


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_no_op_gradients_and_exact_ejection(backbone: Backbone, kind: str, where: str) -> None:
    before, plain = Snapshot(backbone), evaluate(backbone, prompts=PROMPTS)
    fusion = fusion_of(backbone, Peft(kind=kind, **WHERE[where]))
    before.assert_unchanged()
    assert torch.equal(evaluate(backbone, fusion, PROMPTS), plain)
    before.assert_unchanged()
    perturb(fusion, scale=0.1)
    owned = trainable(fusion)
    with Attachment(backbone, fusion, fitting=True) as net:
        output = evaluate_attached(net, PROMPTS).output
        assert (output - plain).abs().max() > 1e-5
        output.square().mean().backward()
        foreign = [
            n
            for part in backbone.parts.values()
            for n, p in part.named_parameters()
            if p.requires_grad and not any(p is q for q in owned.values())
        ]
        assert not foreign
        base = evaluate_attached(net, PROMPTS, model="base").output
    assert torch.equal(base, plain)
    assert owned
    for name, param in owned.items():
        assert param.dtype == torch.float32
        assert param.grad is not None, name
        assert param.grad.abs().max() > 0, name
    before.assert_unchanged()
    # put in again, it is what it was
    assert torch.equal(evaluate(backbone, fusion, PROMPTS), output.detach())


def test_names_are_of_the_bare_layers(backbone: Backbone) -> None:
    names = trainable(fusion_of(backbone, {"mine": Peft(kind="lora", sites="*.attn2.to_k")}))
    assert all(n.startswith("mine/peft-denoiser/") for n in names)
    assert not any("base_layer" in n or "base_model" in n or "pcs" in n for n in names)


def test_oft_on_three_by_three_convolutions_is_refused_by_name(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match=r"oft .* kernel above 1 .*boft"):
        fusion_of(backbone, Peft(kind="oft", sites="mid_block*.conv1", convolutions=True))
    plain = evaluate(backbone)
    pointwise = fusion_of(backbone, Peft(kind="oft", sites="*.conv_shortcut", convolutions=True))
    assert (evaluate(backbone, pointwise) - plain).abs().max() < 1e-6


def test_no_matching_layer_is_an_error(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match=r"no layer of part 'denoiser' matches 'nothing'"):
        fusion_of(backbone, Peft(sites="nothing"))
    with pytest.raises(CapabilityError, match="no layer"):  # convolutions are left out by default
        fusion_of(backbone, Peft(sites="*.conv1"))


@pytest.mark.parametrize("second", ["lora", "loha", "boft"])
def test_a_second_injection_does_not_silence_the_first(backbone: Backbone, second: str) -> None:
    first = {"first": Peft(kind="lora", sites="*.to_q")}
    other = {"second": Peft(kind=second, sites="*.to_v")}
    plain = evaluate(backbone)
    before = Snapshot(backbone)
    both = fusion_of(backbone, {**first, **other})
    assert torch.equal(evaluate(backbone, both), plain)
    perturb(both, scale=0.2)
    with Attachment(backbone, both, fitting=True) as net:
        evaluate_attached(net, PROMPTS).output.square().mean().backward()
    for name, param in trainable(both).items():
        assert param.requires_grad
        assert param.grad is not None, name
        assert param.grad.abs().max() > 0, name
    # each one acts: without it the answer is another, and the glob chooses
    together = evaluate(backbone, both)
    for use in ("first", "second"):
        alone = evaluate(backbone, both, edits=use)
        assert (alone - plain).abs().max() > 1e-4
        assert (alone - together).abs().max() > 1e-4
    before.assert_unchanged()


def test_two_on_one_layer_conflict_by_name(backbone: Backbone) -> None:
    with pytest.raises(ConflictError, match=r"'first' and 'second' both claim the weight of"):
        fusion_of(backbone, {"first": Peft(sites="*.to_q"), "second": Peft(sites="*.to_q")})


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_beside_it_on_the_same_layers_acts(backbone: Backbone, kind: str) -> None:
    """Some kinds never call the layer inside them: an edit bound there would be lost."""
    uses = {"peft": Peft(kind=kind, sites="*.to_v"), "lora": LoRA(sites="*.to_v")}
    both = fusion_of(backbone, uses)
    alone = fusion_of(backbone, {"lora": LoRA(sites="*.to_v")})
    for fusion in (both, alone):
        with torch.no_grad():
            for edit in fusion.of(WeightEdit):
                rng = torch.Generator().manual_seed(1)
                edit.B.copy_(torch.randn(edit.B.shape, generator=rng) * 0.2)
    # peft is at its start, a no-op: what moves the output is the LoRA alone
    torch.testing.assert_close(
        evaluate(backbone, both), evaluate(backbone, alone), rtol=1e-4, atol=1e-5
    )
    assert (evaluate(backbone, alone) - evaluate(backbone)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(backbone: Backbone, tmp_path: Path, kind: str) -> None:
    recipe = recipe_from_document(
        {
            "recipe": {"id": "peft"},
            "use": [{"technique": "weights.peft", "kind": kind, "sites": "*.to_v"}],
            "phase": [{"name": "p", "steps": 2, "lr": 1e-2}],
            "sample": {"steps": 2, "scale": 2.0},
        }
    )
    (artifact,) = fit(recipe, make_subject(), backbone)
    save(artifact, tmp_path / "artifact")
    loaded = load(tmp_path / "artifact")
    first, second = (sample(p, backbone, "a photo of <fido>") for p in (artifact, loaded))
    plain = sample(None, backbone, "a photo of <fido>", steps=2, scale=2.0, scheduler="ddim")
    assert torch.equal(first, second)
    assert (first - plain).abs().max() > 1e-4


def test_the_start_is_drawn_from_the_runs_seed(backbone: Backbone) -> None:
    state = torch.get_rng_state()
    made = [trainable(fusion_of(backbone, Peft(kind="lora"))) for _ in range(2)]
    other = trainable(
        build_fusion(make_recipe([Peft(kind="lora")]), [make_subject()], backbone, seed=1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    names = [n for n in made[0] if "lora_A" in n]
    assert names
    assert all(torch.equal(made[0][n], made[1][n]) for n in names)
    assert not any(torch.equal(made[0][n], other[n]) for n in names)


def test_a_half_precision_network_gets_fp32_adapters() -> None:
    from pcs_core import open_backbone

    backbone: Any = open_backbone("tiny")
    backbone.denoiser.to(torch.bfloat16)
    fusion = fusion_of(backbone, Peft(kind="lora", sites="*.to_v"))
    assert {p.dtype for p in trainable(fusion).values()} == {torch.float32}


def test_a_phase_may_train_part_of_it(backbone: Backbone) -> None:
    phase = Phase("p", 2, lr={"*": 1e-2}, train=("*lora_B*",))
    recipe = make_recipe([Peft(kind="lora", sites="*.to_v")], phase)
    start = trainable(build_fusion(recipe, [make_subject()], backbone))
    (artifact,) = fit(recipe, make_subject(), backbone)
    for name, tensor in artifact.tensors.items():
        assert torch.equal(tensor, start[name].detach()) == ("lora_A" in name)


def rotations(fusion: Fusion) -> dict[str, torch.Tensor]:
    """Return the generators [blocks, n] by layer."""
    return {n: p for n, p in trainable(fusion).items() if "oft_R" in n}


def test_oft_counts_blocks_or_their_size(backbone: Backbone) -> None:
    width = backbone.parts["denoiser"].get_submodule(SITE).in_features
    for settings, blocks in (({"blocks": 4}, 4), ({"rank": 8}, width // 8)):
        (rotation,) = rotations(
            fusion_of(backbone, Peft(kind="oft", sites=SITE, **settings))
        ).values()
        size = width // blocks
        assert rotation.shape == (blocks, size * (size - 1) // 2)
    shared = Peft(kind="oft", sites=SITE, blocks=4, block_share=True)
    assert next(iter(rotations(fusion_of(backbone, shared)).values())).shape[0] == 1


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_coft_stays_near_the_identity(backbone: Backbone, eps: float) -> None:
    technique = Peft(kind="oft", sites=SITE, blocks=4, coft=True, eps=eps)
    fusion = fusion_of(backbone, technique)
    perturb(fusion, scale=0.5)
    moved = (evaluate(backbone, fusion) - evaluate(backbone)).abs().max()
    assert (moved > 0) == (eps > 0)
    (rotation,) = rotations(fusion).values()
    norms = (2.0 * rotation.detach().square().sum(1)).sqrt()  # of the skew-symmetric matrix
    size = backbone.parts["denoiser"].get_submodule(SITE).in_features // 4
    reached = eps * size**2 / 2
    torch.testing.assert_close(norms, torch.full_like(norms, reached), rtol=1e-4, atol=1e-9)
    free = fusion_of(backbone, Peft(kind="oft", sites=SITE, blocks=4))
    perturb(free, scale=0.5)
    assert (evaluate(backbone, free) - evaluate(backbone)).abs().max() > 10 * moved
