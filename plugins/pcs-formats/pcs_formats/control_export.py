"""ControlNets and T2I-Adapters for other tools: a folder as diffusers' ``save_pretrained`` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pcs_core.data import BlockEdit, BranchEdit
from pcs_core.errors import CapabilityError
from pcs_core.storage.tensor_files import write_tensors
from pcs_formats.control_files import write_control
from pcs_formats.picture_control_files import ADAPTER, CELL_SHAPES, CONFIGURATION
from pcs_formats.usage import README, readme, usage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Recipe

FILE = "diffusion_pytorch_model.safetensors"
MAPS = "maps/"
"""How the names of a T2I-Adapter's tensors begin in its edit."""
KINDS = {"full": "full_adapter", "xl": "full_adapter_xl", "light": "light_adapter"}


def write_controlnet(
    net: Attachment, folder: Path, recipe: Recipe, *context: Any
) -> Mapping[str, Any]:
    """Write the control network, or the T2I-Adapter, of an attached system; return what was written.

    Raises
    ------
    CapabilityError
        The system holds none, or more than that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    branches = net.fusion.of(BranchEdit)
    others = [
        edit
        for edit in net.fusion.edits
        if edit.owned() and not isinstance(edit, BranchEdit | BlockEdit)
    ]
    if len(branches) != 1 or others:
        what = f"{others[0].owner!r} is no part of one" if others else "it has no such network"
        raise CapabilityError(
            f"system {recipe.id!r} cannot be written for controlnet: one control network, or one T2I-Adapter, "
            f"is, and {what}"
        )
    (branch,) = branches
    named = {key: tensor.detach().float().cpu() for key, tensor in branch.owned().items()}
    if all(key.startswith(MAPS) for key in named):
        files = write_maps({key.removeprefix(MAPS): t for key, t in named.items()}, folder)
    else:
        files = write_control(branch, folder, "")
    if not files:
        raise CapabilityError(
            f"{branch.owner!r} cannot be written for controlnet: its network is narrower than the denoiser's "
            "first half"
        )
    facts = usage(net, recipe, {}, named_by_file=False)
    (folder / README).write_text(readme(facts, recipe.id, [], {}), encoding="utf-8")
    return {"system": recipe.id, "files": files, "readme": README, **facts}


def write_maps(named: Mapping[str, Tensor], folder: Path) -> list[str]:
    """Write a T2I-Adapter's tensors (``body/0/...``) and its configuration; return the files."""
    tensors = {f"adapter.{key.replace('/', '.')}": tensor for key, tensor in named.items()}
    levels = sorted({key.split(".")[2] for key in tensors if key.startswith(ADAPTER)}, key=int)
    light = "adapter.conv_in.weight" not in tensors
    first = tensors[f"{ADAPTER}0.in_conv.weight" if light else "adapter.conv_in.weight"]
    channels, cell = CELL_SHAPES[first.shape[1]]
    last = "out_conv.weight" if light else "resnets.0.block1.weight"
    widths = [tensors[f"{ADAPTER}{level}.{last}"].shape[0] for level in levels]
    inner = f"{ADAPTER}0.resnets."
    depth = len({key.split(".")[4] for key in tensors if key.startswith(inner)})
    configuration = {
        "_class_name": "T2IAdapter",
        "adapter_type": KINDS["light" if light else "xl" if cell == 16 else "full"],
        "channels": widths[:-1] if light else widths,
        "downscale_factor": cell,
        "in_channels": channels,
        "num_res_blocks": depth,
    }
    write_tensors(folder / FILE, tensors, {"format": "pt"})
    text = json.dumps(configuration, indent=2, sort_keys=True) + "\n"
    (folder / CONFIGURATION).write_text(text, encoding="utf-8")
    return [CONFIGURATION, FILE]
