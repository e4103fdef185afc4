"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def loaders() -> Mapping[str, str]:
    """Folder layouts this plugin opens."""
    return {
        "gguf": "pcs_diffusers.gguf_file:load",
        "single-file": "pcs_diffusers.single_file:load",
        "stable-diffusion": "pcs_diffusers.stable_diffusion:StableDiffusion.load",
        "stable-diffusion-3": "pcs_diffusers.stable_diffusion_3:StableDiffusion3.load",
        "stable-diffusion-xl": "pcs_diffusers.stable_diffusion_xl:StableDiffusionXL.load",
        "text-to-video": "pcs_diffusers.video:TextToVideo.load",
        "animatediff": "pcs_diffusers.animatediff:AnimateDiff.load",
        "animatediff-parts": "pcs_diffusers.animatediff:AnimateDiffInParts.load",
        "flux": "pcs_diffusers.flux:Flux.load",
        "flux-kontext": "pcs_diffusers.flux:FluxKontext.load",
        "masked-tokens": "pcs_diffusers.masked_tokens:TokenTransformer.load",
    }


@catalogue_hookimpl
def families() -> Mapping[str, str]:
    """What tells the families apart without their weights."""
    return {"diffusers": "pcs_diffusers.recognise:family_of_location"}


@catalogue_hookimpl
def profiles() -> Mapping[str, str]:
    """Numbers that suit a family."""
    return {
        "animatediff": "pcs_diffusers.profiles:ANIMATEDIFF",
        "flux": "pcs_diffusers.profiles:FLUX",
        "flux-kontext": "pcs_diffusers.profiles:KONTEXT",
        "sd": "pcs_diffusers.profiles:SD",
        "sd3": "pcs_diffusers.profiles:SD3",
        "sdxl": "pcs_diffusers.profiles:SDXL",
        "tokens": "pcs_diffusers.profiles:TOKENS",
        "video": "pcs_diffusers.profiles:VIDEO",
    }


@catalogue_hookimpl
def backbones() -> Mapping[str, str]:
    """Config-built random networks on the real classes, for tests and defining checks."""
    return {
        "tiny": "pcs_diffusers.tiny:tiny",
        "tiny-animatediff": "pcs_diffusers.tiny_animatediff:tiny_animatediff",
        "tiny-flux": "pcs_diffusers.tiny_flux:tiny_flux",
        "tiny-kontext": "pcs_diffusers.tiny_flux:tiny_kontext",
        "tiny-schnell": "pcs_diffusers.tiny_flux:tiny_schnell",
        "tiny-sd3": "pcs_diffusers.tiny:tiny_sd3",
        "tiny-sdxl": "pcs_diffusers.tiny:tiny_sdxl",
        "tiny-tokens": "pcs_diffusers.tiny:tiny_tokens",
        "tiny-v": "pcs_diffusers.tiny:tiny_v",
        "tiny-video": "pcs_diffusers.tiny:tiny_video",
    }


@catalogue_hookimpl
def feature_models() -> Mapping[str, str]:
    """Frozen towers of CLIP."""
    return {
        "clip.both": "pcs_diffusers.clip_both:clip_both",
        "clip.image": "pcs_diffusers.vision:clip_image",
        "clip.image.h14": "pcs_diffusers.vision:clip_image_huge",
        "tiny.clip": "pcs_diffusers.clip_both:tiny_clip",
        "tiny.image": "pcs_diffusers.vision:tiny_image",
        "tiny.face": "pcs_diffusers.vision:tiny_face",
    }


@catalogue_hookimpl
def services() -> Mapping[str, str]:
    """What the command asks for by name."""
    return {
        "check_scheduler": "pcs_diffusers.scheduler_check:check_scheduler",
        "open_without_weights": "pcs_diffusers.weightless:open_without_weights",
        "write_motion_folder": "pcs_diffusers.motion_folder:write_motion_folder",
    }
