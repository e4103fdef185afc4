"""Low-rank updates and learned words as files that other tools load: diffusers' and kohya's keys.

Exporters ``diffusers`` (``pytorch_lora_weights.safetensors``, keys as peft's, read by
``load_lora_weights``) and ``kohya`` (``lora.safetensors``, ``lora_unet_...``, for the tools around SD 1.x, 2.x
and XL). Learned words are files of their own, a tensor for each text encoder.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import TokenEdit, WeightEdit
from pcs_core.errors import CapabilityError
from pcs_core.storage.tensor_files import write_tensors
from pcs_formats.alphas import METADATA
from pcs_formats.approximating import Approximation, approximation, can_be_approximated, places
from pcs_formats.layer_names import DENOISERS, text_path
from pcs_formats.lycoris_keys import is_update, lycoris_tensors
from pcs_formats.motion_names import MODULES
from pcs_formats.original_names import original_path
from pcs_formats.usage import README, metadata, readme, usage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit, Recipe, Site

ENCODERS = ("clip_l", "clip_g", "t5xxl")
"""Names of a word's tensors where several encoders read it, as other tools write them."""


def write_diffusers(
    net: Attachment, folder: Path, recipe: Recipe, *context: Any, approximate: int = 0
) -> Mapping[str, Any]:
    """Write the low-rank updates with diffusers' keys; return what was written.

    ``approximate`` is the rank of the updates that stand for what is no such product; 0 refuses it.

    Raises
    ------
    CapabilityError
        The system holds what such files cannot.
    """
    prefix = _denoiser(net, "diffusers")
    tensors: dict[str, Tensor] = {}
    updates, about = _low_rank(net, "diffusers", approximate)
    for site, down, up, scale in updates:
        name = (
            f"{prefix}.{site.name}"
            if site.part == "denoiser"
            else text_path(net.backbone.card.family, site)
        )
        tensors[f"{name}.lora_A.weight"] = down
        tensors[f"{name}.lora_B.weight"] = up * scale  # readers take alpha for the rank
    file = "pytorch_lora_weights.safetensors"
    return _write(net, folder, recipe, tensors, file, peft_ranks(tensors), approximated=about)


def peft_ranks(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return peft's configuration of each network as diffusers' metadata, where ranks of a network differ.

    Without it diffusers before 0.39 takes the most frequent rank for the alpha of all layers, and scales those
    of another rank r by that over r.
    """
    ranks: dict[str, dict[str, int]] = {}
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            network, _, path = name.removesuffix(".lora_A.weight").partition(".")
            ranks.setdefault(network, {})[path] = tensor.shape[0]
    if all(len(set(of_layer.values())) == 1 for of_layer in ranks.values()):
        return {}
    values: dict[str, Any] = {}
    for network, of_layer in ranks.items():
        usual = Counter(of_layer.values()).most_common(1)[0][0]
        others = {f"^{path}": rank for path, rank in of_layer.items() if rank != usual}
        about = {
            "peft_type": "LORA",
            "r": usual,
            "lora_alpha": usual,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(of_layer),
        }
        values |= {f"{network}.{key}": value for key, value in about.items()}
    return {METADATA: json.dumps(values, sort_keys=True)}


def write_kohya(
    net: Attachment, folder: Path, recipe: Recipe, *context: Any, approximate: int = 0
) -> Mapping[str, Any]:
    """Write the low-rank updates with kohya's keys; return what was written. ``approximate`` as for diffusers.

    Raises
    ------
    CapabilityError
        The system holds what such files cannot, or the family has other names there.
    """
    if _denoiser(net, "kohya") != "unet":
        raise CapabilityError(
            f"backbone {net.backbone.card.id!r}: kohya's format stores queries, keys and values of this "
            "family as one matrix: export to diffusers instead"
        )
    backbone: Any = net.backbone
    moving = next((e for e in net.fusion.of(WeightEdit) if MODULES in e.site.name), None)
    if moving is not None and moving.mode != "fit":
        raise CapabilityError(
            f"{moving.owner!r} cannot be written for kohya: its files have no names for motion modules "
            f"({moving.site}): export to diffusers"
        )
    xl = backbone.card.family == "sdxl"
    tensors: dict[str, Tensor] = {}
    ranks = []
    lows, approximated = _low_rank(net, "kohya", approximate, besides=is_update)
    for site, down, up, scale in lows:
        name, alpha = kohya_name(site, backbone), scale * down.shape[0]
        if (
            approximated is not None
        ):  # of ranks that differ; diffusers takes one alpha for all attention
            up, alpha = up * (alpha / approximate), float(approximate)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        ranks.append(down.shape[0])
    updates = [edit for edit in net.fusion.of(WeightEdit) if is_update(edit)]
    for edit in updates:
        name = kohya_name(edit.site, backbone)
        more = {f"{name}.{key}": tensor for key, tensor in lycoris_tensors(edit).items()}
        if more.keys() & tensors.keys():
            raise CapabilityError(
                f"{edit.owner!r}: there are two updates of {edit.site}, of which such a file holds one: "
                "export the artifacts each, and load both files"
            )
        tensors |= more
    about = {
        "ss_network_module": "lycoris.kohya" if updates else "networks.lora",
        "ss_network_dim": str(max(ranks, default=0)),
        "ss_base_model_version": "sdxl_base_v1-0" if xl else "sd_v1",
    }
    return _write(
        net,
        folder,
        recipe,
        tensors,
        "lora.safetensors",
        about,
        approximated=approximated,
        named_by_file=True,
    )


def kohya_name(site: Site, backbone: Any) -> str:
    """Return what kohya's files call a layer."""
    xl = backbone.card.family == "sdxl"
    if site.part == "denoiser":
        path = original_path(site.name, backbone.denoiser) if xl else site.name
        name = f"lora_unet_{path}"
    else:
        encoder, _, path = text_path(backbone.card.family, site).partition(".")
        number = encoder.removeprefix("text_encoder").removeprefix("_") or "1"
        name = f"lora_te{number if xl else ''}_{path}"
    return name.replace(".", "_")


def _denoiser(net: Attachment, to: str) -> str:
    card = net.backbone.card
    if card.family not in DENOISERS:
        raise CapabilityError(
            f"backbone {card.id!r} is of family {card.family!r}: {to} files are of "
            f"{', '.join(DENOISERS)}"
        )
    return DENOISERS[card.family]


def _low_rank(
    net: Attachment,
    to: str,
    rank: int,
    besides: Callable[[WeightEdit], bool] = lambda edit: False,
) -> tuple[list[tuple[Site, Tensor, Tensor, float]], Approximation | None]:
    """Return site, down [r in (k k)], up [out r (1 1)] and scale of each update, and what was approximated.

    What is none is refused, or approximated by one of ``rank``, but edits that are written ``besides``.
    """
    others: list[Edit] = []
    updates: dict[Site, list[tuple[Tensor, Tensor, float]]] = {}
    for edit in net.fusion.edits:
        if isinstance(edit, TokenEdit):
            others += [edit] if edit.stage() != "vocabulary" else []
        elif not isinstance(edit, WeightEdit):
            others.append(edit)
        elif edit.mode == "fit" or besides(edit):  # the former is not there when pictures are drawn
            continue
        elif (product := edit.low_rank()) is None:
            others.append(edit)
        else:
            updates.setdefault(edit.site, []).append(product)
    refuse_others(others, to, rank)
    if others and any(edit.mode != "fit" and besides(edit) for edit in net.fusion.of(WeightEdit)):
        raise CapabilityError(
            f"{others[0].owner!r} cannot be approximated beside updates that {to} files hold as they are: "
            "export to diffusers, which approximates both"
        )
    close = approximation(net, others, rank) if others else None
    if close is not None:
        whole = {
            place for edit in others for place in places(edit)
        }  # with all that others do there
        updates = {s: several for s, several in updates.items() if (s.part, s.name) not in whole}
        for site, (down, up) in close.products.items():
            updates.setdefault(site, []).append((down, up, 1.0))
    rows = []
    for site, several in updates.items():
        down, up, scale = _one(several)
        if len(site.shape) == 4:
            down, up = down.view(down.shape[0], *site.shape[1:]), up[..., None, None]
        rows.append((site, down, up, scale))
    return rows, close


def refuse_others(others: Sequence[Edit], to: str, rank: int) -> None:
    """Refuse edits that are no low-rank updates, unless they are to be approximated and can be.

    Raises
    ------
    CapabilityError
        Names the first one.
    """
    possible = all(can_be_approximated(edit) for edit in others)
    if others and not (rank and possible):
        edit = next((e for e in others if not can_be_approximated(e)), others[0])
        what = edit.stage() if isinstance(edit, TokenEdit) else type(edit).__name__
        mend = " (--approximate RANK writes the nearest update of a rank)" if possible else ""
        raise CapabilityError(
            f"{edit.owner!r} cannot be written for {to}: low-rank updates and learned words can, "
            f"and its {what} is neither{mend}"
        )


def _one(several: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor, float]:
    """Return one update for all those of a layer, of which a file holds one, their ranks side by side."""
    plain = [(down.detach().float().cpu(), up.detach().float().cpu(), s) for down, up, s in several]
    if len(plain) == 1:
        down, up, scale = plain[0]
        return down.contiguous(), up.contiguous(), scale
    downs, ups = [down for down, _, _ in plain], [scale * up for _, up, scale in plain]
    return torch.cat(downs), torch.cat(ups, dim=1), 1.0


def _write(
    net: Attachment,
    folder: Path,
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    file: str,
    about: Mapping[str, str] | None = None,
    *,
    approximated: Approximation | None = None,
    named_by_file: bool = False,
) -> Mapping[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    words: dict[str, dict[str, Tensor]] = {}
    learned: dict[str, str] = {}
    for edit in net.fusion.of(TokenEdit):
        rows: Any = edit.vocabulary()[0].detach().float().cpu().contiguous()  # type: ignore[attr-defined]
        name = free_name(edit.tokens[0], taken=[file, *words])
        if named_by_file and net.backbone.tokenizer.is_entry(name.removesuffix(".safetensors")):
            # such tools would read the learned word wherever a prompt has the usual one
            name = free_name(f"{edit.tokens[0]}-{recipe.id}", taken=[file, *words])
        words[name] = _by_encoder(net, edit.tokens[0], rows)
        learned[name] = edit.tokens[0]
    if not tensors and not words:
        raise CapabilityError(
            f"system {recipe.id!r} holds neither low-rank updates nor learned words"
        )
    if tensors and not any(bool(t.any()) for name, t in tensors.items() if is_up(name)):
        raise CapabilityError(
            f"the updates of {recipe.id!r} are all zero, as before a fit: fit it, and export the artifact "
            "(pcs fit, then pcs export DIR)"
        )
    facts = usage(net, recipe, learned, named_by_file=named_by_file)
    if approximated is not None:
        facts["approximation"] = approximated.facts()
    described = metadata(facts, recipe.id)
    if tensors:
        write_tensors(folder / file, tensors, {**(about or {}), **described})
    for name, parts in words.items():
        write_tensors(folder / name, parts, described)
    lora = [file] if tensors else []
    (folder / README).write_text(readme(facts, recipe.id, lora, learned), encoding="utf-8")
    return {"system": recipe.id, "files": [*lora, *words], "readme": README, **facts}


def is_up(name: str) -> bool:
    """Return whether a tensor of that name is one that starts at zero, in diffusers' or kohya's files.

    Of LyCORIS' forms every tensor counts: which of them starts at zero differs.
    """
    return not name.endswith((".lora_A.weight", ".lora_down.weight", ".alpha"))


def free_name(token: str, taken: Sequence[str]) -> str:
    """Return the name of a learned word's file: none of those ``taken``, on any file system."""
    stem = re.sub(r"[^\w-]+", "", token) or "word"
    known = {name.lower() for name in taken}
    name, number = f"{stem}.safetensors", 2
    while name.lower() in known:
        name, number = f"{stem}_{number}.safetensors", number + 1
    return name


def _by_encoder(net: Attachment, token: str, rows: Tensor) -> dict[str, Tensor]:
    """Return a word's rows [n d] under its token, or each encoder's own columns under the encoder."""
    table: Any = net.backbone.embedding
    widths = list(getattr(table, "clip_widths", ()))
    if not widths:
        return {token: rows}
    rest = rows.shape[1] - sum(widths)
    parts = rows.split([*widths, *([rest] if rest else [])], dim=1)
    names = [*ENCODERS[: len(widths)], *(ENCODERS[-1:] if rest else [])]  # FLUX has no second CLIP
    return {k: v.contiguous() for k, v in zip(names, parts, strict=True)}
