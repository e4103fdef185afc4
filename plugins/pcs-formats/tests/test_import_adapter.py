"""IP-Adapters written by hand in their published layout: we draw what diffusers draws with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from pcs_core import sample
from pcs_core.backbone import Attachment
from pcs_core.data import Concept
from pcs_core.errors import InputError
from pcs_core.storage import load
from pcs_diffusers import vision
from pcs_diffusers.skeletons import vision_tower
from pcs_diffusers.tiny import tiny, tiny_sdxl
from pcs_engine.randomness import generator
from pcs_engine.restoring import restore
from pcs_formats.adapter_export import write_ip_adapter
from pcs_formats.importing import import_file, inspect_file

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
DRAWING: Any = {"steps": 2, "scale": 3.0}


def write(groups: dict[str, dict[str, Any]], file: Path) -> Path:
    if file.suffix == ".bin":
        torch.save(groups, file)
    else:
        flat = {f"{group}.{k}": t for group, parts in groups.items() for k, t in parts.items()}
        save_file(flat, file)
    return file


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The image encoder of SD 1.5's releases: ViT-H/14 with two layers, as users name it."""
    folder = tmp_path_factory.mktemp("tower")
    vision_tower(width=1280, projected=1024).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCS_CLIP_IMAGE_H14", str(folder))
        vision.clip_image_huge.cache_clear()
        yield vision.clip_image_huge()
    vision.clip_image_huge.cache_clear()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the encoder's own size: nothing is resized."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = torch.randint(0, 255, (8, 8, 3), generator=torch.Generator().manual_seed(0))
    whole = pixels.repeat_interleave(28, 0).repeat_interleave(28, 1)
    Image.fromarray(whole.byte().numpy()).save(folder / "dog.png")
    return folder


def drawn_by_diffusers(
    pipe: Any,
    backbone: Any,
    file: Path,
    encoder: Any,
    strength: float,
    prepare: Callable[[Any], None] = lambda unet: None,
    **given: Any,
) -> torch.Tensor:
    """Draw with the pipeline, from our noise."""
    scheduler = backbone.sampler(sampler(backbone), 2).scheduler
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    if encoder is not None:
        pipe.register_modules(
            image_encoder=encoder.model,
            feature_extractor=CLIPImageProcessor(size=encoder.size, crop_size=encoder.size),
        )
    pipe.load_ip_adapter(
        str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None
    )
    pipe.set_ip_adapter_scale(strength)
    prepare(pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *backbone.latent_shape, generator=generator(0, "noise"))
    side = backbone.card.size[0]
    return pipe(
        "a photo of a dog",
        latents=noise,
        num_inference_steps=DRAWING["steps"],
        guidance_scale=DRAWING["scale"],
        height=side,
        width=side,
        output_type="pt",
        **given,
    ).images


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def tiny_of(family: str) -> Any:
    return tiny() if family == "sd" else tiny_sdxl()


def sampler(backbone: Any) -> str:
    return "euler" if backbone.card.family == "sdxl" else "ddim"


@pytest.mark.parametrize("ending", [".bin", pytest.param(".safetensors", marks=pytest.mark.slow)])
def test_an_ip_adapter_plus_draws_as_diffusers_does(
    ending: str,
    released: Any,
    opened: Any,
    release: Path,
    tower: Any,
    picture: Path,
    pipeline_of: Any,
    run_pcs: Any,
    tmp_path: Path,
) -> None:
    backbone = opened("sd")
    file = write(released("plus", backbone.denoiser, 1280), tmp_path / f"plus{ending}")
    adapter, out = tmp_path / "adapter", tmp_path / "dog"
    base = ("--backbone", release)
    assert run_pcs("import", file, "--out", adapter, *base) == 0
    fit = ("fit", adapter / "recipe.toml", picture, "--noun", "dog", "--token", "<fido>")
    assert (
        run_pcs(*fit, "--adapter", adapter, "--out", out, "--no-preview", "--device", "cpu", *base)
        == 0
    )
    artifact = load(out)
    for strength in (1.0, 0.5):
        ours = sample(
            artifact,
            backbone,
            "a photo of a <fido>",
            strengths={"image.scale": strength},
            scheduler="ddim",
            **DRAWING,
        )
        pipe = pipeline_of(backbone)
        theirs = drawn_by_diffusers(
            pipe, backbone, file, tower, strength, ip_adapter_image=Image.open(picture / "dog.png")
        )
        pipe.unload_ip_adapter()
        torch.testing.assert_close(ours, theirs, **CLOSE)
    plain = sample(None, backbone, "a photo of a dog", scheduler="ddim", **DRAWING)
    assert (ours - plain).abs().max() > 1e-2
    if ending == ".bin":  # an export opens the network twice more: the slow one tries it
        return
    assert run_pcs("export", out, "--to", "ip-adapter", "--out", tmp_path / "out", *base) == 0
    flat = write(released("plus", backbone.denoiser, 1280), tmp_path / "flat.safetensors")
    assert same(load_file(tmp_path / "out" / "ip-adapter.safetensors"), load_file(flat))


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("sd", "plain"),
        ("sd", "full"),
        ("sd", "face"),
        ("sd", "face-perceiver"),
        ("sd", "face-perceiver v2"),
        ("sdxl", "plain"),
        ("sdxl", "plus"),
        ("sdxl", "face-perceiver v2"),
    ],
)
def test_every_kind_draws_as_diffusers_does(
    family: str, kind: str, released: Any, pipeline_of: Any, picture: Path, tmp_path: Path
) -> None:
    kind, _, second = kind.partition(" ")
    backbone = tiny_of(family)
    encoder = vision.tiny_image()
    feature = {"plain": encoder.width, "face": 16}.get(kind, encoder.patch_width)
    file = write(
        released(kind, backbone.denoiser, feature), tmp_path / f"faceid-plus{second}_x.safetensors"
    )
    adapter = import_file(file, backbone)
    shown = Image.open(picture / "dog.png").resize((encoder.size, encoder.size))
    pixels = torch.tensor(list(shown.getdata())).view(encoder.size, encoder.size, 3)
    image = pixels.permute(2, 0, 1)[None] / 255
    given: dict[str, Any] = {"ip_adapter_image": shown}
    empty = torch.tensor(vision.MEAN).view(1, 3, 1, 1).expand_as(image)
    pipe, clip = pipeline_of(backbone), None if kind.startswith("face") else encoder
    if kind.startswith("face"):
        vector = torch.randn(1, 16, generator=torch.Generator().manual_seed(8))
        features = {"image": vector}
        pair = torch.stack([torch.zeros_like(vector), vector])
        given = {"ip_adapter_image_embeds": [pair]}
        if kind == "face-perceiver":
            patches = [encoder.patches(pixels) for pixels in (empty, image)]
            features |= {"image.seen": patches[1], "image.empty": patches[0][0]}

            def seen(unet: Any) -> None:
                (layer,) = unet.encoder_hid_proj.image_projection_layers
                layer.clip_embeds = torch.stack(patches)
                layer.shortcut = bool(second)

            given["prepare"] = seen
    elif kind == "plain":
        features = {"image": encoder.pooled(image)}
    else:
        features = {"image": encoder.patches(image), "image.empty": encoder.patches(empty)[0]}
    artifact = replace(
        adapter, features=features, concepts=(Concept("fido", "<fido>", "dog"),), subject="fido"
    )
    drawing = {"scheduler": sampler(backbone), **DRAWING}
    ours = sample(
        artifact, backbone, "a photo of a <fido>", strengths={"image.scale": 0.7}, **drawing
    )
    plain = sample(None, backbone, "a photo of a dog", **drawing)
    theirs = drawn_by_diffusers(pipe, backbone, file, clip, 0.7, **given)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert (ours - plain).abs().max() > 1e-3
    fresh = tiny_of(family)
    with Attachment(fresh, restore(artifact, fresh, 0)[1]) as net:
        (name,) = write_ip_adapter(net, tmp_path / "out", artifact.recipe)["files"]
    assert same(load_file(tmp_path / "out" / name), load_file(file))


def test_what_tells_faceid_plus_v2_is_said(released: Any, tmp_path: Path) -> None:
    backbone: Any = tiny()
    groups = released("face-perceiver", backbone.denoiser, 24)
    for name, shortcut in (("ip-adapter-faceid-plusv2_sd15", True), ("faceid-plus", False)):
        file = write(groups, tmp_path / f"{name}.safetensors")
        adapter = import_file(file, backbone)
        (use,) = (use for use in adapter.recipe.uses if use.name == "attention.imported_adapter")
        assert getattr(use.technique, "shortcut") is shortcut  # noqa: B009
        (loader,) = inspect_file(file, backbone)["loaders"]
        assert loader["matched"] == loader["keys"]
        assert loader["facts"]["image encoder"] == "face.id, clip.image"
        (note,) = loader["notes"]
        assert f"says Plus{'V2' if shortcut else ''}:" in note
    groups["image_proj"]["perceiver_resampler.more.weight"] = torch.ones(2)
    file = write(groups, tmp_path / "more.safetensors")
    with pytest.raises(
        InputError, match=r"perceiver_resampler.more.weight' is no part of .*Plus's"
    ):
        import_file(file, backbone)


def test_no_key_of_an_adapter_goes_unused(released: Any, tmp_path: Path) -> None:
    backbone: Any = tiny()
    groups = released("plain", backbone.denoiser, 24)
    last = max(int(k.split(".")[0]) for k in groups["ip_adapter"])
    groups["ip_adapter"]["99.to_k_ip.weight"] = groups["ip_adapter"].pop(f"{last}.to_k_ip.weight")
    file = write(groups, tmp_path / "x.safetensors")
    with pytest.raises(
        InputError, match=rf"99\.to_k_ip.*no attention.*{last}\.to_k_ip.weight' is missing"
    ):
        import_file(file, backbone)
    (loader,) = inspect_file(file, backbone)["loaders"]
    assert loader["missing"] == [f"ip_adapter.{last}.to_k_ip.weight"]
    assert loader["matched"] == loader["keys"] - 1
    wide = write(released("plain", tiny_sdxl().denoiser, 24), tmp_path / "xl.safetensors")
    with pytest.raises(InputError, match="made for another base|no attention of this network"):
        import_file(wide, backbone)
