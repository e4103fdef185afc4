"""Light decoders of the TAESD class: diffusers' ``AutoencoderTiny``, whose latents are the backbone's own.

A folder as diffusers writes it (``config.json`` and safetensors), or a hub id. A backbone's folder may
hold one as ``light_decoder``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError, InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_diffusers.family import DiffusersBackbone

FOLDER = "light_decoder"
"""Where a backbone's folder holds its own."""


def open_light_decoder(backbone: DiffusersBackbone, location: str = "") -> LightDecoder:
    """Open the light decoder at ``location`` (a folder or hub id), or the one in the backbone's folder.

    Raises
    ------
    CapabilityError
        None is given, or it is made for other latents.
    InputError
        It does not load.
    """
    bundled = Path(backbone.card.location or ".") / FOLDER
    if location:
        folder = Path(location).expanduser()
        if not folder.is_dir():
            folder = _from_hub(location)
    elif backbone.card.location and bundled.is_dir():
        folder = bundled
    elif getattr(backbone, "light", None) is not None:
        return LightDecoder(_moved(backbone.light, backbone))
    else:
        raise CapabilityError(
            f"backbone {backbone.card.id!r} comes with no light decoder: put one (AutoencoderTiny) into "
            f"its folder as {FOLDER!r}, or name a folder or hub id of one"
        )
    model = _load(folder)
    check(backbone, model, str(folder))
    return LightDecoder(_moved(model, backbone))


class LightDecoder:
    """Latents [n c h w] to images [n 3 h w] in [0, 1]. Latents are scaled as the denoiser has them."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Decode."""
        kind = next(self.model.parameters()).dtype
        images = self.model.decode(latents.to(kind) / self.model.config.scaling_factor).sample
        decoded: Tensor = (images / 2 + 0.5).clamp(0, 1).float()
        return decoded


def check(backbone: DiffusersBackbone, model: Any, name: str) -> None:
    """Refuse a decoder of other latents or pictures.

    Raises
    ------
    CapabilityError
        Its channels or its enlargement are not those of the backbone.
    """
    channels, side = backbone.latent_shape[0], backbone.card.size[0] // backbone.latent_shape[1]
    # every block of the decoder but the last doubles the side
    grows = 2 ** (len(model.config.decoder_block_out_channels) - 1)
    if model.config.latent_channels != channels or grows != side:
        raise CapabilityError(
            f"light decoder {name!r} takes latents of {model.config.latent_channels} channels and "
            f"enlarges {grows} times, backbone {backbone.card.id!r} has {channels} channels and {side} "
            "times: give the one made for it"
        )


def _moved(model: Any, backbone: DiffusersBackbone) -> Any:
    model = model.to(backbone.device)
    # diffusers warns of every cast, also of one that changes nothing
    return model if model.dtype == backbone.dtype else model.to(backbone.dtype)


def _load(folder: Path) -> Any:
    from diffusers import AutoencoderTiny

    from pcs_diffusers.folders import damaged, whole

    try:
        return whole(AutoencoderTiny, folder)
    except PcsError:
        raise
    except Exception as error:  # libraries raise whatever a folder led them to
        reason = str(damaged(folder, error)).partition("does not load: ")[2]
        raise InputError(f"light decoder {str(folder)!r} does not load: {reason}") from error


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise OSError("no such folder")
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors"]))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"light decoder {name!r} is no folder, and could not be fetched from the hub ({reason})"
        ) from error
