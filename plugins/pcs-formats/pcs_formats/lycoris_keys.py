"""Updates that came from LyCORIS' files, under its names again: what ``kohya`` writes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Edit

UPDATE, BIAS = {"scale", "strength"}, {"bias", "strength_bias"}
"""Tensors that tell such an edit, and that of a bias, from others."""
NAMES = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "mid": "lora_mid.weight",
    "magnitude": "dora_scale",
}
"""Tensor -> its ending where LyCORIS calls it otherwise."""
RANKED = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""Tensors whose first number is the rank, the telling ones first."""


def is_update(edit: Edit) -> bool:
    """Return whether LyCORIS has names for what an edit holds."""
    names = set(edit.owned())
    return names >= UPDATE or names == BIAS


def lycoris_tensors(edit: Any) -> dict[str, Tensor]:
    """Return the tensors of one layer's update by their endings in a file, a strength of its own multiplied in.

    Raises
    ------
    CapabilityError
        It has a strength other than 1 that these files have no number for.
    """
    parts = {name: t.detach().float().cpu().contiguous() for name, t in edit.owned().items()}
    if set(parts) == BIAS:
        bias = parts["bias"] * parts["strength_bias"]
        return {"b_norm" if edit.site.kind == "norm" else "diff_b": bias}
    scale, strength = parts.pop("scale"), parts.pop("strength")
    if float(strength) != 1 and not parts.keys().isdisjoint({"magnitude", "oft_blocks"}):
        raise CapabilityError(
            f"{edit.owner!r}: its strength at {edit.site} is {float(strength):g}, and kohya's files have no "
            "number for that of magnitudes or rotations: load the file of the original at that strength"
        )
    scale = scale * strength
    parts |= {name: parts[name] * scale for name in ("diff", "w_norm") if name in parts}
    if "magnitude" in parts:
        shape = [1] * len(edit.site.shape)
        shape[1 if getattr(edit, "decomposed", "") == "columns" else 0] = -1
        parts["magnitude"] = parts["magnitude"].view(shape)
    tensors = {NAMES.get(name, name): tensor for name, tensor in parts.items()}
    rank = next((parts[name].shape[0] for name in RANKED if name in parts), 0)
    if "oft_blocks" in parts:
        tensors["alpha"] = scale
    elif rank or "lokr_w1" in parts:
        tensors["alpha"] = scale * torch.tensor(float(rank or 1))
    return tensors
