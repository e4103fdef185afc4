"""Low-rank residuals in files: the keys of kohya, of diffusers old and new, and of peft.

All name a layer by its path in the network, joined by dots or underscores, behind a word for the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pcs_acceleration.lora_scales import read_scales
from pcs_core.errors import InputError
from pcs_core.tensor_headers import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_acceleration.lora_scales import Scales
    from pcs_core.data import Site

NETWORKS: Mapping[str, str] = {
    "lora_unet_": "denoiser",
    "lora_te1_": "text",
    "lora_te_": "text",
    "unet.": "denoiser",
    "transformer.": "denoiser",
    "text_encoder.": "text",
    "base_model.model.": "denoiser",
}
"""How a key begins -> the part that it speaks of. Longer beginnings come first where one holds another."""
FACTORS: Mapping[str, tuple[str, ...]] = {
    "down": (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight"),
    "up": (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight"),
    "alpha": (".alpha",),
}


@dataclass(frozen=True, slots=True)
class Residual:
    """scale * up(down(x)) of one layer: ``down`` [r in (k k)], ``up`` [out r (1 1)]."""

    site: Site
    down: Tensor
    up: Tensor
    scale: float
    scale_from: str = ""
    """Where the scale is from: "its alpha", the metadata, or nothing said."""


def find_file(location: str) -> Path:
    """Return the file at ``location``: a path, or ``"owner/name:file"`` on the hub.

    Raises
    ------
    InputError
        There is no such file, it cannot be fetched, or it is no safetensors file.
    """
    path = Path(location).expanduser()
    name, colon, file = location.partition(":")
    if not path.is_file() and colon and name.count("/") == 1:
        try:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, file))
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"LoRA {location!r} could not be fetched from the hub ({reason})"
            ) from error
    if not path.is_file():
        raise InputError(
            f"LoRA {location!r}: there is no such file, nor is it OWNER/NAME:FILE of a hub"
        )
    if path.suffix != ".safetensors":
        raise InputError(f"LoRA {location!r}: only safetensors files are read, never pickle")
    return path


def read_residuals(path: Path, sites: Iterable[Site]) -> list[Residual]:
    """Read the residuals in ``path`` for the layers among ``sites``.

    Raises
    ------
    InputError
        The file is damaged, is no LoRA, or has tensors for no layer of this network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        read_header(path)
        with safe_open(path, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            scales = read_scales(path, opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no safetensors file: {error}") from error
    grouped: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        if (named := split_key(key)) is None:
            strange.append(key)
        else:
            grouped.setdefault(named[0], {})[named[1]] = tensor
    known = {_flat(s.part, s.name): s for s in sites if s.kind in ("linear", "conv")}
    residuals = []
    for layer, parts in sorted(grouped.items()):
        site = known.get(layer) or known.get(layer.replace("text/text_model_", "text/"))
        if site is None or not {"down", "up"} <= parts.keys() or not _fits(site, parts):
            strange.append(layer)
            continue
        down, up = parts["down"].float(), parts["up"].float()
        residuals.append(Residual(site, down, up, *_scale(site, parts, scales)))
    if strange:
        raise InputError(
            f"{path}: {strange[0]!r} and {len(strange) - 1} more are residuals of no layer of this "
            "backbone: is the file made for it?"
        )
    return residuals


def _scale(site: Site, parts: Mapping[str, Tensor], scales: Scales) -> tuple[float, str]:
    """Return the factor of a residual, and where it is from: its own tensor comes first."""
    rank = parts["down"].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"]) / rank, "the file's tensors"
    name = f"text_model.{site.name}" if site.part == "text" else site.name
    said = scales.of(site.part, name, rank)
    return (1.0, "") if said is None else (said, scales.place)


def told_scales(residuals: Iterable[Residual]) -> str:
    """Return a sentence on which alpha was used, and with which factors."""
    by_place: dict[str, list[float]] = {}
    for residual in residuals:
        by_place.setdefault(residual.scale_from, []).append(residual.scale)
    said = []
    for place, factors in by_place.items():
        low, high = min(factors), max(factors)
        span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        what = f"alpha / rank from {place}" if place else "no alpha is said, so alpha / rank"
        said.append(f"{what} is {span} in {len(factors)} layers")
    return "; ".join(said)


def split_key(key: str) -> tuple[str, str] | None:
    """Return the layer ("denoiser/down_blocks_0_...") and "down", "up" or "alpha"; None of another key."""
    for factor, endings in FACTORS.items():
        for ending in endings:
            if key.endswith(ending):
                return _layer(key.removesuffix(ending)), factor
    for old, factor in (("_lora.down.weight", "down"), ("_lora.up.weight", "up")):
        # diffusers' attention processors: "....processor.to_q_lora.down.weight"
        if key.endswith(old):
            path = key.removesuffix(old).replace(".processor.", ".")
            return _layer(path + ".0" if path.endswith(".to_out") else path), factor
    return None


def _layer(path: str) -> str:
    for beginning, part in NETWORKS.items():
        if path.startswith(beginning):
            return _flat(part, path.removeprefix(beginning))
    return _flat("denoiser", path)


def _flat(part: str, path: str) -> str:
    return f"{part}/{path.replace('.', '_')}"


def _fits(site: Site, parts: Mapping[str, Tensor]) -> bool:
    down, up = parts["down"], parts["up"]
    return tuple(down.shape[1:]) == site.shape[1:] and up.shape[:2] == (
        site.shape[0],
        down.shape[0],
    )
