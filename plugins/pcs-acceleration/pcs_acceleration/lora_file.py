"""A low-rank residual from a file, as few-step distillations come (LCM-LoRA, arXiv:2311.05556)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_acceleration.lora_files import find_file, read_residuals, told_scales
from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, WeightEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_acceleration.lora_files import Residual
    from pcs_core.data import Conditioning, Run


class FileResidual(WeightEdit):
    """y + scale * up(down(x)) on one linear or convolution layer. It holds no tensor that trains."""

    PADDED = {"down": 0, "up": 1}
    FACTORS = ("scale", "down", "up")
    scale: Tensor
    down: Tensor
    up: Tensor

    def __init__(self, residual: Residual, strength: float) -> None:
        super().__init__(residual.site, mode="sample")
        self.register_buffer("scale", torch.tensor(residual.scale * strength), persistent=False)
        self.register_buffer("down", residual.down, persistent=False)
        self.register_buffer("up", residual.up, persistent=False)

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return scale * up(down(x)), in fp32 whatever the network's dtype."""
        low = x.to(self.down.dtype)
        if self.down.dim() == 4:
            stride = -(-x.shape[-1] // y.shape[-1])
            inner = F.conv2d(low, self.down, stride=stride, padding=self.down.shape[-1] // 2)
            return (F.conv2d(inner, self.up) * self.scale).to(y.dtype)
        return (F.linear(F.linear(low, self.down), self.up) * self.scale).to(y.dtype)


class LoraFile(Technique):
    """Add the low-rank residuals of a file while drawing: those that let a network draw in few steps.

    Reads the keys of kohya, diffusers and peft. A subject's own LoRA stays beside it. Steps, scheduler and
    scale belong to such a file: presets hold them together.
    """

    id = "acceleration.lora_file"
    neutral = {"strength": 0.0}
    tiny_unseen = "it adds a file, which its own test writes"

    file: str = ""
    """The safetensors file, or ``owner/name:file`` on the hub; empty adds nothing."""
    strength: Annotated[float, Field(ge=-4.0, le=4.0)] = 1.0
    """Factor of the residuals; 0 is the network without them."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Read the file and put a residual on each layer that it names."""
        if not self.file or not self.strength:
            return None
        sites = [*run.sites("*"), *run.sites("*", part="text")]
        residuals = read_residuals(find_file(self.file), sites)
        run.log(f"{self.file}: {told_scales(residuals)}")
        return Fusion(edits=tuple(FileResidual(r, self.strength) for r in residuals))
