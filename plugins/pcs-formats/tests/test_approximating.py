"""What is no low-rank update, written as the nearest one: diffusers draws it, and its error is what we say."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from pcs_core import export, fit
from pcs_core.assembly import recipe_from_text
from pcs_core.backbone import import_tensors
from pcs_core.catalogue import catalogue
from pcs_core.data import Personalization, Phase, WeightEdit
from pcs_core.errors import CapabilityError
from pcs_core.storage import save
from pcs_diffusers.tiny import tiny, tiny_sd3
from pcs_diffusers.tiny_flux import tiny_flux
from pcs_formats.alphas import METADATA
from pcs_formats.approximating import can_be_approximated, truncated
from pcs_testing import evaluate, make_recipe, make_subject
from pcs_testing.fixtures import build

ALL = 4096
"""A rank that leaves nothing out."""


RECIPE = """
[recipe]
id = "text-projections"
name = "Keys and values"
backbones = ["sd"]

[[use]]
technique = "weights.kv"

[[phase]]
name = "fit"
steps = 1
train = ["weights.kv/*"]
"""


def technique(id: str, **settings: Any) -> Any:
    return catalogue().get("techniques", id).from_settings(settings)


def fitted(backbone: Any, *uses: Any) -> Personalization:
    named = {f"{use.id}:{number}": use for number, use in enumerate(uses)}
    recipe = make_recipe(named, Phase("p", 1, lr={"*": 1e-3}))
    artifact = fit(recipe, make_subject(), backbone)[0]
    return moved(artifact)


def moved(artifact: Personalization) -> Personalization:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        k: t + 0.05 * torch.randn(t.shape, generator=rng) for k, t in artifact.tensors.items()
    }
    return replace(artifact, tensors=tensors)


def predicted(artifact: Personalization, backbone: Any) -> torch.Tensor:
    fusion, _ = build(artifact.recipe, [make_subject()], backbone)
    import_tensors(fusion, dict(artifact.tensors))
    return evaluate(backbone, fusion)


CASES = {
    "kv": (tiny, [("weights.kv", {"parts": ["q", "k", "v"]})]),
    "kv-joint": (tiny_sd3, [("weights.kv", {"sites": "joint"})]),
    "full": (tiny, [("weights.full", {"pattern": "*attn*.to_?.weight"})]),
    "full-conv": (tiny, [("weights.full", {"pattern": "*downsamplers*.conv.weight"})]),
    "svd": (tiny, [("weights.svd", {"kinds": ["linear", "conv"]})]),
    "peft": (tiny, [("weights.peft", {"kind": "oft"})]),
    "kv-over-full": (
        tiny,
        [
            ("weights.kv", {"strength": 0.6}),
            ("weights.full", {"pattern": "*attn2.to_k.weight"}),
        ],
    ),
    "kv-twice": (tiny, [("weights.kv", {"strength": 1.7}), ("weights.kv", {"parts": ["v", "q"]})]),
    "peft-conv": (
        tiny,
        [
            (
                "weights.peft",
                {
                    "kind": "loha",
                    "convolutions": True,
                    "sites": "down_blocks.*.downsamplers.0.conv|*.conv2",
                },
            )
        ],
    ),
    "beside a LoRA": (
        tiny,
        [
            ("weights.lora", {"rank": 2, "sites": "*.to_k|*.to_out.0"}),
            ("weights.kv", {"parts": ["k"]}),
            ("weights.svd", {"sites": "*.to_out.0", "kinds": ["linear"]}),
        ],
    ),
}


@pytest.mark.parametrize(
    ("case", "to"),
    [*((case, "diffusers") for case in CASES), ("kv", "kohya"), ("full-conv", "kohya")],
)
def test_at_full_rank_diffusers_says_what_we_say(
    case: str, to: str, tmp_path: Path, pipeline_of: Any, evaluate_bare: Any
) -> None:
    make, uses = CASES[case]
    backbone: Any = make()
    artifact = fitted(backbone, *(technique(id, **settings) for id, settings in uses))
    plain, ours = evaluate(backbone), predicted(artifact, backbone)
    assert (ours - plain).abs().max() > 1e-3
    facts = export(artifact, tmp_path / "out", to=to, backbone=backbone, approximate=ALL)
    assert facts["approximation"]["errors"]["overall"] < 1e-4
    (file,) = facts["files"]
    loaded = pipeline_of(backbone)
    loaded.load_lora_weights(tmp_path / "out", weight_name=file)
    torch.testing.assert_close(evaluate_bare(backbone), ours, rtol=1e-3, atol=1e-4)
    loaded.unload_lora_weights()


@pytest.mark.parametrize(("case", "differ"), [("kv", True), ("svd", True), ("equal", False)])
def test_ranks_that_differ_are_said_for_readers_that_would_guess(
    case: str, differ: bool, tmp_path: Path
) -> None:
    """diffusers before 0.39 takes the most frequent rank for every layer's alpha."""
    lora = [("weights.lora", {"rank": 2})]
    make, uses = (tiny, lora) if case == "equal" else CASES[case]
    backbone: Any = make()
    artifact = fitted(backbone, *(technique(id, **settings) for id, settings in uses))
    export(artifact, tmp_path / "out", to="diffusers", backbone=backbone, approximate=ALL)
    with safe_open(tmp_path / "out" / "pytorch_lora_weights.safetensors", "pt") as file:
        said = json.loads(file.metadata().get(METADATA, "{}"))
        ranks = {
            key.removesuffix(".lora_A.weight"): file.get_slice(key).get_shape()[0]
            for key in file.keys()  # noqa: SIM118 - safe_open is no mapping
            if key.endswith(".lora_A.weight")
        }
    assert (len(set(ranks.values())) > 1) == bool(said) == differ
    for name, rank in ranks.items() if said else ():
        network, _, path = name.partition(".")
        assert path in said[f"{network}.target_modules"]
        for usual, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
            assert said[f"{network}.{pattern}"].get(f"^{path}", said[f"{network}.{usual}"]) == rank


def test_the_command_says_what_is_left_out(
    tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tiny()
    recipe = recipe_from_text(RECIPE, "a recipe", backbone=backbone)
    artifact = fit(recipe, make_subject(), backbone)[0]
    save(moved(artifact), tmp_path / "dog")
    words = ("export", tmp_path / "dog", "--backbone", "tiny", "--approximate", 3)
    assert run_pcs(*words, "--to", "diffusers", "--out", tmp_path / "out", "--json") == 0
    said = json.loads(capsys.readouterr().out)["approximation"]
    assert said["rank"] == 3
    assert 0.1 < said["errors"]["overall"] < 1.0
    assert run_pcs(*words, "--to", "kohya", "--out", tmp_path / "kohya") == 0
    assert f"rank 3: {said['errors']['overall']:.1%} of what was learned" in capsys.readouterr().err
    assert run_pcs(*words, "--to", "ip-adapter", "--out", tmp_path / "none") != 0
    assert "ip-adapter has no setting 'approximate'" in capsys.readouterr().err


def test_the_error_is_that_of_the_singular_values_left_out(tmp_path: Path) -> None:
    backbone = tiny()
    artifact = fitted(backbone, technique("weights.kv"))
    left, whole = 0.0, 0.0
    for delta in artifact.tensors.values():
        values = torch.linalg.svdvals(delta.double())
        left, whole = left + float(values[3:].square().sum()), whole + float(values.square().sum())
    facts = export(artifact, tmp_path / "out", to="diffusers", backbone=backbone, approximate=3)
    errors = facts["approximation"]["errors"]
    assert errors.keys() == {"linear", "overall"}
    assert errors["linear"] == pytest.approx(sqrt(left / whole), rel=1e-3)
    assert errors["overall"] == errors["linear"]
    with safe_open(tmp_path / "out" / facts["files"][0], "pt") as file:
        said = json.loads(file.metadata()["pcs.approximation"])
        ranks = {file.get_slice(k).get_shape()[0] for k in file.keys() if "lora_A" in k}  # noqa: SIM118
    assert said == facts["approximation"]
    assert ranks == {3}
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"rank 3: {errors['overall']:.1%} of what was learned is left out" in text


def test_what_no_such_file_holds_counts_as_left_out(tmp_path: Path) -> None:
    backbone = tiny()
    artifact = fitted(backbone, technique("weights.full"))
    facts = export(artifact, tmp_path / "out", to="diffusers", backbone=backbone, approximate=ALL)
    errors = facts["approximation"]["errors"]
    assert errors["norm"] == errors["bias"] == 1.0
    assert errors["linear"] < 1e-4
    assert errors["conv"] < 1e-4
    size = {"kept": 0.0, "lost": 0.0}
    for change in artifact.tensors.values():
        matrix = change.dim() > 1
        size["kept" if matrix else "lost"] += float(change.square().sum())
    assert errors["overall"] == pytest.approx(sqrt(size["lost"] / sum(size.values())), rel=1e-2)


@pytest.mark.parametrize(
    ("make", "id", "settings", "message"),
    [
        (tiny, "weights.bottleneck", {}, r"no change of the layer's weight"),
        (tiny_flux, "weights.kv", {"sites": "joint"}, r"single.*share the layer of its 'k'"),
    ],
)
def test_what_is_no_change_of_a_weight_is_refused_by_name(
    make: Any, id: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    backbone = make()
    artifact = fitted(backbone, technique(id, **settings))
    with pytest.raises(CapabilityError, match=r"--approximate RANK"):
        export(artifact, tmp_path / "out", to="diffusers", backbone=backbone)
    with pytest.raises(CapabilityError, match=message):
        export(artifact, tmp_path / "out", to="diffusers", backbone=backbone, approximate=4)


def test_norms_count_as_left_out_however_they_change(tmp_path: Path) -> None:
    backbone = tiny()
    norms = {"kind": "norm", "layers": "norm", "sites": "*attentions*norm1", "bias": True}
    uses = technique("weights.imported_weight", **norms), technique("weights.kv")
    artifact = fitted(backbone, *uses)
    facts = export(artifact, tmp_path / "out", to="diffusers", backbone=backbone, approximate=ALL)
    errors = facts["approximation"]["errors"]
    assert errors["norm"] == errors["bias"] == 1.0
    assert errors["linear"] < 1e-4
    kept, lost = 0.0, 0.0
    strengths = {"w_norm": "strength", "bias": "strength_bias"}
    for name, value in artifact.tensors.items():
        stem, _, parameter = name.rpartition("/")
        if parameter in strengths:
            change = value * artifact.tensors[f"{stem}/{strengths[parameter]}"]
            lost += float(change.square().sum())
        elif name.startswith("weights.kv:"):
            kept += float(value.square().sum())
    expected = sqrt(lost / (kept + lost))
    assert errors["overall"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        ({"start": 0.3}, {}),
        ({"stop": 0.7}, {}),
        ({"mode": "sample"}, {}),
        ({}, {"group": "references"}),
    ],
)
def test_what_acts_for_a_part_alone_cannot_be_approximated(
    make: dict[str, Any], change: dict[str, str]
) -> None:
    site = next(site for site in tiny().sites if site.kind == "linear")
    whole, part = Scaled(site), Scaled(site, **make)
    vars(part).update(change)
    assert can_be_approximated(whole)
    assert not can_be_approximated(part)


class Scaled(WeightEdit):
    """Doubles a weight."""

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        """Return twice the weight."""
        return 2 * weight


def test_what_cannot_be_approximated_is_refused_though_it_is_asked_for(tmp_path: Path) -> None:
    backbone = tiny()
    uses = technique("encoders.image", model="tiny.image"), technique("tokens.rare", identifier="")
    adapter = technique("attention.parallel_adapter", key="image", projector="linear", tokens=2)
    artifact = fitted(backbone, *uses, adapter, technique("weights.kv"))
    for options in ({}, {"approximate": 4}):
        with pytest.raises(CapabilityError, match="'attention.parallel_adapter:2' .*") as refused:
            export(artifact, tmp_path / "out", to="diffusers", backbone=backbone, **options)
        assert "--approximate" not in str(refused.value)


def test_a_network_in_few_bits_is_not_approximated(tmp_path: Path) -> None:
    backbone = tiny()
    artifact = fitted(backbone, technique("weights.kv"))
    rounded: Any = tiny()
    rounded.denoiser.to(torch.bfloat16)
    with pytest.raises(CapabilityError, match="is opened in bfloat16, whose rounding is as large"):
        export(artifact, tmp_path / "out", to="diffusers", backbone=rounded, approximate=4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_truncation_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    change[:, 0] = change[:, 1]  # not of full rank
    for rank in (1, 3, 20):
        down, up = truncated(change, rank)
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        torch.testing.assert_close(up @ down, u[:, :rank] * s[:rank] @ v[:rank], atol=1e-5, rtol=0)
        assert down.isfinite().all()
