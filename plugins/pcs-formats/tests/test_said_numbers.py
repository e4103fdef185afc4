"""What a file says of its own strength is used, or said not to be: alphas, ranks, how a training began."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_cli.main import main
from pcs_core import export, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.tiny import tiny
from pcs_engine import open_backbone
from pcs_formats.importing import import_file, inspect_file
from pcs_weights.imported_deltas import delta_of


@pytest.fixture(scope="module")
def network() -> Backbone:
    return open_backbone("tiny")


def lora(
    network: Any, alpha: float | None = None, *, dotted: bool = False, layers: int = 4
) -> dict[str, torch.Tensor]:
    """Tensors of rank 4 on the first layers: kohya's names, or peft's."""
    sites = [s for s in network.sites if s.kind == "linear" and s.part == "denoiser"][:layers]
    rng, tensors = torch.Generator().manual_seed(0), {}
    for site in sites:
        down = torch.randn(4, site.shape[1], generator=rng)
        up = torch.randn(site.shape[0], 4, generator=rng)
        if dotted:
            name = f"base_model.model.{site.name}"
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            continue
        name = f"lora_unet_{site.name.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def peft_file(network: Any, folder: Path, config: Mapping[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(lora(network, dotted=True), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4, **config}))
    return folder / "adapter_model.safetensors"


def facts_of(artifact: Any) -> dict[str, Any]:
    facts: dict[str, Any] = artifact.extra["imported"]
    return facts


@pytest.mark.parametrize(
    ("alpha", "without", "metadata", "source", "note"),
    [
        (2.0, 0, {}, ["its own tensors"], ""),
        (
            2.0,
            1,
            {},
            ["its own tensors (3 layers)", "nowhere: it is the rank (1 layers)"],
            "1 of 4",
        ),
        (0.0, 0, {}, ["its own tensors"], "alpha is 0 of 4 of 4 layers: their updates add nothing"),
        (
            None,
            0,
            {"ss_network_dim": "4", "ss_network_alpha": "1.0"},
            ["nowhere: it is the rank"],
            "says alpha 1.0 for rank 4, and 4 of 4 layers hold none",
        ),
        (
            None,
            0,
            {"ss_network_dim": "4", "ss_network_alpha": "4"},
            ["nowhere: it is the rank"],
            "",
        ),
    ],
)
def test_where_alpha_is_from_is_said(
    network: Any,
    tmp_path: Path,
    alpha: float | None,
    without: int,
    metadata: dict[str, str],
    source: list[str],
    note: str,
) -> None:
    tensors = lora(network, alpha)
    for name in [n for n in tensors if n.endswith("alpha")][:without]:
        del tensors[name]
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    facts = facts_of(import_file(tmp_path / "x.safetensors", network))
    assert sorted(facts["alpha from"]) == sorted(source)
    assert [note in said for said in facts.get("notes", [])] == ([True] if note else [])
    (loader,) = inspect_file(tmp_path / "x.safetensors", network)["loaders"]
    assert loader["notes"] == facts.get("notes", [])


def test_metadata_of_another_network_is_said_and_not_used(network: Any, tmp_path: Path) -> None:
    said = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 1})
    tensors = {
        k.replace("base_model.model.", "unet."): t for k, t in lora(network, dotted=True).items()
    }
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": said})
    artifact = import_file(tmp_path / "x.safetensors", network)
    assert {use.technique.settings()["alpha"] for use in artifact.recipe.uses} == {4.0}
    (note,) = facts_of(artifact)["notes"]
    assert "speaks of none of these layers" in note
    said = said.replace("transformer", "unet")
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": said})
    artifact = import_file(tmp_path / "x.safetensors", network)
    assert {use.technique.settings()["alpha"] for use in artifact.recipe.uses} == {1.0}
    assert "notes" not in facts_of(artifact)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_peft_says_the_strength_of_its_other_types_beside_them(
    network: Any, tmp_path: Path, kind: str
) -> None:
    """alpha / r of the configuration, also where a LoKr's factors have no rank of their own."""
    config = getattr(peft, f"{kind}Config")(r=2, alpha=6, target_modules=["to_q", "to_k"])
    model = peft.get_peft_model(tiny().denoiser, config)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "hada" in name or "lokr" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    model.save_pretrained(tmp_path / "saved")
    artifact = import_file(tmp_path / "saved", network)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert len(layers) > 4
    for name, module in layers.items():
        parts = {
            key.rpartition("/")[2]: tensor
            for key, tensor in artifact.tensors.items()
            if key.split("/")[1] == name
        }
        scale = parts.pop("scale") * parts.pop("strength")
        ours = scale * delta_of(parts, tuple(module.base_layer.weight.shape))
        torch.testing.assert_close(ours, module.get_delta_weight("default"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base's weights as it began"),
        ({"init_lora_weights": "loftq"}, "changed the base's weights as it began"),
        ({"use_dora": True}, "use_dora is true, and the file holds no magnitude"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', and the file holds down, up"),
        ({"lora_alpha": "16"}, "lora_alpha of"),
    ],
)
def test_what_is_not_the_update_that_it_looks_like_is_refused(
    network: Any, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    file = peft_file(network, tmp_path / "saved", config)
    with pytest.raises(InputError, match=r"adapter_config.json: .*\(`pcs inspect") as caught:
        import_file(file, network)
    assert said in str(caught.value)


@pytest.mark.parametrize("start", ["gaussian", "eva", True])
def test_ways_to_begin_that_leave_the_base_alone_are_read(
    network: Any, tmp_path: Path, start: Any
) -> None:
    file = peft_file(network, tmp_path / "saved", {"init_lora_weights": start})
    assert import_file(file, network).tensors


def test_two_adapters_in_one_file_are_named(network: Any, tmp_path: Path) -> None:
    both = {}
    for name in ("default", "second"):
        for key, tensor in lora(network, dotted=True).items():
            both[key.replace(".weight", f".{name}.weight")] = tensor
    save_file(both, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="a file holds one adapter, save them apart"):
        import_file(tmp_path / "x.safetensors", network)


def test_the_command_says_it(
    network: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_file(lora(network, 0.0), tmp_path / "x.safetensors")
    words = ["import", str(tmp_path / "x.safetensors"), "--backbone", "tiny", "--overwrite"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "alpha is 0 of 4 of 4 layers" in capfd.readouterr().err
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["alpha from"] == ["its own tensors"]
    assert "add nothing" in facts["notes"][0]
    assert len(load_file(tmp_path / "out" / "weights.safetensors")) == 8


def test_a_system_before_its_fit_is_no_file(network: Any, tmp_path: Path) -> None:
    recipe = load_recipe("lora-dreambooth", backbone=network)
    for to in ("kohya", "diffusers"):
        with pytest.raises(CapabilityError, match="all zero, as before a fit: fit it"):
            export(recipe, tmp_path / to, to=to, backbone=network)


def test_a_word_that_prompts_have_anyway_is_no_name_of_a_learned_one(
    network: Any, tmp_path: Path
) -> None:
    """Tools that call a learned word by its file would read it in every prompt with the usual word."""
    assert network.tokenizer.is_entry("a")
    width = network.embedding.weight.shape[1]
    save_file({"emb_params": torch.randn(2, width)}, tmp_path / "x.safetensors")
    artifact = import_file(tmp_path / "x.safetensors", network, token="<a>", noun="dog")
    facts = export(artifact, tmp_path / "kohya", to="kohya", backbone=network)
    assert facts["files"] == ["a-imported.safetensors"]
    assert facts["words"] == {"<a>": "a-imported"}
    assert (
        "Write `a-imported` where PCS has `<a>`" in (tmp_path / "kohya" / "README.md").read_text()
    )
    facts = export(artifact, tmp_path / "diffusers", to="diffusers", backbone=network)
    assert facts["words"] == {
        "<a>": "<a>"
    }  # diffusers is given the placeholder when it loads the file
