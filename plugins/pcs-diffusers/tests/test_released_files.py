"""A single file of SD 1.x or SDXL opens without a network and without a folder beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import ftfy
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pcs_core import open_backbone
from pcs_core.errors import InputError
from pcs_diffusers import clip_words, released, skeletons
from pcs_diffusers.clip_words import clip_tokenizer
from pcs_formats.weight_files import original_path

OLD = tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < (0, 39)
reads_texts = pytest.mark.skipif(OLD, reason="this diffusers reads no text encoder from a file")

THIN = {"block_out_channels": [40, 80, 160, 160], "norm_num_groups": 8}
NARROW = {"num_hidden_layers": 2, "intermediate_size": 64}
SMALL_VAE = {"block_out_channels": [8, 16, 32, 32], "norm_num_groups": 8}


def thinned(parts: Any) -> dict[str, dict[str, Any]]:
    """Return a release's configurations with narrow layers: the layout is the release's."""
    thin = {name: dict(config) for name, config in parts.items()}
    levels = len(thin["unet"]["block_out_channels"])
    thin["unet"] |= THIN | {"block_out_channels": THIN["block_out_channels"][:levels]}
    if levels == 3:
        thin["unet"] |= {"transformer_layers_per_block": [1, 1, 2]}
    thin["vae"] |= SMALL_VAE
    for name in thin:
        if name.startswith("text"):
            thin[name] |= NARROW
    return thin


def original_vae(vae: Any) -> dict[str, torch.Tensor]:
    """Return an autoencoder's tensors as the original release names them."""
    rules = [
        (r"(en|de)coder\.mid_block\.resnets\.0", r"\1coder.mid.block_1"),
        (r"(en|de)coder\.mid_block\.resnets\.1", r"\1coder.mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    tensors = {}
    for name, tensor in vae.state_dict().items():
        for pattern, text in rules:
            name = re.sub(pattern, text, name)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            tensor = tensor[:, :, None, None]  # written as convolutions of one pixel
        tensors[f"first_stage_model.{name}"] = tensor
    return tensors


def original_clip_g(text: Any) -> dict[str, torch.Tensor]:
    """Return SDXL's second text encoder as open_clip names its tensors."""
    state, tensors = text.state_dict(), {}
    prefix = "conditioner.embedders.1.model."
    for name, tensor in state.items():
        inner = name.removeprefix("text_model.").removeprefix("encoder.")
        inner = inner.replace("layers.", "transformer.resblocks.")
        inner = inner.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
        inner = inner.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        inner = inner.replace("self_attn.out_proj", "attn.out_proj")
        inner = inner.replace("final_layer_norm", "ln_final")
        if re.search(r"self_attn\.[qkv]_proj", inner):
            if "q_proj" not in inner:
                continue
            whole = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            inner = inner.replace("self_attn.q_proj.", "attn.in_proj_")
            tensor = torch.cat(whole)
        if name == "text_projection.weight":
            inner, tensor = "text_projection", tensor.T.contiguous()
        inner = inner.replace("embeddings.token_embedding", "token_embedding")
        inner = inner.replace("embeddings.position_embedding.weight", "positional_embedding")
        tensors[prefix + inner] = tensor
    return tensors


def networks(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return random networks of these configurations."""
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config(parts["unet"]),
        "vae": AutoencoderKL.from_config(parts["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
    }
    if "text_encoder_2" in parts:
        made["text_encoder_2"] = CLIPTextModelWithProjection(
            CLIPTextConfig(**parts["text_encoder_2"])
        )
    return made


def write(made: dict[str, Any], file: Path, marks: tuple[str, ...] = ()) -> None:
    """Write networks as a single file of the original release."""
    tensors = original_vae(made["vae"])
    for name, tensor in made["unet"].state_dict().items():
        layer, _, kind = name.rpartition(".")
        tensors[f"model.diffusion_model.{original_path(layer, made['unet'])}.{kind}"] = tensor
    several = "text_encoder_2" in made
    prefix = "conditioner.embedders.0.transformer." if several else "cond_stage_model.transformer."
    for name, tensor in made["text_encoder"].state_dict().items():
        tensors[f"{prefix}text_model.{name.removeprefix('text_model.')}"] = tensor
    if several:
        tensors |= original_clip_g(made["text_encoder_2"])
    tensors |= {mark: torch.zeros(1) for mark in marks}
    save_file({k: v.half().clone().contiguous() for k, v in tensors.items()}, file)


def equal(have: Any, want: Any) -> bool:
    mine, other = have.state_dict(), want.state_dict()
    return mine.keys() == other.keys() and all(
        torch.equal(mine[k].half(), other[k].half()) for k in other
    )


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SD1", "SDXL"):
        monkeypatch.setattr(released, name, thinned(getattr(released, name)))


@reads_texts
@pytest.mark.rotated
@pytest.mark.usefixtures("thin")
def test_a_file_of_sd_opens_alone(tmp_path: Path) -> None:
    made = networks(released.SD1)  # type: ignore[arg-type]
    write(made, tmp_path / "model.safetensors")
    opened: Any = open_backbone(tmp_path / "model.safetensors")
    assert opened.card.family == "sd"
    assert opened.card.size == (512, 512)
    assert opened.card.prediction == "epsilon"
    assert equal(opened.denoiser, made["unet"])
    assert equal(opened.vae, made["vae"])
    assert equal(opened.text_encoder, made["text_encoder"])
    assert opened.tokenizer.encode("a dog") == [320, 1929]
    assert opened.vae.config.scaling_factor == 0.18215
    assert opened.scheduler_config["beta_end"] == 0.012
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@reads_texts
@pytest.mark.rotated
@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("marks", [(), ("v_pred",), ("v_pred", "ztsnr")])
def test_a_file_of_sdxl_opens_alone(tmp_path: Path, marks: tuple[str, ...]) -> None:
    made = networks(released.SDXL)  # type: ignore[arg-type]
    write(made, tmp_path / "model.safetensors", marks)
    opened: Any = open_backbone(tmp_path / "model.safetensors")
    assert opened.card.family == "sdxl"
    assert opened.card.size == (1024, 1024)
    assert opened.card.prediction == ("v_prediction" if marks else "epsilon")
    assert opened.scheduler_config.get("rescale_betas_zero_snr", False) == ("ztsnr" in marks)
    assert equal(opened.denoiser, made["unet"])
    first, second = opened.text_encoder.children()
    assert equal(first, made["text_encoder"])
    assert equal(second, made["text_encoder_2"])


@pytest.mark.rotated
@pytest.mark.usefixtures("thin")
def test_a_diffusers_that_reads_no_texts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the installed one does read them, it fails as the older ones do."""
    write(networks(released.SD1), tmp_path / "model.safetensors")  # type: ignore[arg-type]
    if not OLD:

        def fails(*_: object, **__: object) -> None:
            raise AttributeError("'CLIPTextModel' object has no attribute 'text_model'")

        monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", fails)
    with pytest.raises(InputError, match=r"pip install \"diffusers>=0\.39\""):
        open_backbone(tmp_path / "model.safetensors")


@pytest.mark.rotated
@pytest.mark.usefixtures("thin")
def test_an_inpainting_file_is_not_taken_for_the_plain_one(tmp_path: Path) -> None:
    parts = {name: dict(config) for name, config in released.SD1.items()}
    parts["unet"]["in_channels"] = 9
    write(networks(parts), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="a folder 'model' beside it"):
        open_backbone(tmp_path / "model.safetensors")


def test_the_numbers_are_those_of_the_skeletons() -> None:
    """Two lists of one release's numbers, written for different ends, agree where neither is thin."""
    for made, parts in ((skeletons.sd15(), released.SD1), (skeletons.sdxl(), released.SDXL)):
        for part, network in (("unet", made.denoiser), ("vae", made.vae)):
            for key, value in parts[part].items():
                if key in ("_class_name", "norm_num_groups", "sample_size", "force_upcast"):
                    continue
                have = network.config[key]
                if key == "block_out_channels":
                    if part == "unet":
                        assert [c * skeletons.THIN for c in have] == value
                    continue
                assert (list(have) if isinstance(have, tuple) else have) == value, (part, key)


@pytest.mark.rotated
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(
        st.characters(categories=("Ll", "Nd", "Po", "Zs"), max_codepoint=0x24F), max_size=30
    )
)
def test_texts_are_cut_as_open_clip_cuts_them(text: str) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    reference = TOKENIZERS.setdefault("open_clip", SimpleTokenizer())
    ours = TOKENIZERS.setdefault("ours", clip_tokenizer())
    plain = " ".join(text.replace("&", "").split())  # open_clip reads HTML's escapes
    assume(ftfy.fix_text(plain) == plain)  # and takes ligatures apart
    want = reference.encode(plain)
    assert ours(plain, add_special_tokens=False)["input_ids"] == want


TOKENIZERS: dict[str, Any] = {}


def test_the_vocabulary_is_whole() -> None:
    tokenizer = clip_tokenizer("!")
    assert len(tokenizer) == 49408
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        49406,
        49407,
        0,
    )


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_words.importlib.util, "find_spec", lambda name: None)
    clip_words.clip_merges.cache_clear()
    with pytest.raises(InputError, match="pip install open_clip_torch"):
        clip_tokenizer()
    clip_words.clip_merges.cache_clear()
