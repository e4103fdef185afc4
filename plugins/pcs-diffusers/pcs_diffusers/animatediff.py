"""AnimateDiff folders as a backbone: Stable Diffusion with motion modules between its layers.

A motion module (arXiv:2307.04725, section 4.2) is a transformer over time behind each resnet or transformer of
the UNet: two self-attentions that see the frames of one place, with sinusoidal positions. What
`AnimateDiffPipeline` of diffusers saves is one network, ``UNetMotionModel``. A folder may also keep Stable
Diffusion's own UNet, and the motion modules beside it in ``motion_adapter``: reading joins them. Latents are
[b c t h w]; text is told per clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_core.errors import InputError
from pcs_diffusers.checked import read_config
from pcs_diffusers.folders import part_config
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.recognise import MOTION
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.staying import stay, stays
from pcs_diffusers.video import TextToVideo
from pcs_diffusers.weight_files import weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning

SDXL = "motion modules of SDXL are not supported: take those of SD 1.5 (v1, v2 or v3)"
PIA = "it reads a picture beside the noise (PIA), which is not supported"
CONTROL = (
    "its control network would not be used, since this family has none: give the folder without it"
)
OTHERS: Mapping[str, str] = {
    "AnimateDiffSDXLPipeline": SDXL,
    "PIAPipeline": PIA,
    "AnimateDiffSparseControlNetPipeline": CONTROL,
    "AnimateDiffControlNetPipeline": CONTROL,
    "AnimateDiffVideoToVideoControlNetPipeline": CONTROL,
}
"""Pipelines of motion modules that read what this family does not -> why such a folder is refused."""
JOINTS = ("resnets", "attentions", "downsamplers", "upsamplers")
"""Lists of a UNet's block that a joined network takes over as they are."""
ENDS = ("conv_in", "time_proj", "time_embedding", "conv_norm_out", "conv_act", "conv_out")
"""Modules of a UNet outside of its blocks."""
SEEN = ".motion_modules.0.proj_out.weight"
"""Ends of the tensors by which two copies of motion modules are compared: one a block, which trainings move."""


class AnimateDiff(TextToVideo):
    """A frozen Stable Diffusion with motion modules; its sites over time are of kind "temporal".

    ``frames`` of a clip are at most as many as its motion modules have positions: 24 of v1, 32 of v2 and v3.
    """

    family: ClassVar[str] = "animatediff"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {**StableDiffusion.layout.parts, "unet": "diffusers.UNetMotionModel"}
    )
    recomputes: ClassVar[bool] = True

    def misfits(self) -> Iterator[str]:
        """Yield what says that the parts are not of one model, or draw no clips of this length."""
        yield from super().misfits()
        most = self.denoiser.config.motion_max_seq_length
        if self.frames > most:
            yield f"clips have {self.frames} frames, and the motion modules {most} positions"

    def text_for(self, cond: Conditioning, latents: Tensor) -> Tensor:
        """Return the text of each frame [b*t l d]: this UNet does not repeat a clip's itself."""
        return cond.text.repeat_interleave(latents.shape[2], dim=0)

    @classmethod
    def check_config(cls, folder: Path) -> None:
        """Refuse what is no plain AnimateDiff of Stable Diffusion, by what its configurations say.

        Raises
        ------
        InputError
            Names the variant; or the motion modules in ``motion_adapter`` are not those in the UNet.
        """
        index = folder / "model_index.json"
        said = str(read_config(index).get("_class_name")) if index.is_file() else ""
        unet, adapter = part_config(folder / "unet"), part_config(folder / MOTION)
        reason = OTHERS.get(said, "")
        if unet.get("addition_embed_type"):
            reason = SDXL
        elif adapter.get("conv_in_channels") or unet.get("in_channels", 4) > 4:
            reason = PIA
        elif unet.get("encoder_hid_dim_type"):
            reason = (
                "it was saved with an IP-Adapter in it: save it without, and import the adapter"
            )
        if reason:
            raise InputError(f"backbone {str(folder)!r}: {reason}")
        cls.check_motion(folder)

    @classmethod
    def check_motion(cls, folder: Path) -> None:
        """Refuse a folder ``motion_adapter`` whose modules are not those that are in the UNet.

        diffusers saves both, and draws with the UNet's alone: one that was put in its place would do nothing.

        Raises
        ------
        InputError
            They differ.
        """
        if not (folder / MOTION).is_dir():
            return
        beside, inside = (seen_tensors(folder / part) for part in (MOTION, "unet"))
        for name in sorted(beside.keys() & inside.keys()):
            if not torch.equal(beside[name].float(), inside[name].float()):
                raise InputError(
                    f"backbone {str(folder)!r}: the modules in {MOTION!r} are not those in its unet, which "
                    f"alone are drawn with ({name!r} differs): remove {MOTION!r}, or put Stable Diffusion's "
                    "own unet in place of this one"
                )


class AnimateDiffInParts(AnimateDiff):
    """The same, of a folder that keeps Stable Diffusion's UNet and its motion modules apart."""

    layout: ClassVar[FolderLayout] = FolderLayout(
        {**StableDiffusion.layout.parts, MOTION: "diffusers.MotionAdapter"},
        optional=frozenset({MOTION}),  # it is part of the denoiser once they are joined
    )

    @classmethod
    def knows(cls, folder: Path) -> bool:
        """Return whether ``folder`` holds a UNet of pictures, and motion modules beside it."""
        name = cls.layout.class_name("unet")
        return (folder / MOTION).is_dir() and (
            part_config(folder / "unet").get("_class_name") == name
        )

    @classmethod
    def check_motion(cls, folder: Path) -> None:
        """Accept any: there are none in the UNet."""

    @classmethod
    def joined(cls, parts: dict[str, Any]) -> dict[str, Any]:
        """Return the parts with the motion modules put into the UNet.

        Raises
        ------
        ValueError
            They have other blocks than the UNet.
        """
        whole = dict(parts)
        whole["unet"] = join(whole["unet"], whole.pop(MOTION))
        return whole


def join(unet: Any, adapter: Any) -> Any:
    """Return a ``UNetMotionModel`` of the very modules of a UNet of pictures and of a motion adapter.

    Nothing is copied: diffusers' own ``from_unet2d`` makes a second network and loads both into it.

    Raises
    ------
    ValueError
        The adapter has other blocks, or other layers in them, than the UNet.
    """
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        whole: Any = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
    for name in ENDS:
        setattr(whole, name, getattr(unet, name))
    for block, pictures, motion in (
        *zip(whole.down_blocks, unet.down_blocks, adapter.down_blocks, strict=True),
        (whole.mid_block, unet.mid_block, adapter.mid_block),
        *zip(whole.up_blocks, unet.up_blocks, adapter.up_blocks, strict=True),
    ):
        for name in JOINTS:
            if getattr(block, name, None) is not None:
                setattr(block, name, getattr(pictures, name))
        if motion is not None:  # the first release has none in the middle
            block.motion_modules = motion.motion_modules
    return stay(whole) if stays(unet) else whole


def seen_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a part whose names end with :data:`SEEN`; none where it holds no weights."""
    from safetensors import safe_open

    tensors: dict[str, Tensor] = {}
    try:
        files = weight_files(folder, "diffusers").files
        for file in files:
            with safe_open(file, "pt") as opened:
                names = [n for n in opened.keys() if n.endswith(SEEN)]  # noqa: SIM118
                tensors |= {name: opened.get_tensor(name) for name in names}
    except Exception:  # the loader that opens it says what is wrong
        return {}
    return tensors
